"""`e2ed2 demo --style`: a bundled few-step model learns a style from a folder of images, and keeps its steps.

Beside it the ordinary denoising loss from the same start, for as long. Both are measured on captions of the style held
out from the training, and on the benchmark that the start was made for. What is there already is used again.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from e2ed2.data.batch import spread
from e2ed2.emoji.styles import load_style, write_style
from e2ed2.evaluation.protocols import read_protocol
from e2ed2.evaluation.results import evaluation_markdown, read_result
from e2ed2.finetune.run import choose_finetune
from e2ed2.models.folders.card import add_measured
from e2ed2.provenance.label import metadata_label
from e2ed2.recipe.config import Config
from e2ed2.recipe.load import config_of, refuse_run_dir
from e2ed2.reports.comparisons import changes_of, first_of_each, measured_row, sheet_of, table_of
from e2ed2.reports.run_page import write_report
from e2ed2.sampling.model import load_model
from e2ed2.system.files import write_file
from e2ed2.system.watch import Watch, silent
from e2ed2.training.loop import Say, Tick, train

STYLE, START = "noto", "emoji-e2ed2"
PROTOCOL, OLD = f"{STYLE}-heldout", "emoji-heldout"
NFE = (4, 1)
UPDATES, ORDINARY_PER_UPDATE = 55, 7  # updates of the ordinary loss that take no less time than one of ours
SHIPPED = Path(__file__).parent / "assets" / "style"  # what does not change: the start, and the autoencoder's copies
ORDINARY = {"l2.weight": 0, "lpips.weight": 0, "mmd.weight": 0, "keep.weight": 0, "denoising.weight": 1}
ORDINARY_LR = 3e-4  # better for it than ours
ORDER = ["start", "ordinary", "finetuned", "copies"]
COLUMNS = [(label, nfe) for nfe in NFE for label in ORDER[:3]]
HEADLINE = ("kernel_distance", "alignment", "recall", "sharpness")
NUM_SHOWN = 12
TITLE = "A four-step model learns a new style, and keeps its steps"
TEXT = (
    f"{START} was moved to {STYLE} drawings, which it had never seen, by training the sampler that it is used with. "
    "Beside it the ordinary denoising loss, from the same start and for as long. Captions shown and measured here were "
    "held out from the training."
)


def run_style(
    out: Path,
    overrides: list[str],
    *,
    num_images: int = 256,
    say: Say = print,
    watch: Watch = silent,
    tick: Tick = lambda step, steps, row: None,
) -> list[dict[str, Any]]:
    """Move the bundled few-step model to a style, twice, and report.

    Args:
        out: the folder; `finetuned/` and `ordinary/` are run folders in it, `metrics.json` and `report.html` lie in it.
        overrides: `field.path=value` changes to the recipe of the first.
        num_images: of each evaluation.
    Returns:
        The rows of `metrics.json`: evaluations of `start`, `ordinary`, `finetuned` and `copies`, the autoencoder's of
        real images, under the protocols `style` and `emoji-heldout`.
    Raises:
        UserError: something the user can mend. KeyboardInterrupt: what was done is saved.
    """
    refuse_run_dir(overrides)
    data = out / "images"
    say(f"1/4 the images of the style: {data}")
    if not data.is_dir():
        write_style(load_style(STYLE, "train", lambda done, total: watch("drawing", done, total)), data)
    fields = [f"train.max_train_steps={UPDATES}", "train.checkpoint_every=20", "train.preview_every=20"]
    chosen = choose_finetune(START, str(data), out / "finetuned", overrides=[*fields, *overrides])
    say(f"2/4 its sampler on them, {chosen.config.train.max_train_steps} updates")
    for reason in chosen.reasons:
        say(f"    {reason}")
    models = {"finetuned": train(chosen.config, say, tick, watch, write_report)}
    ordinary = _ordinary(chosen.config, out / "ordinary")
    say(f"3/4 the ordinary loss, {ordinary.train.max_train_steps} updates, which take as long")
    models["ordinary"] = train(ordinary, say, tick, watch, write_report)
    say("4/4 both from the same prompts and noise: captions held out, and the benchmark of the start")
    rows = []
    measure = partial(measured_row, num_images=num_images, watch=watch, label=metadata_label())
    for name, model in models.items():
        for protocol, nfe in ((PROTOCOL, 4), (PROTOCOL, 1), (OLD, 4)):
            kept = out / "evaluation" / f"{name}-{protocol}-{nfe}"
            rows.append(measure(name, str(model), protocol, steps=nfe, out=kept))
    add_measured(models["finetuned"], evaluation_markdown(rows[0]))
    rows += [{**read_result(path), "measured": "shipped"} for path in sorted(SHIPPED.glob("*.json"))]
    rows = [{**row, "protocol": "style" if row["protocol"] == PROTOCOL else row["protocol"]} for row in rows]
    rows.sort(key=lambda row: (row["protocol"] == OLD, -row["nfe"], ORDER.index(row["model"])))
    write_file(out / "metrics.json", (json.dumps(rows, indent=1) + "\n").encode())
    page = write_report(out / "finetuned", _page(out, rows, num_images))
    write_file(out / "report.html", page.read_bytes())
    return rows


def _ordinary(config: Config, run_dir: Path) -> Config:
    """The same data, rate and average under the ordinary loss."""
    values = config.model_dump(mode="json")
    fields = [f"objective.{name}={value}" for name, value in ORDINARY.items()]
    updates = ORDINARY_PER_UPDATE * config.train.max_train_steps
    fields += [f"run.dir={json.dumps(str(run_dir))}", f"train.max_train_steps={updates}", f"train.lr={ORDINARY_LR}"]
    return config_of(values, fields)


def _page(out: Path, rows: list[dict[str, Any]], num_images: int) -> dict[str, Any]:
    found = {(row["model"], row["protocol"], row["nfe"]): row for row in rows}
    tables = [
        table_of(title, text, [row for row in rows if row["protocol"] == protocol], "finetuned")
        for protocol, title, text in (
            ("style", "The new style", "Captions held out from the training."),
            (OLD, "The old benchmark", "What the start was made for, on emoji that no model has seen."),
        )
    ]
    before, after = found.get(("start", "style", 4)), found[("finetuned", "style", 4)]
    return {
        "headline": {"title": TITLE, "text": TEXT},
        "made_by": "e2ed2 demo --style",
        "is_demo": True,
        "changes": changes_of(HEADLINE, before, after) if before else [],
        "sheets": [_sheet(out, num_images)],
        "tables": tables,
    }


def _sheet(out: Path, num_images: int) -> dict[str, Any]:
    """Held-out captions, evenly: the real drawing, and what each model makes of it."""
    heldout = load_style(STYLE, "heldout")
    columns = {"real": dict(zip(heldout.captions, heldout.images, strict=True))}
    requests = read_protocol(PROTOCOL).load(PROTOCOL, num_images, None, silent).requests(0)
    first = list({request.prompt: request for request in reversed(requests)}.values())[::-1]
    shown = [first[i] for i in spread(len(first), NUM_SHOWN).tolist()]
    for label, nfe in COLUMNS:
        head = f"{label}, {nfe} step{'s' if nfe > 1 else ''}"
        columns[head] = first_of_each(out / "evaluation" / f"{label}-{PROTOCOL}-{nfe}")
        if label == "start":  # its figures ship
            images = load_model(START, nfe).sampler(shown, len(shown))
            columns[head] = {request.prompt: image for request, image in zip(shown, images, strict=True)}
    text = "Evenly over the captions held out, not a selection; all from the same noise."
    return sheet_of("Side by side", text, columns, NUM_SHOWN)
