"""Units of work, wherever the engine has them done: a fragment read, a part through a step, a shard written.

A process that the engine starts imports this and what it imports, so that nothing here needs torch: only models do.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from threading import Lock

from e2ed2.curation.items import kept, write_part
from e2ed2.curation.pipeline import Pipeline
from e2ed2.curation.stages.read import read_fragment
from e2ed2.curation.stages.table import part_step
from e2ed2.curation.stages.write import write
from e2ed2.curation.work import Work


def reader(pipeline: Pipeline) -> Callable[[str], None]:
    """Reads fragment `NUMBER NAME`; of local ones one at a time, since threads would wait for the interpreter alone."""
    work, one = Work(pipeline.output.path), Lock()

    def read(unit: str) -> None:
        number, _, fragment = unit.partition(" ")
        with nullcontext() if "://" in fragment else one:
            read_fragment(pipeline, work, int(number), fragment)

    return read


def doer(pipeline: Pipeline, step: str, done: tuple[str, ...]) -> Callable[[str], None]:
    """Takes a part through a step; `done` are those before it."""
    work = Work(pipeline.output.path)
    run = part_step(step, pipeline, work)

    def do(part: str) -> None:
        items = work.items(part, done)
        run(items)
        write_part(work.part(step, part), items)

    return do


def writer(pipeline: Pipeline, done: tuple[str, ...]) -> Callable[[str], None]:
    """Writes a shard, as `Work.plan_shards` tells it, after all steps."""
    work = Work(pipeline.output.path)

    def write_shard(unit: str) -> None:
        shard = json.loads(unit)
        items = [item for part, first, last in shard["slices"] for item in kept(work.items(part, done))[first:last]]
        write(items, work.shards / f"{shard['number']:05d}.tar", shard["first"])
        work.write_lost(unit, [item for item in items if not item.kept])

    return write_shard
