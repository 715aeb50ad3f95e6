"""What every benchmark of speed does with its figures: a table, one flat JSON object, and both as files."""

import argparse
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from e2ed2.system.drawing.markdown import markdown_table
from e2ed2.system.environment import device_name, environment
from e2ed2.system.files import write_file


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def publish(theme: str, measure: Callable[..., Mapping[str, float]], *needed: str) -> None:
    """Measure and print: a table, or with `--json` an object that also has versions and hardware.

    With `--out DIR` both are written there, as `THEME_HARDWARE_DATE.md` and `.json`.

    Args:
        needed: options that must be given, which `measure` is called with.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{theme}")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    for name in needed:
        parser.add_argument(f"--{name}", required=True)
    asked = parser.parse_args()
    figures = measure(*(getattr(asked, name) for name in needed))
    table = markdown_table(["", theme], [[name, f"{value:.3g}"] for name, value in figures.items()])
    found = json.dumps({"theme": theme, **figures, **environment()}, indent=1)
    print(found if asked.json else table)
    if asked.out:
        hardware = re.sub(r"\W+", "-", device_name()).strip("-")
        stem = asked.out / f"{theme}_{hardware}_{datetime.now(UTC):%Y-%m-%d}"
        write_file(stem.with_suffix(".md"), f"{device_name()}, `python -m benchmarks.{theme}`\n\n{table}\n".encode())
        write_file(stem.with_suffix(".json"), f"{found}\n".encode())
