"""Rows that change places: each writer leaves one Arrow file with a batch for every place, and a place is then gathered
from all files. So rows meet, wherever they come from, and memory holds what one writer or one place has.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from e2ed2.system.files import atomic_file


def scatter(rows: pa.RecordBatch, places: NDArray[np.int64], num_places: int, path: Path) -> None:
    """Write rows as one file; UserError where the disk refuses.

    Args:
        places: [N], of each row: 0 to `num_places` - 1.
    """
    order = np.argsort(places, kind="stable")
    ends = np.searchsorted(places[order], np.arange(num_places), side="right").tolist()
    rows = rows.take(pa.array(order))
    with atomic_file(path) as temporary, pa.ipc.new_file(str(temporary), rows.schema) as writer:
        for first, end in zip([0, *ends], ends, strict=False):
            writer.write_batch(rows.slice(first, end - first))


def gather(paths: Iterable[Path], place: int) -> pa.Table:
    """The rows of one place, from all files, which are at least one."""
    batches = []
    for path in paths:
        with pa.OSFile(str(path)) as file:
            batches.append(pa.ipc.open_file(file).get_batch(place))
    return pa.Table.from_batches(batches)
