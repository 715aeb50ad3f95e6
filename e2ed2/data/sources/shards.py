"""WebDataset shards: tar files in which `cat.jpg`, `cat.txt` and `cat.json` are one item (img2dataset's output).

Read in order, from disk, by HTTP, or by fsspec from S3 and its like: a set of any size needs neither room nor a list.
"""

import math
import os
import re
import tarfile
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any
from urllib.request import urlopen

from e2ed2.data.items import RawItem, SkippedItem
from e2ed2.data.sources.columns import JSON_COLUMN, Columns, parse_fields
from e2ed2.data.sources.folder import as_pattern, split_where_it_ends, visible_files
from e2ed2.data.sources.refusals import in_one_line, unreadable
from e2ed2.data.sources.tables import Shard
from e2ed2.system.errors import UserError
from e2ed2.system.files import ENDLESS, atomic_file, is_endless
from e2ed2.system.readers.text import MAX_BYTES

END_OF_TAR = bytes(1024)
BRACES, MOST_SHARDS = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}"), 100_000
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
HTTP_TIMEOUT = 60.0  # seconds without a byte
RETRY_WAITS = (1.0, 2.0, 4.0)  # seconds before a remote shard is opened again, as long as no new item comes
PLACES = "__places__"
NUM_PROBED = 5  # items of the first shard that has any, whose fields must hold image and caption


def tar_shards(path: str, columns: Columns) -> list[Shard]:
    """The shards of a folder, a pattern (`*`, `{00000..00099}`) or a URL.

    Raises:
        UserError: none there, no access, a local one cut off, no item in any, or a column that the first items lack.
    """
    urls = shard_urls(path)
    names, url = first_fields(urls, path)
    columns.check(names, url)
    return [partial(_read_shard, url, columns) for url in urls]


def shard_urls(path: str) -> list[str]:
    """Every shard of a folder, a pattern or a URL, by name.

    Raises:
        UserError: none there, no access, or a local one cut off.
    """
    urls = _list_urls(path)
    if not urls:
        braces = "; braces are {low..high}, in digits, rising" if "{" in path else ""
        raise UserError(f"data.path '{path}': no .tar shards there; name a folder, a pattern or a URL of some{braces}")
    for url in urls:
        if "://" not in url and is_endless(Path(url)):
            raise UserError(f"data.path: shard {url}: {ENDLESS}: remove it")
        if "://" not in url and url.endswith(".tar"):
            _check_end(Path(url))
    return urls


def first_fields(urls: Iterable[str], path: str) -> tuple[set[str], str]:
    """(The fields of the first items that there are, their shard).

    Raises:
        UserError: one cannot be read, or no item in any.
    """
    urls = list(urls)
    for url in urls:
        with in_one_line(url):
            first = list(islice(samples(url), NUM_PROBED))
        if first:
            return {name for sample in first for name in _field_names(sample)}, url
    raise UserError(f"data.path '{path}': no item in any of {len(urls)} shards; name others")


def _list_urls(path: str) -> list[str]:
    """Every shard, by name."""
    import fsspec

    if os.path.isdir(path):
        return sorted(str(file) for file in visible_files(Path(path)) if file.suffix == ".tar")
    if os.path.isfile(path):
        return [path]
    there, rest = split_where_it_ends(path)
    ranges = [range(int(low), int(high) + 1) for low, high in BRACES.findall(rest)]
    if (count := math.prod(map(len, ranges))) > MOST_SHARDS:
        raise UserError(f"data.path '{path}': braces for {count:,} shards, at most {MOST_SHARDS:,} are read")
    if ranges:
        start, low, _, end = BRACES.split(rest, maxsplit=1)
        return [url for number in ranges[0] for url in _list_urls(f"{there}{start}{number:0{len(low)}}{end}")]
    if "*" not in path and ("://" not in path or _is_http(path) or path.endswith(TAR_SUFFIXES)):
        return [path] if "://" in path else []
    with in_one_line(path):
        system, pattern = fsspec.url_to_fs(as_pattern(path) if "*" in path else path)
        if "*" not in path:
            if not system.isdir(pattern):
                return [path]
            pattern = f"{pattern}/**/*.tar"
        return sorted(system.unstrip_protocol(file) if "://" in path else file for file in system.glob(pattern))


def _check_end(shard: Path) -> None:
    """A tar file ends in zeros; one that does not was cut off."""
    with in_one_line(shard), shard.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(END_OF_TAR)))
        is_whole = file.read() == END_OF_TAR
    if not is_whole:
        raise UserError(
            f"data.path: shard {shard} is cut off or no tar file ({size} bytes): fetch it again or remove it"
        )


