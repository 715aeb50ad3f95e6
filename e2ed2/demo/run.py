"""`e2ed2 demo`: the paper's claim on a laptop. Measure a 4-step model, train it end to end, measure it again.

What is there already (checkpoints, samples) is used again, so that an interrupted demo goes on where it stopped. A
finished one only measures again, on the same samples.
"""

import json
from pathlib import Path
from typing import Any

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from e2ed2.demo.page import NUM_PROMPTS, compared
from e2ed2.evaluation.protocols import read_protocol
from e2ed2.evaluation.results import evaluation_markdown, read_result
from e2ed2.models.folders import bundled
from e2ed2.models.folders.card import add_measured
from e2ed2.provenance.label import metadata_label
from e2ed2.recipe.load import load_config, refuse_run_dir
from e2ed2.recipe.shipped import shipped_recipes
from e2ed2.reports.comparisons import measured_row
from e2ed2.reports.run_page import write_report
from e2ed2.sampling.folder import save_images
from e2ed2.system.files import write_file
from e2ed2.system.watch import Watch, silent
from e2ed2.training.loop import Say, Tick, train

PROTOCOL = "emoji"
NFE = 4  # of the row before and the row after
ROWS = [("teacher", 50), ("lcm", 4), ("lcm", 2), ("lcm", 1), ("demo", 4), ("e2ed2", 4), ("e2ed2", 2), ("e2ed2", 1)]
SHIPPED = {"teacher": "emoji-base", "lcm": "emoji-lcm", "e2ed2": "emoji-e2ed2"}


def run_demo(
    out: Path,
    overrides: list[str],
    *,
    num_images: int = 512,
    full: bool = False,
    say: Say = print,
    watch: Watch = silent,
    tick: Tick = lambda step, steps, row: None,
) -> list[dict[str, Any]]:
    """Fine-tune the bundled LCM model by `recipes/demo.yaml` and report on it.

    Args:
        out: the run folder; `model/`, `metrics.json` and `report.html` appear in it.
        overrides: `field.path=value` changes to the recipe.
        num_images: of each evaluation made here.
        full: measure here what otherwise comes from the shipped models' own evaluations.
    Returns:
        The rows of `metrics.json`: evaluations with `measured` (`here` or `shipped`) and their `command`.
    Raises:
        UserError: something the user can mend. KeyboardInterrupt: what was done is saved.
    """
    refuse_run_dir(overrides)
    config = load_config(shipped_recipes()["demo"], [f"run.dir={json.dumps(str(out))}", *overrides])

    def measure(name: str, model: str, steps: int | None, folder: str) -> dict[str, Any]:
        kept, label = out / "evaluation" / folder, metadata_label()
        return measured_row(
            name, model, PROTOCOL, steps=steps, num_images=num_images, out=kept, watch=watch, label=label
        )

    start, updates = str(config.model.path), config.train.max_train_steps
    say(f"1/3 the model as it is: {start} at {NFE} NFE, {num_images} images")
    rows = {("lcm", NFE): measure("lcm", start, NFE, "before")}
    say(f"2/3 training its {NFE} steps end to end, {updates} updates; pictures meanwhile in {out / 'samples'}")
    watch("preparing the training", 0, 0)
    model = train(config, say, tick, watch, write_report)
    say("3/3 the trained model, from the same prompts and noise")
    rows["demo", NFE] = measure("demo", str(model), NFE, "after")
    add_measured(model, evaluation_markdown(rows["demo", NFE]))
    for label, nfe in ROWS:
        if (label, nfe) not in rows and full:
            steps = None if label == "teacher" else nfe
            rows[label, nfe] = measure(label, SHIPPED[label], steps, f"{label}-{nfe}")
        elif (label, nfe) not in rows and (row := shipped(SHIPPED[label], nfe)):
            rows[label, nfe] = {**row, "model": label}
    return _reported(out, [rows[key] for key in ROWS if key in rows], num_images)


def _reported(out: Path, table: list[dict[str, Any]], num_images: int) -> list[dict[str, Any]]:
    """Write `metrics.json`, what else the report shows, and the report."""
    asked = read_protocol(PROTOCOL).load(PROTOCOL, num_images, None, silent)
    real = asked.floors["real"]()
    save_images(out / "evaluation" / "real", "real", real.images[:NUM_PROMPTS], real.asked.prompts[:NUM_PROMPTS])
    floors = [row for kind in asked.floors if (row := shipped(bundled.AUTOENCODER, 0, kind))]
    for name, rows in (("metrics.json", table), ("floors.json", floors)):
        write_file(out / name, (json.dumps(rows, indent=1) + "\n").encode())
    write_report(out, compared(out))
    return table


def shipped(name: str, nfe: int, model: str | None = None) -> dict[str, Any] | None:
    """The evaluation that ships with a bundled model, or None.

    Args:
        name: whose folder it lies in. model: what was evaluated, when that is something else (a floor).
    """
    for path in sorted((bundled.WEIGHTS / name / "evaluation").glob("*.json")):
        row = read_result(path)
        if (row["model"], row["protocol"], row["nfe"]) == (model or name, PROTOCOL, nfe):
            return {**row, "measured": "shipped"}
    return None
