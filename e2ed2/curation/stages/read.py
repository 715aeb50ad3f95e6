"""Fragments of the input to parts; rows that cannot be used, or do not meet the filter, are marked."""

import math
from collections.abc import Iterable
from itertools import islice

from e2ed2.curation.items import ROWS_OF_FRAGMENT, Item, part_name, write_part
from e2ed2.curation.pipeline import Pipeline
from e2ed2.curation.sources.row import Row, value_of
from e2ed2.curation.sources.table import SOURCES
from e2ed2.curation.stages.filter import unmet
from e2ed2.curation.work import Work, write_count
from e2ed2.system.files import atomic_file

NAME = "read"


def read_fragment(pipeline: Pipeline, work: Work, number: int, fragment: str) -> None:
    """Write every part of one fragment, `engine.part_rows` rows each, and then how many there are."""
    rows = enumerate(SOURCES[pipeline.input.source].rows(fragment, pipeline.input), number * ROWS_OF_FRAGMENT)
    parts = 0
    while _read_part(islice(rows, pipeline.engine.part_rows), pipeline, work, part_name(number, parts)):
        parts += 1
    write_count(work.fragment(number), parts)


def _read_part(rows: Iterable[tuple[int, Row]], pipeline: Pipeline, work: Work, part: str) -> int:
    """Write the part of some numbered rows, none of none; returns how many there were.

    Images that have no file of their own go into one as they come: memory holds a single one.
    """
    items, images = [], work.images(part)
    with atomic_file(images) as temporary, temporary.open("wb") as file:
        for number, row in rows:
            items.append(item := _item(row, number, pipeline))
            if row.image and item.kept:
                item.file, item.offset, item.size = str(images), file.tell(), len(row.image)
                file.write(row.image)
    if not images.stat().st_size:
        images.unlink()
    if items:
        write_part(work.part(NAME, part), items)
    return len(items)


def _item(row: Row, number: int, pipeline: Pipeline) -> Item:
    licence, score = (value_of(pipeline.input.columns, row.fields, kind) for kind in ("licence", "score"))
    item = Item(
        number, row.id, row.source, row.file, row.offset, row.size, row.caption, row.caption,
        licence=None if licence is None else str(licence), domain=row.domain,
        score=_finite(score),
    )  # fmt: skip
    if row.problem is not None:
        item.drop(NAME, row.problem)
    elif (condition := unmet(pipeline.filter, row.fields)) is not None:
        item.drop("filter", condition)
    elif not item.caption and pipeline.caption is None:
        item.drop(NAME, "no caption")
    return item


def _finite(value: object) -> float | None:
    """A number; None for what is none, or has no place on a scale."""
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None
