"""`e2ed2 ablate`: trains and measures every row of a suite and puts them side by side (Table 2, Figure 4).

Results lie in OUT/ROW/seed-S; what is there is not made again, also when its checkpoints and models were deleted to
save space. The same command in several shells, on several GPUs say, shares the rows out among them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from e2ed2.ablation.suite import Suite, folder_name, is_measured_only
from e2ed2.ablation.table import Cost, chart, table
from e2ed2.evaluation.evaluate import check_protocol, evaluate
from e2ed2.evaluation.results import EVALUATION_FILE, read_result
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.index import model_sha256
from e2ed2.recipe.config import Config
from e2ed2.recipe.load import changed_fields, load_config
from e2ed2.system.errors import UserError
from e2ed2.system.files import locked, write_file
from e2ed2.system.processes import ALONE, join_processes, process_state
from e2ed2.system.watch import Watch, silent
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import Say, Tick, train
from e2ed2.training.precision import resolve_precision
from e2ed2.training.run_folder import recorded_config

Job = tuple[str, int]  # row and seed


def run_suite(
    suite: Suite,
    out: Path,
    *,
    say: Say = print,
    watch: Watch = silent,
    tick: Tick = lambda step, steps, row: None,
) -> str:
    """Train and measure what is missing under `out`, then write `table.md` and `figure.svg` there; returns the table.

    `suite.yaml` beside it is the suite as it was measured.

    Every recipe, and what is measured, is checked before the first is trained.

    Raises:
        UserError: a row's recipe or the number of images is wrong, or this is one of several processes.
        KeyboardInterrupt: what was done is saved.
    """
    if (world := join_processes().world) > 1:
        raise UserError(
            f"ablate: {world} processes of one command would train different rows as one: start it without "
            "`accelerate launch`, in a shell for each GPU; they share the rows out"
        )
    jobs = [(row, seed) for seed in suite.seeds for row in suite.rows]  # a whole table as soon as one seed is through
    configs = _in_one_precision({job: _config(suite, *job, out) for job in jobs})
    check_protocol(suite.protocol, suite.num_images, None, watch)
    write_file(out / "suite.yaml", yaml.safe_dump(suite.model_dump(mode="json"), sort_keys=False).encode())
    text, elsewhere = "", []
    for number, (row, seed) in enumerate(jobs, start=1):
        say(f"{number}/{len(jobs)} {row}, seed {seed}")
        try:
            with _claimed(_folder(out, row, seed), wait=False):
                _run_job(suite, configs[row, seed], row, seed, out, say, watch, tick)
        except BlockingIOError:
            say("another process is at it; the next row meanwhile")
            elsewhere.append((row, seed))
        text = _write_table(suite, configs, out)
    for row, seed in elsewhere:
        say(f"waiting for {row}, seed {seed}, or taking it over")
        with _claimed(_folder(out, row, seed), wait=True):
            _run_job(suite, configs[row, seed], row, seed, out, say, watch, tick)
        text = _write_table(suite, configs, out)
    return text


@contextmanager
def _claimed(folder: Path, wait: bool) -> Iterator[None]:
    """Alone at a row and seed; raises BlockingIOError where another process is and we do not wait."""
    lock = folder.parent / f"{folder.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    with locked(lock, wait):
        yield


def _run_job(
    suite: Suite, config: Config | None, row: str, seed: int, out: Path, say: Say, watch: Watch, tick: Tick
) -> None:
    """Train and measure one row and seed, where that is not done."""
    folder = _folder(out, row, seed)
    if config is None:
        model = str(suite.rows[row]["model"])
    elif _is_kept(suite, config, seed, folder):
        return
    else:
        if not _is_of(config, folder) and not (folder / "model").exists():
            for steps in suite.steps:  # another recipe's figures, whose model is gone
                (folder / f"evaluation-{steps}" / EVALUATION_FILE).unlink(missing_ok=True)
        try:
            model = str(train(config, say, tick, watch))
        except UserError as error:
            raise UserError(f"row {row}, seed {seed}, in {folder}: {error}") from error
    for steps in _steps(suite, config):
        _measure(suite, model, steps, seed, folder / f"evaluation-{steps}", watch)


def _is_kept(suite: Suite, config: Config, seed: int, folder: Path) -> bool:
    """Whether all figures of this very recipe are there and its model is not."""
    kept = [_figures(folder / f"evaluation-{k}" / EVALUATION_FILE) for k in _steps(suite, config)]
    asked = {"protocol": suite.protocol, "seed": seed} | ({"num_images": suite.num_images} if suite.num_images else {})
    gone = not (folder / "model").exists()
    return gone and _is_of(config, folder) and all(asked.items() <= figures.items() for figures in kept)


def _is_of(config: Config, folder: Path) -> bool:
    """Whether a row's folder is of this very recipe."""
    recorded = recorded_config(folder)
    steps = (recorded.get("train") or {}).get("max_train_steps")
    return steps == config.train.max_train_steps and not changed_fields(recorded, config)