def _read_shard(url: str, columns: Columns, first: int) -> Iterator[RawItem | SkippedItem]:
    for sample in _samples_from(url, first):
        if isinstance(sample, SkippedItem):
            yield sample
            continue
        place = f"{url}/{sample['__key__']}"
        try:
            yield columns.item(parsed(sample), sample["__key__"], place)
        except ValueError as error:
            yield SkippedItem(place, str(error))


def _samples_from(url: str, first: int) -> Iterator[dict[str, Any] | SkippedItem]:
    """The samples from number `first` on. A remote shard that breaks off is opened again and goes on with the next one.

    One that breaks off at the same place whenever it is opened ends with a skipped item, which counts as a sample.

    Raises:
        UserError: a local shard cannot be read, or a remote one not even after `RETRY_WAITS`.
    """
    num_failures = 0
    while True:
        count = 0
        try:
            for sample in samples(url):
                count += 1
                if count > first:
                    first, num_failures = count, 0
                    yield sample
            return
        except Exception as error:  # of the network, of fsspec's many backends, of tarfile
            is_remote = "://" in url
            if is_remote and num_failures < len(RETRY_WAITS):
                time.sleep(RETRY_WAITS[num_failures])
                num_failures += 1
                continue
            if not is_remote or not isinstance(error, tarfile.TarError):
                raise unreadable(url, error) from error
            if count == first:  # else it was named before the run was resumed
                yield SkippedItem(url, f"cut off or damaged after {count} items ({error}); fetch it again")
            return


def samples(url: str, unread: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Fields by extension, as bytes, of files that follow each other and share all before the first dot.

    `__key__` is what they share, `__places__` where each begins in the unpacked shard, and its bytes.

    Args:
        unread: extensions whose files are passed over, their fields None; of a local shard that is not packed.
    """
    sample: dict[str, Any] = {}
    with _open(url) as file, tarfile.open(fileobj=file, mode="r:" if unread else "r|*") as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            if not member.isfile() or not stem:
                continue
            key = f"{folder}/{stem}" if folder else stem
            if sample and sample["__key__"] != key:
                yield sample
                sample = {}
            kind, content = extension.lower(), None
            if kind not in unread and member.size <= MAX_BYTES:
                file_of_it = tar.extractfile(member)
                assert file_of_it is not None  # a file
                content = file_of_it.read()
            sample |= {kind: content, "__key__": key}
            sample.setdefault(PLACES, {})[kind] = (member.offset_data, member.size)
        assert tar.fileobj is not None
        if tar.fileobj.tell() < tar.offset + tarfile.BLOCKSIZE:  # no zeros at the end, which tarfile does not mind
            raise tarfile.ReadError("unexpected end of data")
    if sample:
        yield sample


def _open(url: str) -> AbstractContextManager[IO[bytes]]:
    """A file for reading from beginning to end."""
    if "://" not in url:
        return open(url, "rb")
    if _is_http(url):  # fsspec would need another package for it
        return urlopen(url, timeout=HTTP_TIMEOUT)
    import fsspec

    return fsspec.open(url, "rb")


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def parsed(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample with its JSON decoded; ValueError where it cannot be."""
    if sample.get(JSON_COLUMN) is None:
        return sample
    try:
        return {**sample, JSON_COLUMN: parse_fields(sample[JSON_COLUMN])}
    except ValueError as error:
        raise ValueError(f"its JSON cannot be read ({error})") from error


def _field_names(sample: dict[str, Any]) -> list[str]:
    names = [name for name in sample if name not in ("__key__", PLACES)]
    try:
        fields = parsed(sample).get(JSON_COLUMN)
    except ValueError:
        return names
    return names + [f"{JSON_COLUMN}.{name}" for name in fields] if isinstance(fields, dict) else names


def write_tar(path: Path, members: Iterable[tuple[str, bytes | Path]]) -> None:
    """A shard of files by their names, at once or not at all; equal contents make equal shards.

    Raises:
        UserError: the disk is full or refuses.
    """
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        for name, content in members:
            data = content if isinstance(content, bytes) else content.read_bytes()
            member = tarfile.TarInfo(name)  # no times and owners
            member.size = len(data)
            # As TarFile.addfile does it, in half of its time.
            file.write(member.tobuf(tarfile.USTAR_FORMAT))
            file.write(data)
            file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        file.write(END_OF_TAR)
        file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
