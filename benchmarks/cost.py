"""What a training costs: network evaluations (a forward pass counts 1, one with backward 3) and time of a core."""

import time
from pathlib import Path
from statistics import fmean

from e2ed2.recipe.config import Config
from e2ed2.training.loop import train


def timed_train(config: Config) -> tuple[Path, float]:
    """(model, seconds of processor time that an update takes, what is made ready before the first left out).

    A mean, for chains differ in length; of a training that goes on, over the updates that this call made.
    """
    times: list[float] = []
    model = train(config, lambda line: None, lambda step, steps, row: times.append(time.process_time()))
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    return model, fmean(gaps) if gaps else 0.0


def evaluations_per_update(config: Config) -> float:
    """Those that an update of a recipe is expected to take."""
    rows = config.train.micro_batch_size * config.train.gradient_accumulation_steps
    if config.stage == "base":
        return 3.0 * rows
    if config.stage == "lcm":  # the student; its average; the teacher, guided in two passes
        return rows * (3 + 1 + (2 if config.consistency.guidance_scale > 1 else 1))
    trajectory, terms = config.trajectory, config.objective
    if trajectory.random_num_steps:
        weights = trajectory.num_steps_weights or [1.0] * trajectory.num_inference_steps
    else:
        weights = [0.0] * (trajectory.num_inference_steps - 1) + [1.0]
    through = trajectory.num_backprop_steps or trajectory.num_inference_steps
    cost = kept = 0.0
    for steps, weight in enumerate(weights, start=1):
        share = weight / sum(weights)
        lengths = range(1, steps + 1) if trajectory.start == "random_step" else [steps]
        cost += share * sum(3 * min(k, through) + max(0, k - through) for k in lengths) / len(lengths)
        kept += share * (3 * min(steps, through) + max(0, steps - through) + steps)
    unrolls = any(term.weight > 0 for term in (terms.l2, terms.lpips, terms.mmd, terms.patch_energy))
    return rows * (unrolls * cost + 3 * (terms.denoising.weight > 0)) + (
        unrolls * (terms.keep.weight > 0) * kept * -(-rows // 2)
    )
