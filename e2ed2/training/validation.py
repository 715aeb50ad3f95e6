"""Measuring while training: a protocol in a small size every so many updates, the best model kept, when to stop.

`RUN/evaluation/step-N/` holds what `e2ed2 evaluate` leaves, without the images, so that `e2ed2 compare` reads it;
`RUN/best/` is the model folder of the best of them. All decisions follow from these files: an interrupted run makes
the same ones as an uninterrupted one.
"""

import gc
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from e2ed2.errors import UserError
from e2ed2.evaluation.evaluate import check_protocol, evaluate
from e2ed2.evaluation.results import EVALUATION_FILE, read_result
from e2ed2.evaluation.sample_files import Share
from e2ed2.evaluation.table import central, evaluation_markdown, half_width, is_better, metric_of
from e2ed2.files import atomic_folder, replace_folder
from e2ed2.models.card import add_measured
from e2ed2.training.config import Config, EvaluationConfig
from e2ed2.watch import Watch


@dataclass(frozen=True)
class Validation:
    """A run's evaluations.

    Attributes:
        metric: that decides which is best.
    """

    config: EvaluationConfig
    run_dir: Path
    metric: str
    watch: Watch

    def is_due(self, step: int, is_last: bool) -> bool:
        """Whether to measure after update `step`, and it was not done yet."""
        return (is_last or step % self.config.every == 0) and step not in evaluation_files(self.run_dir)

    def measure(self, step: int, export: Callable[[Path], None]) -> str:
        """Evaluate the model that `export` writes into a folder, and keep it if it is the best; returns a line on it.

        Raises:
            UserError: as `evaluate`.
        """
        folder = self.run_dir / "evaluation" / f"step-{step:06d}"
        model, settings = folder / "model", self.config
        with atomic_folder(model) as temporary:
            export(temporary)
        result = evaluate(
            str(model), str(settings.protocol), steps=settings.steps, num_images=settings.num_images,
            batch_size=settings.batch_size, out=folder, data=_folder(settings), share=Share(), watch=self.watch,
        )  # fmt: skip
        assert result is not None
        self.describe(model, step)
        line = f"step {step}: {_in_words(result['metrics'][self.metric], self.metric)}"
        if best_so_far(self.run_dir, self.metric)[step] == step:
            replace_folder(model, self.run_dir / "best")
            line += ", the best so far"
        for done in (model, folder / "images"):
            shutil.rmtree(done, ignore_errors=True)
        gc.collect()  # the evaluated pipeline
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return "; ".join([line, *(result.get("notes", []) if step == 0 else [])])

    def describe(self, model: Path, step: int) -> None:
        """Write what was measured after update `step` into the card of its model folder; nothing where it was not."""
        if step in evaluation_files(self.run_dir):
            add_measured(model, evaluation_markdown(read_result(evaluation_files(self.run_dir)[step])))

    def tracked(self, step: int) -> dict[str, float]:
        """The values of an evaluation, as curves of a tracker."""
        return {f"evaluation/{name}": e["value"] for name, e in _metrics(self.run_dir, step).items()}

    def forget_after(self, step: int) -> None:
        """Remove what was measured after the update that the run resumes from, and what was left half done."""
        for path in (self.run_dir / "evaluation").glob("step-*"):
            number = _step_of(path)
            if number is not None and (number > step or not (path / EVALUATION_FILE).exists()):
                shutil.rmtree(path, ignore_errors=True)


def create_validation(config: Config, watch: Watch) -> Validation | None:
    """None where the recipe asks none.

    Raises:
        UserError: the protocol cannot be measured here, or does not have the metric that decides.
    """
    asked = config.evaluation
    if asked.protocol is None:
        return None
    names = [n for n in check_protocol(asked.protocol, asked.num_images, _folder(asked), watch) if _decides(n)]
    metric = asked.metric or names[0]
    if metric not in names:
        raise UserError(f"evaluation.metric: {metric}, but {asked.protocol} decides by {', '.join(names)}")
    return Validation(asked, config.run.dir, metric, watch)


def stopped_at(config: Config) -> int | None:
    """The step at which `evaluation.patience` ran out, by what is measured; None where it has not."""
    asked, measured = config.evaluation, sorted(evaluation_files(config.run.dir))
    if asked.protocol is None or asked.patience is None or not measured:
        return None
    metric = asked.metric or next(filter(_decides, _metrics(config.run.dir, measured[0])))
    for step, best in best_so_far(config.run.dir, metric).items():
        if sum(best < other <= step for other in measured) == asked.patience:
            return step
    return None


def best_so_far(run_dir: Path, metric: str) -> dict[int, int]:
    """Every step that was measured -> the step of the best evaluation up to it, the first of equals."""
    bests: dict[int, int] = {}
    best, least = -1, 0.0
    for step in sorted(evaluation_files(run_dir)):
        value = _metrics(run_dir, step)[metric]["value"]
        if best < 0 or is_better(metric, value, least):
            best, least = step, value
        bests[step] = best
    return bests


def evaluation_files(run_dir: Path) -> dict[int, Path]:
    """step -> `evaluation.json` of everything measured while training."""
    paths = (run_dir / "evaluation").glob(f"step-*/{EVALUATION_FILE}")
    return {step: path for path in paths if (step := _step_of(path.parent)) is not None}


def _metrics(run_dir: Path, step: int) -> dict[str, Any]:
    return read_result(evaluation_files(run_dir)[step])["metrics"]


def _step_of(folder: Path) -> int | None:
    match = re.fullmatch(r"step-(\d+)", folder.name)
    return int(match[1]) if match else None


def _decides(name: str) -> bool:
    return metric_of(name).better != "shown"


def _folder(settings: EvaluationConfig) -> Path | None:
    return None if settings.data is None else Path(settings.data)


def _in_words(estimate: dict[str, float], name: str) -> str:
    return f"{metric_of(name).title} {central(estimate)} {half_width(estimate)}"
