"""What no field of a recipe can tell alone of the chain: its grids, its parameters, and which noise it begins at.

Each raises UserError.
"""

from collections.abc import Collection

from e2ed2.recipe.config import Config
from e2ed2.recipe.objective import SCORING_RULES
from e2ed2.system.errors import UserError


def check_grids(config: Config) -> None:
    """Numbers of steps, and their timesteps."""
    trajectory, steps = config.trajectory, config.trajectory.num_inference_steps
    grid, weights, kept = trajectory.time_grid, trajectory.num_steps_weights, trajectory.num_backprop_steps
    if weights and not trajectory.random_num_steps:
        raise UserError(
            f"trajectory.num_steps_weights: {weights}, but every chain has {steps} steps: add "
            "trajectory.random_num_steps=true, or set it to []"
        )
    if weights and (len(weights) != steps or sum(weights) == 0):
        raise UserError(
            f"trajectory.num_steps_weights: {weights}, but trajectory.num_inference_steps={steps}: give a weight for "
            f"each number of steps from 1 to {steps}, not all 0, or [] for equal ones"
        )
    counts = trajectory.step_counts
    fitting = {len(timesteps): timesteps for timesteps in trajectory.timesteps if len(timesteps) in counts}
    if len(fitting) < len(trajectory.timesteps):
        given, trained = ([*map(str, values)] for values in (map(len, trajectory.timesteps), counts))
        raise UserError(
            f"trajectory.timesteps: grids of {', '.join(given)} steps, but chains are trained with "
            f"{', '.join(trained)}, one grid each at most: set trajectory.timesteps={[*fitting.values()]}"
        )
    if grid == "learned_alone" and (trajectory.random_num_steps or trajectory.start != "pure_noise"):
        raise UserError(
            f"trajectory.time_grid: {grid} needs trajectory.start=pure_noise (a later start teaches no grid) and "
            "random_num_steps=false (one step has none)"
        )
    if grid != "fixed" and counts == [1]:
        raise UserError(f"trajectory.time_grid: {grid}, but chains of one step keep their only timestep: train more")
    if grid != "fixed" and kept is not None:
        raise UserError(
            f"trajectory.num_backprop_steps: {kept}, but time_grid={grid} needs the gradient of all steps (where a "
            "state counts as constant, less noise is always better): leave one out"
        )


def check_trajectory(config: Config) -> None:
    """The parameters that the sampler has, and the gradient that it takes."""
    trajectory, intermediate = config.trajectory, config.objective.intermediate_weight
    trains_one = not trajectory.has_set_per_step and trajectory.time_grid != "learned_alone"
    parameters, steps, kept = trajectory.parameters, trajectory.num_inference_steps, trajectory.num_backprop_steps
    is_cut = kept is not None and kept < steps
    if trajectory.parameters == "lora" and trajectory.time_grid == "learned_alone":
        raise UserError("trajectory.parameters: lora, but time_grid=learned_alone trains no network: leave one out")
    if trajectory.has_set_per_step and (
        trajectory.random_num_steps or trajectory.num_inference_steps == 1 or trajectory.time_grid == "learned_alone"
    ):
        raise UserError(
            f"trajectory.parameters: {trajectory.parameters} needs num_inference_steps of 2 or more, "
            "random_num_steps=false (a set belongs to one step of one sampler) and a network that is trained "
            "(time_grid not learned_alone)"
        )
    if config.model.gradient_checkpointing == "selective" and trajectory.gradient_checkpointing:
        raise UserError(
            "model.gradient_checkpointing: selective, but trajectory.gradient_checkpointing=true would keep what is "
            "selected of every step: set one false, or model.gradient_checkpointing=true"
        )
    if parameters.startswith("lora") and config.model.architecture is not None:
        raise UserError(
            f"trajectory.parameters: {parameters}, but model.architecture makes a new network, with nothing trained to "
            "adapt: leave one out"
        )
    if trajectory.has_set_per_step and is_cut:
        raise UserError(
            f"trajectory.num_backprop_steps: {kept}, but with parameters={parameters} the sets of steps before those "
            "would never learn: leave it out, or take shared or lora"
        )
    if config.objective.denoising.weight > 0 and not trains_one:
        raise UserError(
            f"objective.denoising.weight: {config.objective.denoising.weight}, but the ordinary loss trains one "
            f"network for all timesteps, unlike trajectory.parameters={parameters} with "
            f"time_grid={trajectory.time_grid}: leave it out"
        )
    if intermediate > 0 and trajectory.step_counts == [1]:
        raise UserError(
            f"objective.intermediate_weight: {intermediate}, but chains of one step have none before the last: train "
            "more steps, or leave it out"
        )
    if intermediate > 0 and is_cut:
        raise UserError(
            f"objective.intermediate_weight: {intermediate}, but with trajectory.num_backprop_steps={kept} of {steps} "
            "the estimates before those carry no gradient: leave one out"
        )


def check_coupling(config: Config, terms: Collection[str]) -> None:
    """Which noise goes with which image."""
    trajectory, n, size = config.trajectory, config.data.images_per_caption, config.train.micro_batch_size
    coupling, teacher = trajectory.coupling, trajectory.teacher
    if coupling != "independent" and config.stage != "e2ed2":
        raise UserError(f"trajectory.coupling: {coupling}, but stage {config.stage} starts at no noise: remove it")
    if coupling != "teacher_pairs" and teacher is not None:
        raise UserError(f"trajectory.teacher: {teacher}, but only trajectory.coupling=teacher_pairs reads it: add that")
    if coupling == "teacher_pairs" and teacher is None:
        raise UserError("trajectory.teacher: missing; teacher_pairs needs a model that makes them, e.g. emoji-base")
    if coupling == "teacher_pairs" and (trajectory.start != "pure_noise" or n > 1):
        raise UserError(
            "trajectory.coupling: teacher_pairs needs trajectory.start=pure_noise and data.images_per_caption=1 (a "
            "pair is one noise and its one sample); set them, or take another coupling"
        )
    if coupling == "optimal_transport" and size == 1:
        raise UserError(
            "train.micro_batch_size: 1, but trajectory.coupling=optimal_transport permutes noise among rows: give 2 or "
            "more, or take independent"
        )
    check_transport(config, terms, n)


def check_transport(config: Config, terms: Collection[str], rows_per_caption: int) -> None:
    """Scoring rules and optimal transport go together within the rows of a caption only."""
    rules = sorted(SCORING_RULES & set(terms))
    if config.trajectory.coupling == "optimal_transport" and rows_per_caption == 1 and rules:
        raise UserError(
            f"trajectory.coupling: optimal_transport, but {', '.join(rules)} would not be proper (samples then depend "
            "on the image beyond its caption): add data.images_per_caption=2, of captions that have as many, or take "
            "independent"
        )
