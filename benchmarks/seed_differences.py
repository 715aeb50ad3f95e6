"""One row of an ablation against others, seed by seed: mean difference and 95% interval over the seeds (Student's t).

    python benchmarks/seed_differences.py results/ablation/table2 recommended start L2 L2+LPIPS

Reads what `e2ed2 ablate` left. The same seed is the same captions and noise for both: what is hard for both cancels.
"""

import json
import sys
from pathlib import Path

from e2ed2.ablation.suite import folder_name
from e2ed2.ablation.table import over_seeds
from e2ed2.evaluation.results import EVALUATION_FILE

METRICS = ("kernel_distance", "recall", "coverage", "sharpness")


def values(folder: Path, steps: int, metric: str) -> dict[str, float]:
    """seed's folder -> figure."""
    paths = sorted(folder.glob(f"seed-*/evaluation-{steps}/{EVALUATION_FILE}"))
    return {p.parts[-3]: json.loads(p.read_text())["metrics"][metric]["value"] for p in paths}


def main() -> None:
    out, row, others = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    evaluations = (out / folder_name(row)).glob("seed-*/evaluation-*")
    steps = sorted({int(path.name.partition("-")[2]) for path in evaluations}, reverse=True)
    print(f"| {row} less | NFE | {' | '.join(METRICS)} |\n|---|---|{'---|' * len(METRICS)}")
    for other in others:
        for count in steps:
            cells = []
            for metric in METRICS:
                ours, theirs = (values(out / folder_name(name), count, metric) for name in (row, other))
                shared = [{"value": ours[seed] - theirs[seed]} for seed in ours.keys() & theirs.keys()]
                if len(shared) < 2:
                    raise SystemExit(f"{row} and {other} share {len(shared)} seeds at {count} steps; give 2 or more")
                whole = over_seeds(shared)
                cells.append(f"{whole['value']:+.3f} ±{whole['high'] - whole['value']:.3f}")
            print(f"| {other} | {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
