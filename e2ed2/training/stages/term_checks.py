"""What a recipe's terms need of the training set and of the start, which the recipe alone cannot tell.

Each raises UserError.
"""

from collections.abc import Collection, Mapping

from e2ed2.data.batch import ImageTextSet
from e2ed2.data.cache import CachedSet
from e2ed2.models.folders.inference import Inference
from e2ed2.models.losses.discriminator import MIN_SIDE
from e2ed2.recipe.config import Config
from e2ed2.recipe.objective import SCORING_RULES, judges_features
from e2ed2.samplers import NOISY_SOLVERS
from e2ed2.system.errors import UserError
from e2ed2.training.latents.training_set import TrainingSet
from e2ed2.training.stages.terms import LATENT_TERMS


def check_set(config: Config, terms: Collection[str], data: TrainingSet) -> None:
    """What the terms look at is in the training set."""
    if config.trajectory.teacher is not None and not isinstance(data, ImageTextSet):
        raise UserError(
            "trajectory.coupling: teacher_pairs needs a training set in memory (emoji, or a small one of squares with "
            "one caption each); take another coupling"
        )
    if judges_features(config.objective, terms) and isinstance(data, CachedSet) and not data.has_images:
        raise UserError(
            f"data.path: the cache {data.folder} holds no pictures, and this recipe's objective needs them; precompute "
            "one with this recipe, in another folder"
        )
    if "plugin" in terms and isinstance(data, CachedSet) and not data.tells_captions:
        raise UserError(
            f"data.path: the cache {data.folder} keeps one caption of each item, and objective.plugin is told the one "
            "that was sampled for; train on what it was made of, or precompute one with one caption an item"
        )


def check_intermediate(config: Config, terms: Collection[str]) -> None:
    """There is a term that judges the estimates of earlier steps."""
    weight = config.objective.intermediate_weight
    if weight > 0 and not LATENT_TERMS.keys() & set(terms):
        raise UserError(
            f"objective.intermediate_weight: {weight} weighs the terms on latents, and none of them has a weight; give "
            f"one to {', '.join(LATENT_TERMS)}"
        )


def check_denoising(weights: Mapping[str, float], inference: Inference) -> None:
    """The ordinary loss trains the network that the sampler runs, not two evaluations of it."""
    if "denoising" in weights and inference.evaluations_per_step > 1:
        raise UserError(
            f"objective.denoising.weight: {weights['denoising']}, but this sampler guides by two evaluations a step "
            f"(scale {inference.guidance_scale:g}), and the ordinary loss trains one: set trajectory.guidance_scale=1, "
            "or leave it out"
        )


def check_repulsion(config: Config, terms: Collection[str], solver: str, rows_per_caption: int) -> None:
    """Scoring rules compare samples that differ: at every later start, and where a pair gives them their noise."""
    trajectory, m = config.trajectory, config.objective.num_samples
    rules = ", ".join(sorted(SCORING_RULES & set(terms)))
    if not rules or m == 1 or rows_per_caption > 1:
        return
    is_one_step, is_noisy = trajectory.step_counts == [1], solver in NOISY_SOLVERS
    if trajectory.start == "random_step" and not is_one_step and not is_noisy:
        raise UserError(
            f"trajectory.start: random_step, but trajectory.solver={solver} draws no noise: from a later start the "
            f"objective.num_samples={m} samples of a caption are identical, and {rules} cannot keep them apart; set "
            "trajectory.start=pure_noise"
        )
    if trajectory.coupling == "teacher_pairs" and (is_one_step or not is_noisy):
        raise UserError(
            f"objective.num_samples: {m}, but with trajectory.coupling=teacher_pairs they start from one noise and "
            f"draw no other ({'one step' if is_one_step else f'solver {solver}'}), so that they are identical and "
            f"{rules} cannot keep them apart; take lpips or l2, or trajectory.coupling=independent"
        )


def check_sides(config: Config, terms: Collection[str], pixels: int, cells: int) -> None:
    """Crop and discriminator fit into images of `pixels` and latents of `cells` a side."""
    crop, adversarial = config.objective.crop.size, config.objective.adversarial
    if crop is not None and crop > cells:
        raise UserError(f"objective.crop.size: {crop}, but latents are {cells}x{cells}: give {cells} at most")
    judged = {"latent": cells, "pixel": pixels // cells * (crop or cells)}.get(adversarial.space, MIN_SIDE)
    if "adversarial" in terms and judged < MIN_SIDE:
        raise UserError(
            f"objective.adversarial.space: {adversarial.space} is {judged}x{judged} here, but the discriminator "
            f"needs {MIN_SIDE}x{MIN_SIDE}; take another space, or a larger objective.crop.size"
        )
