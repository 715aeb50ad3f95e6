"""What each objective costs: an update's time over one with plain L2, all in one process, turn by turn.

    OMP_NUM_THREADS=1 python -m benchmarks.objectives [--json] [--out results/benchmarks]

32 captions, `emoji-lcm`, always four steps from noise, so that every update unrolls the same chain. Medians of five
rounds; `l2_seconds` is of plain L2 itself.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from accelerate import Accelerator

from benchmarks.published import publish, seconds
from e2ed2.data.order import ShuffledOrder
from e2ed2.recipe.load import build_config
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.stages.create import create_stage
from e2ed2.training.step import Trained, update

ROUNDS = 5
ONE = {"weight": 1.0}
FEATURE_GAN = {"weight": 0.5, "space": "feature", "num_discriminator_updates": 1}
OBJECTIVES = {
    "l2": {"l2": ONE},
    "l1": {"l1": ONE},
    "patch_energy, 2 samples": {"patch_energy": ONE, "num_samples": 2},
    "lpips": {"lpips": ONE},
    "latent_lpips": {"latent_lpips": ONE},
    "l2 + lpips": {"l2": ONE, "lpips": ONE},
    "l2 + lpips on half the side": {"l2": ONE, "lpips": ONE, "crop": {"size": 8}},
    "l2 + lpips + mmd": {"l2": ONE, "lpips": ONE, "mmd": ONE},
    "l2 + gan": {"l2": ONE, "adversarial": {"weight": 0.01}},
    "l2 + gan, buffer": {"l2": ONE, "adversarial": {"weight": 0.01, "buffer_size": 8}},
    "l2 + lpips + gan on features": {"l2": ONE, "lpips": ONE, "adversarial": FEATURE_GAN},
    "l2 + lpips + gan on features, buffer": {"l2": ONE, "lpips": ONE, "adversarial": {**FEATURE_GAN, "buffer_size": 8}},
}


def measure() -> dict[str, float]:
    runs = {name: _prepare(objective) for name, objective in OBJECTIVES.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(ROUNDS + 1):
        for name, run in runs.items():
            times[name].append(seconds(partial(run, step)))
    medians = {name: median(each[1:]) for name, each in times.items()}
    return {name: value / medians["l2"] for name, value in medians.items()} | {"l2_seconds": medians["l2"]}


def _prepare(objective: dict[str, Any]) -> Callable[[int], Any]:
    """update number -> one update of this objective."""
    train = {"micro_batch_size": 32, "mixed_precision": "no"}
    trajectory = {"start": "pure_noise"}
    config = build_config(
        {
            "stage": "e2ed2", "run": {"dir": "unused"}, "model": {"path": "emoji-lcm"},
            "objective": objective, "train": train, "trajectory": trajectory,
        }  # fmt: skip
    )
    accelerator = Accelerator(mixed_precision="no")
    data = load_training_set(config.data, lambda line: None)
    stage = create_stage(config, data, accelerator.device, lambda line: None)
    trained = Trained.begin(stage.network, config.train)
    order = ShuffledOrder(config.train.seed, len(data), config.train.micro_batch_size)
    return lambda step: update(stage, trained, config.train, order, step, accelerator)


if __name__ == "__main__":
    publish("objectives", measure)
