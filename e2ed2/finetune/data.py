"""What a user's DATA is, found by looking: a folder, shards, tables, a cache, or a data set of the hub."""

import os
from collections import Counter
from itertools import islice
from pathlib import Path

from e2ed2.data.sources.folder import IMAGE_SUFFIXES, UNREAD_SUFFIXES, visible_files
from e2ed2.data.sources.shards import TAR_SUFFIXES
from e2ed2.models.folders.hub import is_hub_id
from e2ed2.system.errors import UserError

MOST_LOOKED_AT = 100_000  # files of a folder; a larger one is what those are
KINDS = {  # suffix in a folder -> (data.source, what one is called)
    **dict.fromkeys(IMAGE_SUFFIXES + UNREAD_SUFFIXES, ("folder", "image")),
    ".tar": ("webdataset", ".tar shard"),
    ".parquet": ("parquet", ".parquet file"),
}
ENDINGS = {"webdataset": TAR_SUFFIXES, "parquet": (".parquet",)}  # of a file, a pattern or a URL
ARCHIVES = (".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")
ALLOWED = (
    "give a folder of images, .tar shards or .parquet files, such a file, a pattern or URL that ends in .tar or "
    ".parquet, a folder that `e2ed2 precompute` made, or a data set of the hub, org/name"
)


def data_fields(data: str) -> dict[str, str]:
    """The `source` and `path` of a recipe's `data` for a user's DATA, by names alone: no file is opened.

    Raises:
        UserError: nothing there, a folder that is empty or holds more than one kind, or a file of another kind.
    """
    source = _of_folder(data) if os.path.isdir(data) else _of_name(data)
    return {"source": source, "path": data}


def _of_folder(data: str) -> str:
    files = list(islice(visible_files(Path(data)), MOST_LOOKED_AT))
    counts = Counter(KINDS[file.suffix.lower()] for file in files if file.suffix.lower() in KINDS)
    if len(counts) > 1:
        shards = [suffix for suffix in (".tar", ".parquet") if KINDS[suffix] in counts]
        patterns = [f"'{os.path.join(data, '**', '*' + suffix)}'" for suffix in shards]
        found = [f"{count:,} {name}{'' if count == 1 else 's'}" for (_, name), count in counts.most_common()]
        remedy = f"keep one kind in it, or give {' or '.join(patterns)}"
        raise UserError(f"DATA '{data}': a folder that holds {' and '.join(found)}; {remedy}")
    if counts:
        return next(iter(counts))[0]
    if os.path.isfile(os.path.join(data, "cache.json")):
        return "cache"
    if archive := next((file for file in files if file.suffix.lower() in ARCHIVES), None):
        raise UserError(f"DATA '{data}': a folder without images, but with {archive}: unpack it")
    its_files = f"a folder; its files ({len(files):,}) are neither images nor .tar nor .parquet"
    what = its_files if files else "an empty folder"
    raise UserError(f"DATA '{data}': {what}; {ALLOWED}")


def _of_name(data: str) -> str:
    """Of what is no folder: a file, a pattern, a URL or a name."""
    suffix, is_there = Path(data).suffix.lower(), os.path.lexists(data)
    source = next((source for source, endings in ENDINGS.items() if data.lower().endswith(endings)), None)
    if source is not None and (is_there or "://" in data or any(letter in data for letter in "*?[{")):
        return source
    if is_there and suffix in IMAGE_SUFFIXES + UNREAD_SUFFIXES:
        raise UserError(f"DATA '{data}': one image; give the folder that it is in")
    if is_there and suffix in ARCHIVES:
        raise UserError(f"DATA '{data}': an archive: unpack it, and give the folder")
    if is_there:
        raise UserError(f"DATA '{data}': neither a folder nor a .tar or .parquet file; {ALLOWED}")
    if is_hub_id(data) and source is None and suffix not in (*KINDS, *ARCHIVES):
        return "hub"
    what = "a URL of neither .tar nor .parquet files" if "://" in data else "nothing there"
    raise UserError(f"DATA '{data}': {what}; {ALLOWED}")
