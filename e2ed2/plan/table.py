"""What `e2ed2 plan` prints: where the memory goes, a row for each card, and last what to type."""

from collections.abc import Sequence
from pathlib import Path

from e2ed2.plan.plan import REACHED, Planned
from e2ed2.system.drawing.figures import duration, figure
from e2ed2.system.drawing.markdown import markdown_table

HEADS = ["GPU", "number", "memory, GiB", "fits", "an update", "whole run", "cost, $", "setting"]


def text(planned: Sequence[Planned], recipe: Path) -> str:
    """Markdown, and the cheapest setting that fits."""
    rows = [
        [
            row.gpu, str(row.num_gpus), f"{row.peak_memory_bytes / 2**30:.1f}", "yes" if row.fits else "no",
            *_times(row), " ".join(row.overrides) or "as it is",
        ]
        for row in planned
    ]  # fmt: skip
    fitting = [row for row in planned if row.fits]
    told = [markdown_table(HEADS, rows)]
    if not fitting:
        return "\n".join([*told, "None of these cards holds it; train an adapter: trajectory.parameters=lora\n"])
    best = min(fitting, key=lambda row: (row.cost, row.hours))
    parts = [[name, f"{count / 2**30:.2f}"] for name, count in best.needs.parts.items() if count]
    what = f"The cheapest: {best.num_gpus} x {best.gpu}, {duration(best.hours * 3600)}, ${best.cost:,.2f}"
    return "\n".join([
        *told, f"{what}. Of its memory:\n", markdown_table(["part", "GiB"], parts),
        f"    {' '.join(['e2ed2 train', str(recipe), *best.overrides])}\n",
        f"Times are counted arithmetic at {REACHED:.0%} of a card's rate, and nothing for the network between cards; "
        "`python -m benchmarks.gpu` measures a card's own share. More cards see more images an update.\n",
    ])  # fmt: skip


def _times(row: Planned) -> list[str]:
    if not row.fits:
        return ["-", "-", "-"]
    return [f"{figure(row.seconds_per_update)} s", duration(row.hours * 3600), f"{row.cost:,.2f}"]
