"""What one waits for before anything happens: seconds, each the median of five processes, turn by turn.

    python -m benchmarks.startup [--json] [--out results/benchmarks]

- `import_torch`, `import_e2ed2`: of the package beyond torch. `help`: `e2ed2 --help` from beginning to end.
"""

import subprocess
import sys
from functools import partial
from statistics import median

from benchmarks.published import publish, seconds

ROUNDS, HELP = 5, [sys.executable, "-m", "e2ed2.cli", "--help"]
IMPORTS = "import time as t; a = t.perf_counter(); import torch; b = t.perf_counter(); import e2ed2; " \
    "print(b - a, t.perf_counter() - b)"  # fmt: skip


def measure() -> dict[str, float]:
    rows = []
    for _ in range(ROUNDS + 1):
        said = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout
        helped = seconds(partial(subprocess.run, HELP, capture_output=True, check=True))
        rows.append((*map(float, said.split()), helped))
    names = ("import_torch", "import_e2ed2", "help")
    return {name: median(column) for name, column in zip(names, zip(*rows[1:], strict=True), strict=True)}


if __name__ == "__main__":
    publish("startup", measure)
