"""What the demo adds to its run's page: before and after, beside the shipped models and the floors."""

from pathlib import Path
from typing import Any

from e2ed2.evaluation.results import read_results
from e2ed2.reports.comparisons import changes_of, picture_uri, table_of
from e2ed2.sampling.folder import read_images

TITLE = "A four-step model, before and after training its whole sampler end to end"
TEXT = (
    "The network was trained through all its sampling steps at once, from noise to finished image, with one loss at "
    "the end. Both models answer the same prompts from the same noise."
)
NUM_PROMPTS, SEEDS_PER_PROMPT = 12, 2
HEADLINE = ("kernel_distance", "recall", "coverage", "alignment", "sharpness")


def compared(run_dir: Path) -> dict[str, Any]:
    """For `reports.run_page`: what `metrics.json`, `floors.json` and `evaluation/{real,before,after}` hold."""
    evaluations, floors = read_results(run_dir / "metrics.json"), read_results(run_dir / "floors.json")
    return {
        "headline": {"title": TITLE, "text": TEXT},
        "made_by": "e2ed2 demo",
        "is_demo": True,
        "changes": _changes(evaluations),
        "prompts": _prompts(run_dir / "evaluation"),
        "tables": [table_of("Figures", "", evaluations, "demo", floors)] if evaluations else [],
    }


def _changes(evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The headline: what the demo's training did to the model it started from, metric by metric."""
    found = {(row["model"], row["nfe"]): row for row in evaluations}
    after = next((row for (model, _), row in found.items() if model == "demo"), None)
    before = found.get(("lcm", after["nfe"])) if after else None
    if after is None or before is None:
        return []
    names = [name for name in HEADLINE if name in before["metrics"] and name in after["metrics"]]
    return changes_of(names, before, after)


def _prompts(folder: Path) -> list[dict[str, Any]]:
    """The first prompts with their real image, and the samples before and after from the same noise."""
    real = {row.prompt: image for row, image in read_images(folder / "real")}
    before = {(row.prompt, row.seed): image for row, image in read_images(folder / "before")}
    after = {(row.prompt, row.seed): image for row, image in read_images(folder / "after")}
    shown = []
    for prompt in [p for p in dict.fromkeys(p for p, _ in before) if p in real][:NUM_PROMPTS]:
        both = [key for key in before if key[0] == prompt and key in after][:SEEDS_PER_PROMPT]
        pairs = [(f"seed {key[1]}", picture_uri(before[key]), picture_uri(after[key])) for key in both]
        if pairs:
            shown.append({"prompt": prompt, "real": picture_uri(real[prompt]), "pairs": pairs})
    return shown
