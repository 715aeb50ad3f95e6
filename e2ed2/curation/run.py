"""A pipeline from beginning to end. What an earlier run has done is on disk and not done again."""

import shutil
from collections.abc import Callable
from functools import partial

from e2ed2.curation.audit import Audit
from e2ed2.curation.engine import run_units, use_engine
from e2ed2.curation.items import Item
from e2ed2.curation.manifest import Funnel, write_manifest
from e2ed2.curation.overlap import EvaluationSet
from e2ed2.curation.passes import Rows, deduplicate, deduplicate_meanings, select_best
from e2ed2.curation.pipeline import Pipeline
from e2ed2.curation.report import write_report
from e2ed2.curation.sources.row import check_named
from e2ed2.curation.sources.table import SOURCES
from e2ed2.curation.stages.filter import check_conditions
from e2ed2.curation.stages.models import check_models
from e2ed2.curation.stages.units import doer, reader, writer
from e2ed2.curation.work import Work
from e2ed2.system.errors import UserError
from e2ed2.system.files import locked, sweep
from e2ed2.system.watch import Watch

MODELS = ("score", "caption")  # steps that ask one
ASKS_HOSTS = ("parquet", "hub")  # sources whose rows may be addresses


def curate(pipeline: Pipeline, watch: Watch) -> Funnel:
    """Read, check, choose and write; see `pipeline` for what may be asked. Returns what became of the rows.

    Raises:
        UserError: nothing to read, a column that is not there, another pipeline's folder, no row left, a full disk.
    """
    fragments = _look(pipeline)
    work = Work(pipeline.output.path)
    work.claim(pipeline)
    try:
        with locked(work.out, wait=False):
            sweep(work.out)
            work.keep_fragments(fragments)
            if not work.report.exists():  # which is written last
                _run(pipeline, work, fragments, watch)
            else:
                work.check_report(pipeline)
            shutil.rmtree(work.folder, ignore_errors=True)
            return Funnel.of(work.manifest)
    except BlockingIOError:
        raise UserError(f"output.path {work.out}: another process works in it; wait for it, or end it") from None


def _look(pipeline: Pipeline) -> list[str]:
    """The fragments of the input; what is asked of its columns is checked before any work."""
    source, asked = SOURCES[pipeline.input.source], pipeline.input
    names, where = source.columns(asked)
    check_named(asked.columns, names, where)
    check_conditions(pipeline.filter, names, where)
    if pipeline.score is not None or pipeline.caption is not None:
        check_models(pipeline)
    return source.fragments(asked)


def _run(pipeline: Pipeline, work: Work, fragments: list[str], watch: Watch) -> None:
    sets = [EvaluationSet(name, path) for name, path in pipeline.report.evaluation_sets.items()]
    use_engine(pipeline.engine)
    units = [f"{number} {fragment}" for number, fragment in enumerate(fragments)]
    run_units(
        "read", units, lambda unit: work.fragment(int(unit.partition(" ")[0])).exists(),
        partial(reader, pipeline), pipeline.engine, watch,
    )  # fmt: skip
    parts = work.parts(len(fragments))
    done = ["read"]
    for step in _steps(pipeline):
        if step not in PASSES:
            make = partial(doer, pipeline, step, tuple(done))
            gpus = pipeline.engine.gpus if step in MODELS else 0
            are_few = step in MODELS or pipeline.input.source in ASKS_HOSTS
            run_units(step, parts, partial(_is_done, work, step), make, pipeline.engine, watch, gpus, are_few)
        else:
            PASSES[step](Rows.of(pipeline, parts, done), watch)
        done.append(step)
    shards = work.plan_shards(parts, done, pipeline.output.items_per_shard)
    run_units(
        "write", shards, lambda shard: work.written(shard).exists(), partial(writer, pipeline, tuple(done)),
        pipeline.engine, watch,
    )  # fmt: skip
    audit = Audit()

    def see(items: list[Item]) -> None:
        audit.add(items)
        for one in sets:
            one.add(items)

    write_manifest(work, parts, done, watch, see)
    work.keep(pipeline)  # its report may be another than when the work began
    write_report(work, pipeline, audit, sets)


PASSES: dict[str, Callable[[Rows, Watch], None]] = {
    "deduplicate": deduplicate,
    "similar": deduplicate_meanings,
    "select": select_best,
}


def _is_done(work: Work, step: str, part: str) -> bool:
    return work.part(step, part).exists()


def _steps(pipeline: Pipeline) -> list[str]:
    """Those that this pipeline asks for, in order."""
    asked = {
        "check": True,
        "deduplicate": pipeline.deduplicate is not None,
        "score": pipeline.score is not None,
        "similar": pipeline.deduplicate is not None and pipeline.deduplicate.max_embedding_distance is not None,
        "select": True,
        "caption": pipeline.caption is not None,
    }
    return [step for step, is_asked in asked.items() if is_asked]
