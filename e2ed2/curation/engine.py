"""Daft: where work runs. On this machine or on a Ray cluster, the same plan.

A unit of work (a fragment, a part, a shard) is a row of a data frame, and doing it a method of a class that Daft keeps
in as many processes as there are workers. What a unit makes is a file, renamed when it is whole, so that units which
are done are known after a kill, and doing one twice does no harm.

On this machine the first units of a step are done in threads of this process, and the rest in processes where they
would take longer than those need to start.
"""

import atexit
import os
import time
from collections.abc import Callable, Sequence
from threading import Lock, get_ident
from typing import Any

from e2ed2.curation.pipeline import EngineConfig
from e2ed2.system.errors import UserError
from e2ed2.system.watch import Watch

# Before Daft is loaded: it reports its use to its makers, and draws bars of its own.
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

import daft  # noqa: E402
from daft.runners import get_or_infer_runner_type  # noqa: E402

THREADS = 4  # of a worker: decoders let each other run, up to about so many
CORES = os.cpu_count() or 1
START = 3.0  # seconds of threads' work from which on it is worth while to start processes
MOST_LOST = 5  # times that a worker may be lost without a unit being done in between
Task = Callable[[str], None]


class _Worker:
    """Does units. `make` is called where the work is: models are loaded there, once."""

    def __init__(self, make: Callable[[], Task]) -> None:
        self._make = make
        self._task: Task | None = None
        self._lock = Lock()

    @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)
    def do(self, units: daft.Series) -> list[str]:
        """Of each unit what the user has to mend, or nothing."""
        said = []
        for unit in units.to_pylist():
            _AT_WORK.add(get_ident())
            try:
                with self._lock:
                    self._task = self._task or self._make()
                self._task(unit)
                said.append("")
            except UserError as error:
                said.append(str(error))
            finally:
                _AT_WORK.discard(get_ident())
        return said


_AT_WORK = set[int]()  # threads of this process that do a unit


@atexit.register
def _wait_for_threads() -> None:
    """Until they have ended what they had begun: an interpreter that ends meanwhile aborts."""
    while _AT_WORK:
        time.sleep(0.05)


def use_engine(config: EngineConfig) -> None:
    """Choose where Daft works, which a process can do once."""
    if get_or_infer_runner_type() == config.runner:
        return
    if config.runner == "ray":
        daft.set_runner_ray(config.address)
    else:
        daft.set_runner_native()


def num_processes(config: EngineConfig, are_few: bool) -> int:
    """As many as the cores bear; of those that are to be few one for every `THREADS` cores."""
    if config.runner == "native":
        return config.workers or (max(1, CORES // THREADS) if are_few else CORES)
    import ray

    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))  # of the machines that there are by now
    return min(config.workers or cores, cores)


def run_units(
    what: str, units: Sequence[str], is_done: Callable[[str], bool], make: Callable[[], Task], config: EngineConfig,
    watch: Watch, gpus: float = 0, are_few: bool = False,
) -> None:  # fmt: skip
    """Do every unit that is not done, wherever there is a worker.

    A lost worker costs the units that it had begun, which are done again.

    Args:
        gpus: of each worker. are_few: each holds a model, which has threads of its own, or asks hosts, which count
            the connections of all.
    Raises:
        UserError: a unit met what the user has to mend, or what was done is not seen here.
    """
    lost = 0
    is_trial = config.runner == "native" and config.workers is None and not are_few
    processes = 1 if is_trial else num_processes(config, are_few)
    pending = [unit for unit in units if not is_done(unit)]
    while pending:
        now, start = pending[:CORES] if is_trial else pending, time.perf_counter()
        try:
            done = len(units) - len(pending)
            for row in _plan(now, make, config, gpus, min(processes, len(now))).iter_rows():
                if row["said"]:
                    raise UserError(row["said"])
                done += 1
                watch(what, done, len(units))
        except (UserError, KeyboardInterrupt):
            raise
        except Exception:  # of Daft or Ray: a worker died, or our code failed there
            left = [unit for unit in units if not is_done(unit)]
            lost = lost + 1 if len(left) == len(pending) else 0
            if lost >= MOST_LOST or len(pending) == 1 and lost >= 2:
                raise
        else:
            left = [unit for unit in units if not is_done(unit)]
            if len(left) == len(pending):  # and yet all were done
                raise UserError(
                    f"output.path: not seen by all machines ({what} was done, and nothing of it is here); name a "
                    "folder that they share"
                )
        if is_trial and (time.perf_counter() - start) / len(now) * len(left) > START:
            processes = CORES
        pending, is_trial = left, False


def _plan(units: Sequence[str], make: Callable[[], Task], config: EngineConfig, gpus: float, processes: int) -> Any:
    rows = daft.from_pydict({"unit": list(units)})
    options: dict[str, Any] = {"gpus": gpus, "max_concurrency": processes}
    if config.runner == "ray":
        rows = rows.into_partitions(len(units))
    elif processes == 1:
        options = {"use_process": False}  # in threads of this one, which has loaded everything
    worker = daft.cls(_Worker, **options)(make)
    return rows.select(worker.do(daft.col("unit")).alias("said"))
