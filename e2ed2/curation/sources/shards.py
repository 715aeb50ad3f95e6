"""WebDataset shards: a fragment each. An image of a local `.tar` stays where it is; of others it is copied."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2ed2.curation.pipeline import InputConfig
from e2ed2.curation.sources.row import Row, caption_of, domain_of, pick, value_of
from e2ed2.data.sources.columns import IMAGE_COLUMNS, JSON_COLUMN
from e2ed2.data.sources.refusals import in_one_line
from e2ed2.data.sources.shards import PLACES, first_fields, parsed, samples, shard_urls
from e2ed2.system.readers.text import MAX_BYTES


def fragments(asked: InputConfig) -> list[str]:
    """The shards by name; UserError as training raises it."""
    return shard_urls(asked.path)


def columns(asked: InputConfig) -> tuple[list[str], str]:
    """(Fields of the first items, those of their JSON by their own names, the shard)."""
    names, shard = first_fields(fragments(asked), asked.path)
    return [name.removeprefix(f"{JSON_COLUMN}.") for name in names if name != JSON_COLUMN], shard


def rows(fragment: str, asked: InputConfig) -> Iterator[Row]:
    """The items in the shard's order."""
    stays = "://" not in fragment and fragment.endswith(".tar")
    with in_one_line(fragment):
        for sample in samples(fragment, IMAGE_COLUMNS if stays else ()):
            yield _row(sample, fragment, asked, stays)


def _row(sample: dict[str, Any], shard: str, asked: InputConfig, stays: bool) -> Row:
    key, places = sample["__key__"], sample[PLACES]
    row = Row(key, f"{shard}/{key}", domain=Path(shard).name)
    files = {name: value for name, value in sample.items() if name in places}
    try:
        inner = parsed(sample).get(JSON_COLUMN)
    except ValueError as error:
        row.problem = str(error)
        return row
    row.fields = (inner if isinstance(inner, dict) else {}) | files
    row.caption, row.problem = caption_of(value_of(asked.columns, row.fields, "caption"))
    row.domain = domain_of(value_of(asked.columns, row.fields, "url")) or row.domain
    name = pick(asked.columns, row.fields, "image")
    content = row.fields.get(name) if name else None
    offset, size = places.get(name, (0, 0))
    if stays and 0 < size <= MAX_BYTES:
        row.file, row.offset, row.size = shard, offset, size
    elif isinstance(content, bytes) and content:
        row.image = content
    else:
        row.problem = row.problem or "no image"
    return row
