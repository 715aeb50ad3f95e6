"""Is this project right and fast on this machine's accelerator? A few minutes, one JSON and one Markdown file.

    python -m benchmarks.gpu [--seconds 240] [--out DIR] [--tiny] [--recipes] [--json]

Needs torch, the extra `train` and the bundled weights: no network, text encoder or data set. What matters most comes
first; the files are written anew after every row, and a row that fails, finds no memory or has no time left says so.
"""

import argparse
import json
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import checks, recipes, settings, speed
from benchmarks.gpu.report import Report, markdown
from e2ed2.system.console import quiet_libraries
from e2ed2.system.environment import device_name, environment
from e2ed2.system.errors import said
from e2ed2.system.files import write_file

RESULTS = Path(__file__).parents[2] / "results" / "gpu"
SECONDS, TINY_SECONDS = 240.0, 48.0
SETUP, COMPILING = 4.0, 45.0  # seconds that a row needs beside its rounds, on a GPU
SHARE = 0.3  # of the matrix rate, from which a row's time is foretold
FAILED, NO_MEMORY, NO_TIME = "failed", "out of memory", "no time left"


class OutOfTime(BaseException):
    """No error: nothing may take it for one and go on."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, help=f"for all of it (default {SECONDS:.0f}, tiny {TINY_SECONDS:.0f})")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the two files are written")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, each kind of row once: tries the benchmark")
    parser.add_argument("--recipes", action="store_true", help="the recipes for one 24 GB card, and nothing else")
    parser.add_argument("--json", action="store_true", help="print the JSON")
    options = parser.parse_args(arguments)
    quiet_libraries()
    if options.tiny:
        torch.set_num_threads(1)  # more would wait for each other in such small work
    began = time.monotonic()
    deadline = began + (options.seconds or (TINY_SECONDS if options.tiny else SECONDS))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = _begin(options, device)
    if options.recipes:
        for name in recipes.RECIPES:
            row = _measured(lambda name=name: recipes.of_recipe(name, device), deadline)
            speed.free()
            report["recipes"].append({"recipe": name, **row})
            _say(f"{name}: {row['status']}", began)
            _write(report, options.out)
    for check in () if options.recipes else checks.all_checks():
        row = _measured(lambda check=check: {"value": check.measure(device)}, deadline)
        row["passed"] = row.get("value", math.inf) <= check.allowed  # nan is not
        report["checks"].append({"name": check.name, "allowed": check.allowed, **row})
        _say(f"{check.name}: {row['status']}", began)
        _write(report, options.out)
    for setting in () if options.recipes else settings.tiny() if options.tiny else settings.ordered():
        left = deadline - time.monotonic()
        if left < 1 or (not options.tiny and left < _expected(setting, report["matrix_rate"])):
            row = {"status": f"{NO_TIME} ({max(left, 0):.0f} s)"}
        else:
            measure = speed.training if setting.trained else speed.sampling
            row = _measured(
                lambda measure=measure, setting=setting: measure(setting, options.tiny, device, report["matrix_rate"]),
                deadline,
            )
            speed.free()
        report["rows"].append({**asdict(setting), **row})
        _say(f"{setting}: {row['status']}", began)
        _write(report, options.out)
    report["state"] = "Complete"
    _write(report, options.out)
    print(json.dumps(report, indent=1) if options.json else markdown(report))
    wrong = [check for check in report["checks"] if not check["passed"]]
    wrong += [row for row in report["recipes"] if row["status"].startswith(FAILED)]
    wrong += [row for row in report["rows"] if row["status"].startswith(FAILED) and not row["is_compiled"]]
    return 1 if wrong else 0  # a machine without a compiler is no fault


def _say(line: str, began: float) -> None:
    print(f"{time.monotonic() - began:5.0f} s  {line}", file=sys.stderr, flush=True)


def _begin(options: argparse.Namespace, device: torch.device) -> Report:
    flags = "".join(f" --{name}" for name in ("tiny", "recipes", "json") if getattr(options, name))
    return {
        "device": device_name(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"python -m benchmarks.gpu{flags}",
        "environment": environment(),
        "state": "Cut short",
        "matrix_rate": speed.matrix_rate(device, 8192 if device.type == "cuda" else 512),
        "checks": [],
        "rows": [],
        "recipes": [],
    }


def _measured(measure: Callable[[], dict[str, Any]], deadline: float) -> dict[str, Any]:
    """What was measured with its status, or why nothing was."""
    try:
        with _until(deadline):
            return {"status": "done", **measure()}
    except torch.OutOfMemoryError as error:
        return {"status": f"{NO_MEMORY} ({said(error)[:100]})"}
    except OutOfTime:
        return {"status": f"{NO_TIME} (cut short)"}
    except Exception as error:  # any fault is a row
        return {"status": f"{FAILED}: {type(error).__name__}: {said(error)}"}


@contextmanager
def _until(deadline: float) -> Iterator[None]:
    """Raise OutOfTime inside at `deadline`."""

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _expected(setting: settings.Setting, matrix_rate: float) -> float:
    """Seconds that a row will take: an update, the chain and its references, each once more than the rounds."""
    trained = setting.trained or "lora"  # sampling costs less than either
    flops = setting.num_steps * speed.pass_flops(setting.network, setting.side, trained, False)
    works = 4 * (speed.ROUNDS + 1)
    seconds = works * setting.batch_size * flops / (SHARE * matrix_rate)
    return seconds + SETUP + COMPILING * setting.is_compiled


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", report["device"]).strip("-") + f"_{report['date']}"
    write_file(folder / f"{name}.json", json.dumps(report, indent=1).encode())
    write_file(folder / f"{name}.md", markdown(report).encode())


if __name__ == "__main__":
    sys.exit(main())
