"""Quality over training: one recipe at a constant learning rate, measured again and again, as a table and a figure.

    python benchmarks/over_training.py OUT RECIPE [field=value ...]

Measures the start and the model after 50, 100, 200, ... up to `train.max_train_steps` updates, on captions that name a
style and on captions that leave it open, at the steps the recipe trains for. Run again, it goes on.
"""

import sys
from pathlib import Path

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.evaluation.metrics.table import metric_of
from e2ed2.evaluation.results import EVALUATION_FILE, read_result
from e2ed2.recipe.load import load_config
from e2ed2.system.drawing.charts import figure, line_chart
from e2ed2.system.drawing.figures import central, half_width
from e2ed2.system.files import write_file
from e2ed2.training.loop import train

FIRST = 50  # updates; then twice as many each time
NUM_IMAGES = 512
PROTOCOLS = {
    "emoji": ("kernel_distance", "alignment", "recall", "spread", "sharpness"),
    "emoji-anystyle": ("kernel_distance", "alignment", "spread", "sharpness", "style_share/twemoji"),
}


def main() -> None:
    out, recipe, fields = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    fields += [f"run.dir={out / 'run'}", "train.lr_schedule=constant"]
    whole = load_config(recipe, fields)
    updates = [0, FIRST]
    while updates[-1] * 2 <= whole.train.max_train_steps:
        updates.append(updates[-1] * 2)
    for n in updates:
        model = str(whole.model.path)
        if n > 0:
            model = str(train(load_config(recipe, [*fields, f"train.max_train_steps={n}"])))
        for protocol in PROTOCOLS:
            folder, steps = out / protocol / str(n), whole.trajectory.num_inference_steps
            if not (folder / EVALUATION_FILE).exists():
                evaluate(model, protocol, steps=steps, num_images=NUM_IMAGES, out=folder, keep="nothing")
            print(f"{n} updates, {protocol}: done")
        show(out, [m for m in updates if m <= n])


def show(out: Path, updates: list[int]) -> None:
    """`table.md` and a figure for each protocol, of what is measured so far."""
    lines = []
    for protocol, names in PROTOCOLS.items():
        measured = [read_result(out / protocol / str(n))["metrics"] for n in updates]
        lines += [f"| {protocol}: updates | " + " | ".join(metric_of(name).short for name in names) + " |"]
        lines += ["|---" * (len(names) + 1) + "|"]
        for n, metrics in zip(updates, measured, strict=True):
            cells = [f"{central(metrics[name])} {half_width(metrics[name])}" for name in names]
            lines.append(f"| {n} | " + " | ".join(cells) + " |")
        lines.append("")
        charts = []
        for name in names if len(updates) > 1 else ():
            values = [metrics[name]["value"] for metrics in measured]
            chart = line_chart([float(n) for n in updates], values, metric_of(name).meaning, is_noisy=False)
            charts.append((f"{metric_of(name).title} over updates", chart))
        if charts:
            write_file(out / f"{protocol}.svg", figure(charts).encode())
    write_file(out / "table.md", "\n".join(lines).encode())


if __name__ == "__main__":
    main()