def _steps(suite: Suite, config: Config | None) -> list[int]:
    """The suite's step counts that a row's model can take: one with parameters for each of its steps has its own."""
    if config is None or not config.trajectory.has_set_per_step:
        return suite.steps
    return [steps for steps in suite.steps if steps == config.trajectory.num_inference_steps]


def _write_table(suite: Suite, configs: dict[Job, Config | None], out: Path) -> str:
    """The table of what is measured so far, in `out/table.md` and returned; `out/figure.svg` shows it."""
    results: dict[str, list[dict[int, dict[str, Any]]]] = {}
    for row in suite.rows:
        results[row] = []
        for seed in suite.seeds:
            steps = _steps(suite, configs[row, seed])
            paths = {k: _folder(out, row, seed) / f"evaluation-{k}" / EVALUATION_FILE for k in steps}
            results[row].append({k: figures for k, path in paths.items() if (figures := _figures(path))})
    text = table(suite.steps, suite.baseline, results, _costs(suite, out))
    write_file(out / "table.md", text.encode())
    if any(any(seeds) for seeds in results.values()):
        write_file(out / "figure.svg", chart(suite.steps, suite.baseline, results).encode())
    return text


def _costs(suite: Suite, out: Path) -> dict[str, Cost]:
    """What the training of each row took, where there was one."""
    costs = {}
    for row in suite.rows:
        folders = [_folder(out, row, seed) for seed in suite.seeds]
        steps = [step for folder in folders for step in read_metrics(folder / "metrics.jsonl")]
        if steps:
            seconds = fmean(1 / step["images_per_second"] for step in steps)  # chains differ in length: no median
            begun = (recorded_config(folder) for folder in folders)
            precisions = {config["train"]["mixed_precision"] for config in begun if config}
            costs[row] = Cost(seconds, max(step["peak_memory_bytes"] for step in steps), precisions)
    return costs


def _folder(out: Path, row: str, seed: int) -> Path:
    return out / folder_name(row) / f"seed-{seed}"


def _config(suite: Suite, row: str, seed: int, out: Path) -> Config | None:
    """The recipe of a row, None for one that is only measured."""
    if is_measured_only(suite.rows[row]):
        resolve_model(str(suite.rows[row]["model"]))
        return None
    own = {"train.seed": seed, "run.dir": str(_folder(out, row, seed))}
    fields = [*suite.fields.items(), *suite.rows[row].items(), *own.items()]  # the later one counts
    try:
        config = load_config(suite.recipe, [f"{name}={json.dumps(value)}" for name, value in fields])
    except UserError as error:
        raise UserError(f"row {row}: {error}") from error
    if not _steps(suite, config):
        steps = config.trajectory.num_inference_steps
        raise UserError(f"row {row}: its model will have {steps} steps and no other: add {steps} to steps")
    return config


def _in_one_precision(configs: dict[Job, Config | None]) -> dict[Job, Config | None]:
    """`train.mixed_precision: auto` as a row was begun, else as the others were: figures and costs are compared."""
    recorded = {job: recorded_config(config.run.dir) for job, config in configs.items() if config}
    others = next(filter(None, recorded.values()), {})
    device = process_state().device
    return {
        job: config and resolve_precision(config, recorded[job] or others, device) for job, config in configs.items()
    }


def _figures(path: Path) -> dict[str, Any]:
    """An evaluation, empty where there is none that can be read: it is then made."""
    try:
        return read_result(path)
    except UserError:
        return {}


def _measure(suite: Suite, model: str, steps: int, seed: int, folder: Path, watch: Watch) -> None:
    """Keep an evaluation without its images, which the seed makes again; one of this model and size is kept already."""
    kept = _figures(folder / EVALUATION_FILE)
    asked: dict[str, Any] = {"protocol": suite.protocol, "model_sha256": model_sha256(resolve_model(model))}
    if suite.num_images:
        asked["num_images"] = suite.num_images
    if any(kept.get(name) != value for name, value in asked.items()):
        evaluate(
            model, suite.protocol, steps=steps, num_images=suite.num_images, seed=seed, out=folder, keep="nothing",
            share=ALONE, watch=watch,
        )  # fmt: skip
