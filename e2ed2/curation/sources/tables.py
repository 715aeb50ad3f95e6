"""Parquet files, of addresses or of images, here or on the hub: a fragment is a row group of one."""

import json
from collections.abc import Iterator
from typing import Any

from e2ed2.curation.pipeline import InputColumns, InputConfig
from e2ed2.curation.sources.row import Row, caption_of, check_named, domain_of, pick, value_of
from e2ed2.data.sources.parquet import opened_parquet
from e2ed2.data.sources.tables import parquet_files
from e2ed2.system.errors import UserError

ROWS_AT_A_TIME = 1024


def fragments(asked: InputConfig) -> list[str]:
    """`[file, row group]` of every file, as JSON; UserError as training raises it."""
    found = []
    for file in parquet_files(asked.path, asked.source, asked.revision):
        with opened_parquet(file) as table:
            found += [json.dumps([file, group]) for group in range(table.num_row_groups)]
    return found


def columns(asked: InputConfig) -> tuple[list[str], str]:
    """(Names of the first file's columns, the file)."""
    file = parquet_files(asked.path, asked.source, asked.revision)[0]
    with opened_parquet(file) as table:
        names = table.schema_arrow.names
    if pick(asked.columns, names, "url") is None and pick(asked.columns, names, "image") is None:
        raise UserError(
            f"input.columns: {file} has no column of addresses or images of a usual name; it has "
            f"{', '.join(sorted(names))}: name one as input.columns.url or input.columns.image"
        )
    return names, file


def rows(fragment: str, asked: InputConfig) -> Iterator[Row]:
    """The rows of one row group, in order."""
    file, group = json.loads(fragment)
    with opened_parquet(file) as table:
        check_named(asked.columns, table.schema_arrow.names, file)
        first = sum(table.metadata.row_group(before).num_rows for before in range(group))
        for batch in table.iter_batches(ROWS_AT_A_TIME, row_groups=[group]):
            for fields in batch.to_pylist():
                yield _row(fields, asked.columns, f"{file}[{first}]")
                first += 1


def _row(fields: dict[str, Any], named: InputColumns, place: str) -> Row:
    own, url = value_of(named, fields, "id"), value_of(named, fields, "url")
    row = Row(place if own is None else str(own), place, fields)
    row.caption, row.problem = caption_of(value_of(named, fields, "caption"))
    image = value_of(named, fields, "image")
    image = image.get("bytes") if isinstance(image, dict) else image  # of Hugging Face datasets
    row.domain = domain_of(url)
    if row.problem is not None:
        return row
    if isinstance(image, bytes) and image:
        row.image = image
    elif isinstance(url, str) and url:
        row.source = url
    else:
        row.problem = "no image and no address"
    return row
