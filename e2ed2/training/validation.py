"""Measuring while training: a protocol in a small size every so many updates, the best model kept, when to stop.

`RUN/evaluation/step-N/` holds what `e2ed2 evaluate` leaves, without the images, so that `e2ed2 compare` reads it;
`RUN/best/` is the model folder of the best of them. All decisions follow from these files: an interrupted run makes
the same ones as an uninterrupted one.
"""

import gc
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from e2ed2.evaluation.evaluate import check_protocol, evaluate
from e2ed2.evaluation.metrics.table import is_better, metric_of
from e2ed2.evaluation.results import EVALUATION_FILE, evaluation_markdown, read_result
from e2ed2.models.folders.card import add_measured
from e2ed2.recipe.config import Config, EvaluationConfig
from e2ed2.system.drawing.figures import central, half_width
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_folder, replace_folder
from e2ed2.system.processes import ALONE
from e2ed2.system.watch import Watch


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

    def measure(self, step: int, export: Callable[[Path], None], is_asked_to_stop: Callable[[], bool]) -> str:
        """Evaluate the model that `export` writes into a folder, and keep it if it is the best; returns a line on it.

        Where `is_asked_to_stop` it ends early, and nothing is measured.

        Raises:
            UserError: as `evaluate`.
        """

        def watch(what: str, done: int, total: int) -> None:
            if is_asked_to_stop():
                raise KeyboardInterrupt
            self.watch(what, done, total)

        folder = self.run_dir / "evaluation" / f"step-{step:06d}"
        model, settings = folder / "model", self.config
        with atomic_folder(model) as temporary:
            export(temporary)
        try:
            result = evaluate(
                str(model), str(settings.protocol), steps=settings.steps, num_images=settings.num_images,
                batch_size=settings.batch_size, out=folder, data=_folder(settings), keep="nothing", share=ALONE,
                watch=watch,
            )  # fmt: skip
        except KeyboardInterrupt:
            return f"step {step}: interrupted, and measured when the run goes on"
        assert result is not None
        line = f"step {step}: {_in_words(result['metrics'][self.metric], self.metric)}"
        if self._settle(folder, step):
            line += ", the best so far"
        gc.collect()  # the evaluated pipeline
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return "; ".join([line, *(result.get("notes", []) if step == 0 else [])])

    def _settle(self, folder: Path, step: int) -> bool:
        """Keep what was measured if it is the best, and remove it if not; the model goes last, so that it tells a kill.

        Returns:
            whether it is the best so far.
        """
        model = folder / "model"
        shutil.rmtree(folder / "images", ignore_errors=True)
        self.describe(model, step)
        is_best = best_so_far(read_evaluations(self.run_dir), self.metric)[step] == step
        if is_best:
            replace_folder(model, self.run_dir / "best")
        shutil.rmtree(model, ignore_errors=True)
        return is_best

    def describe(self, model: Path, step: int) -> None:
        """Write what was measured after update `step` into the card of its model folder; nothing where it was not."""
        result = read_evaluations(self.run_dir).get(step)
        if result is not None:
            add_measured(model, evaluation_markdown(result))

    def forget_after(self, step: int) -> None:
        """Remove what was measured after the update that the run resumes from, and end what a kill left half done."""
        for path in (self.run_dir / "evaluation").glob("step-*"):
            number = _step_of(path)
            if number is None:
                continue
            if number > step or not (path / EVALUATION_FILE).exists():
                shutil.rmtree(path, ignore_errors=True)
            elif (path / "model").is_dir():
                self._settle(path, number)


def create_validation(config: Config, watch: Watch) -> Validation | None:
    """None where the recipe asks none.

    Raises:
        UserError: the protocol cannot be measured here, or does not have the metric that decides.
    """
    asked = config.evaluation
    if asked.protocol is None:
        return None
    try:
        names = check_protocol(asked.protocol, asked.num_images, _folder(asked), watch)
    except UserError as error:
        raise UserError(f"evaluation: {error}") from error
    deciding = [name for name in names if metric_of(name).better != "shown"]
    if not deciding:
        raise UserError(
            f"evaluation.protocol: {asked.protocol} measures {', '.join(names)}, of which more is not better or worse; "
            "add a metric that says which model is best, such as kernel_distance"
        )
    metric = deciding_metric(asked.metric, names)
    if metric not in deciding:
        raise UserError(f"evaluation.metric: {metric}, but {asked.protocol} decides by {', '.join(deciding)}")
    return Validation(asked, config.run.dir, metric, watch)


def deciding_metric(asked: str | None, names: Iterable[str]) -> str:
    """Which of a protocol's metrics says what is best: the one that is asked, or the first that has a better side."""
    return asked or next(name for name in names if metric_of(name).better != "shown")


def stopped_at(config: Config) -> int | None:
    """The step at which `evaluation.patience` ran out, by what is measured; None where it has not."""
    asked, measured = config.evaluation, read_evaluations(config.run.dir)
    if asked.protocol is None or asked.patience is None or not measured:
        return None
    metric = deciding_metric(asked.metric, next(iter(measured.values()))["metrics"])
    for step, best in best_so_far(measured, metric).items():
        if sum(best < other <= step for other in measured) == asked.patience:
            return step
    return None


def best_so_far(measured: Mapping[int, dict[str, Any]], metric: str) -> dict[int, int]:
    """Every step of `read_evaluations` -> the step of the best evaluation up to it, the first of equals."""
    bests: dict[int, int] = {}
    best: int | None = None
    for step in measured:
        values = [measured[s]["metrics"][metric]["value"] for s in (step, step if best is None else best)]
        if best is None or is_better(metric, *values):
            best = step
        bests[step] = best
    return bests


def read_evaluations(run_dir: Path) -> dict[int, dict[str, Any]]:
    """step -> result of everything measured while training, in the order of the steps."""
    paths = (run_dir / "evaluation").glob(f"step-*/{EVALUATION_FILE}")
    found = {step: read_result(path) for path in paths if (step := _step_of(path.parent)) is not None}
    return dict(sorted(found.items()))


def _step_of(folder: Path) -> int | None:
    match = re.fullmatch(r"step-(\d+)", folder.name)
    return int(match[1]) if match else None


def _folder(settings: EvaluationConfig) -> Path | None:
    return None if settings.data is None else Path(settings.data)


def _in_words(estimate: dict[str, float], name: str) -> str:
    return f"{metric_of(name).title} {central(estimate)} {half_width(estimate)}"
