"""The sources by their names."""

from types import ModuleType

from e2ed2.curation.sources import folder, shards, tables

# Each has `fragments(asked)`, `columns(asked)` and `rows(fragment, asked)`.
SOURCES: dict[str, ModuleType] = {"folder": folder, "webdataset": shards, "parquet": tables, "hub": tables}
