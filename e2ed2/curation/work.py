"""The folder that a pipeline writes to, and what lies where in it until all is done."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from e2ed2.curation.items import SCHEMA, Item, items_of, part_name, with_fates
from e2ed2.curation.pipeline import Pipeline
from e2ed2.system.errors import UserError
from e2ed2.system.files import write_file
from e2ed2.system.readers.json_file import read_json
from e2ed2.system.readers.yaml_file import read_yaml

BINDING = "part_rows"  # of the engine, whose other fields may change between two runs of one folder, as the report's

NUM_REASONS = 3  # in a message


class Work:
    """Paths under an output folder.

    A step writes `work/STEP/PART.parquet`, or, where it looks at all parts, `work/STEP/dropped/PART.parquet`. The rows
    of a part are in the last step that wrote it, less what was dropped since.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out.absolute(), out.absolute() / "work"
        self.shards, self.manifest = self.out / "shards", self.out / "manifest.parquet"
        self.report = self.out / "report.html"

    def step(self, name: str) -> Path:
        return self.folder / name

    def part(self, step: str, part: str) -> Path:
        return self.step(step) / f"{part}.parquet"

    def losses(self, step: str, part: str) -> Path:
        """`number`, `stage`, `reason` of what a step that looked at all parts dropped of one."""
        return self.step(step) / "dropped" / f"{part}.parquet"

    def exchanged(self, step: str, name: str) -> Path:
        """Rows on their way to other places."""
        return self.step(step) / f"{name}.arrow"

    def images(self, part: str) -> Path:
        """Images that were downloaded or copied, one after another."""
        return self.step("images") / part

    def fragment(self, number: int) -> Path:
        """Tells how many parts a fragment has, once all are written."""
        return self.step("read") / f"{number:06d}.json"

    def keep_fragments(self, fragments: Sequence[str]) -> None:
        """Remember in `input.json` what the input is made of, by whose numbers is known what is done.

        Raises:
            UserError: it was made of something else when this folder's work began.
        """
        path = self.out / "input.json"
        if not path.exists():
            write_file(path, json.dumps([*fragments]).encode())
            return
        before = read_json(path, "input", "remove the folder")
        for number, (one, other) in enumerate(zip_longest(before, fragments)):
            if one != other:
                raise UserError(
                    f"output.path {self.out}: begun with another input, whose part {number} was {one or 'none'} and is "
                    f"{other or 'none'} now; put the input back, or remove the folder"
                )

    def parts(self, num_fragments: int) -> list[str]:
        """Every part in the input's order, when all fragments have been read."""
        counts = [read_json(self.fragment(n), "work", "remove the folder") for n in range(num_fragments)]
        return [part_name(n, part) for n, count in enumerate(counts) for part in range(count)]

    def rows(self, part: str, steps: Sequence[str]) -> pa.Table:
        """A part after the steps done so far: from the last that wrote it, less what later ones dropped."""
        path, later = self._written(part, steps)
        rows = pq.read_table(path, schema=SCHEMA)
        for step in later:
            rows = with_fates(rows, self._dropped(step, part))
        return rows

    def items(self, part: str, steps: Sequence[str]) -> list[Item]:
        """The same, row by row."""
        return items_of(self.rows(part, steps))

    def live(self, part: str, steps: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """`number` and some columns of the rows of a part that are kept so far."""
        path, later = self._written(part, steps)
        rows = pq.read_table(path, columns=["number", "stage", *columns]).filter(pc.field("stage").is_null())
        for step in later:
            rows = rows.filter(~pc.field("number").isin([*self._dropped(step, part)]))
        return rows.drop_columns("stage")

    def num_live(self, parts: Sequence[str], steps: Sequence[str]) -> list[int]:
        """Rows of each part that are kept so far.

        Raises:
            UserError: none is; says why the last ones went.
        """
        if any(counts := [len(self.live(part, steps, [])) for part in parts]):
            return counts
        gone: Counter[tuple[str, str]] = Counter()
        for part in parts:
            rows = pq.read_table(self._written(part, steps)[0], columns=["stage", "reason"])
            gone.update(zip(*rows.to_pydict().values(), strict=True))
        most = sorted(gone.items(), key=lambda each: (-each[1], each[0]))[:NUM_REASONS]
        said = ", ".join(f"{times:,} x {reason}" for (_, reason), times in most)
        raise UserError(f"no row is left after the stage {steps[-1]}: {said}; ask less of them in the pipeline")

    def _written(self, part: str, steps: Sequence[str]) -> tuple[Path, Sequence[str]]:
        """The file of the last step that wrote a part, and the steps since."""
        last = max(place for place, step in enumerate(steps) if self.part(step, part).exists())
        return self.part(steps[last], part), steps[last + 1 :]

    def _dropped(self, step: str, part: str) -> dict[int, tuple[str, str]]:
        """number -> (stage, reason)."""
        path, columns = self.losses(step, part), ["number", "stage", "reason"]
        rows = pq.read_table(path, columns=columns).to_pylist() if path.exists() else []
        return {row["number"]: (row["stage"], row["reason"]) for row in rows}

    def plan_shards(self, parts: Sequence[str], steps: Sequence[str], items_per_shard: int) -> list[str]:
        """Every shard as JSON: its `number`, that of its `first` item, and `slices` of the rows kept after all steps.

        A slice is (part, first, last + 1).
        """
        shards: list[dict[str, Any]] = []
        count = 0
        for part in parts:
            left = len(self.live(part, steps, []))
            start = 0
            while start < left:
                number, filled = divmod(count, items_per_shard)
                if not filled:
                    shards.append({"number": number, "first": count, "slices": []})
                end = min(left, start + items_per_shard - filled)
                shards[-1]["slices"].append((part, start, end))
                count, start = count + end - start, end
        return [json.dumps(shard) for shard in shards]

    def written(self, shard: str) -> Path:
        """Tells what a shard lost, once it is written."""
        return self.step("write") / f"{json.loads(shard)['number']:05d}.json"

    def write_lost(self, shard: str, items: Sequence[Item]) -> None:
        """Say that a shard is written, but for these items."""
        lost = [[item.number, item.stage, item.reason] for item in items]
        write_file(self.written(shard), json.dumps(lost).encode())

    def lost(self) -> dict[int, tuple[str, str]]:
        """number -> (stage, reason) of what was lost while shards were written."""
        files = sorted(self.step("write").glob("*.json"))
        rows = [row for file in files for row in json.loads(file.read_text())]
        return {number: (stage, reason) for number, stage, reason in rows}

    def claim(self, pipeline: Pipeline) -> None:
        """Make the folder this pipeline's.

        Raises:
            UserError: it is another's, or holds files that are not ours.
        """
        path = self.out / "pipeline.yaml"
        if path.exists():
            values = _values(pipeline)
            differing = _differing(read_yaml(path, "pipeline", "recipes/curation/"), values)
            if differing:
                raise UserError(
                    f"output.path {self.out}: another pipeline's, whose {differing} differs; name another folder, or "
                    "remove that one"
                )
            return
        if self.out.exists() and any(self.out.iterdir()):
            raise UserError(f"output.path {self.out}: holds files that are no pipeline's; name an empty or new folder")
        self.keep(pipeline)

    def keep(self, pipeline: Pipeline) -> None:
        """Write `pipeline.yaml`."""
        content = yaml.safe_dump(_values(pipeline), sort_keys=False, allow_unicode=True)
        write_file(self.out / "pipeline.yaml", content.encode())

    def check_report(self, pipeline: Pipeline) -> None:
        """Raise UserError where the report, which is there, is not the one that is asked for."""
        before = read_yaml(self.out / "pipeline.yaml", "pipeline", "recipes/curation/")
        if isinstance(before, dict) and before.get("report") != _values(pipeline)["report"]:
            raise UserError(
                f"output.path {self.out}: done, and its report.html is of other report.evaluation_sets; name another "
                "folder for these, or leave them as they were"
            )


def _values(pipeline: Pipeline) -> dict[str, Any]:
    return pipeline.model_dump(mode="json", exclude={"output": {"path"}})


def _differing(before: Any, now: dict[str, Any]) -> str:
    """The first section that is not the same."""
    for name in now:
        one, other = (values.get(name) if isinstance(values, dict) else None for values in (before, now))
        if name == "engine":
            one, other = (value.get(BINDING) if isinstance(value, dict) else None for value in (one, other))
        if name != "report" and one != other:
            return name
    return ""


def write_count(path: Path, count: int) -> None:
    write_file(path, json.dumps(count).encode())
