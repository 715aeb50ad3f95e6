"""From the runs to `results/attribution.json`."""
from pathlib import Path


def write_pages(results: Path) -> None:
    pass
