"""What is compared: each setting is a recipe, a start and the fields that it changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from e2ed2.emoji.styles import Style

SEEDS = (0, 1, 2)
FULL_UPDATES, EIGHTH = 3600, 8  # of the recommended setting, whose evaluations all others get
TERMS = ("l2", "lpips", "mmd", "patch_energy", "lpips_energy")


def terms(**weights: float) -> dict[str, Any]:
    """The terms of the loss alone; energy scores need the two images of a caption, the others do not."""
    each = {f"objective.{name}.weight": weights.get(name, 0) for name in TERMS}
    return each | ({} if "patch_energy" in weights else {"data.images_per_caption": 1})


@dataclass(frozen=True)
class Setting:
    """fields: of `recipe`, over its own. start: the model it begins from, or that is measured where there is no recipe.

    Attributes:
        style: that the model is moved to, and measured on.
        steps: that it is measured at; the teacher's count two evaluations each.
        call: of `inference.json`, what the model that is measured has in place of its own.
    """

    start: str
    recipe: str | None = "emoji/e2ed2"
    fields: Mapping[str, Any] = field(default_factory=dict)
    style: Style | None = None
    steps: tuple[int, ...] = (4, 2, 1)
    call: Mapping[str, Any] = field(default_factory=dict)


L2, LPIPS, BOTH = terms(l2=1), terms(lpips=1), terms(l2=1, lpips=1)
LAST, TWO = {"trajectory.num_backprop_steps": 1}, {"trajectory.num_backprop_steps": 2}
FROM_NOISE = {
    "trajectory.random_num_steps": False, "trajectory.num_steps_weights": [], "trajectory.start": "pure_noise",
    "trajectory.timesteps": [[999, 828, 617, 97]],
}  # fmt: skip
MMD = terms(l2=1, lpips=1, mmd=75)
MOVED = FROM_NOISE | terms(l2=1, lpips=1, mmd=300) | {"data.plain_caption_fraction": 0}
DDIM = FROM_NOISE | MMD | {"trajectory.solver": "ddim", "trajectory.guidance_scale": 1, "trajectory.timesteps": []}
LONGER = FROM_NOISE | terms() | {  # the ordinary loss; the sampler is the teacher's
    "objective.denoising.weight": 1, "trajectory.solver": "ddim", "trajectory.guidance_scale": 1,
    "trajectory.timesteps": [], "data.caption_dropout": 0.1,
}  # fmt: skip
GUIDED = {"num_inference_steps": 25, "guidance_scale": 2.0}  # as the teacher

# In the order in which they decide most.
SETTINGS = {
    "teacher": Setting("emoji-base", None, steps=(25,)),
    "lcm": Setting("emoji-lcm", None),
    "recommended": Setting("emoji-lcm"),
    "recommended_last": Setting("emoji-lcm", fields=LAST),
    "line4": Setting("emoji-e2ed2", fields=MOVED, style="lineart", steps=(4,)),
    "line4_last": Setting("emoji-e2ed2", fields=MOVED | LAST, style="lineart", steps=(4,)),
    "noto4": Setting("emoji-e2ed2", fields=MOVED, style="noto", steps=(4,)),
    "noto4_last": Setting("emoji-e2ed2", fields=MOVED | LAST, style="noto", steps=(4,)),
    "l2_lpips": Setting("emoji-lcm", fields=BOTH),
    "l2_lpips_last": Setting("emoji-lcm", fields=BOTH | LAST),
    "l2": Setting("emoji-lcm", fields=L2),
    "lpips": Setting("emoji-lcm", fields=LPIPS),
    "recommended_two": Setting("emoji-lcm", fields=TWO),
    "l2_lpips_two": Setting("emoji-lcm", fields=BOTH | TWO),
    "base_longer": Setting("emoji-base", fields=LONGER, steps=(25,), call=GUIDED),
    "noise4": Setting("emoji-base", fields=FROM_NOISE | MMD, steps=(4,)),
    "noise4_last": Setting("emoji-base", fields=FROM_NOISE | MMD | LAST, steps=(4,)),
    "ddim": Setting("emoji-base", fields=DDIM, steps=(4,)),
    "ddim_last": Setting("emoji-base", fields=DDIM | LAST, steps=(4,)),
}
