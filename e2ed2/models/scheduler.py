"""Our noise schedules and solvers in the words of diffusers' schedulers, and back."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

from torch import Tensor

from e2ed2.prediction import PredictionType
from e2ed2.schedule import NoiseSchedule, flow_schedule, trigflow_schedule, variance_preserving
from e2ed2.system.errors import UserError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
NOISE_FIELDS = (*BETAS, "trained_betas", "rescale_betas_zero_snr", "prediction_type")
ORIGINAL_INFERENCE_STEPS = 50
NUM_TRAIN_TIMESTEPS = 1000
LEAST_SIGNAL = 1e-3  # alpha at the last timestep: 0.068 in Stable Diffusion, 0.0063 in PixArt
LEAST_RISE = -1e-6  # of one level to the next: diffusers puts 2**-24 in place of a last alphas_cumprod of zero
CONFIG_FILE = "scheduler/scheduler_config.json"
SCM = "SCMScheduler"  # SANA-Sprint's
ANCESTRAL = ("EulerAncestralDiscreteScheduler", "DDPMScheduler")  # SDXL-Turbo's, and what ours is exported as


def noise_scheduler(solver: str, prediction_type: str) -> "SchedulerMixin":
    """The diffusers scheduler of our own models, `lcm` or `ddim` with the betas of the PixArt family.

    Raises:
        UserError: another solver.
    """
    from diffusers import DDIMScheduler, LCMScheduler

    if solver == "lcm":
        return LCMScheduler(**BETAS, original_inference_steps=ORIGINAL_INFERENCE_STEPS, prediction_type=prediction_type)
    if solver != "ddim":
        raise UserError(f"solver {solver}: models of our own are sampled with lcm or ddim")
    return DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing="trailing", prediction_type=prediction_type)


def few_step_scheduler(solver: str, start: Any) -> "SchedulerMixin":
    """The diffusers scheduler that does what our solver does, at the noise levels of a start's scheduler.

    Raises:
        UserError: a solver without one.
    """
    check_exportable(solver)
    return EXPORTERS[solver](start)


def check_exportable(solver: str) -> None:
    """Raise UserError where no scheduler of diffusers does what a solver does: what it trains could not be exported."""
    if solver not in EXPORTERS:
        allowed = f"give one of {', '.join(EXPORTERS)}"
        raise UserError(f"trajectory.solver: {solver} has no scheduler in diffusers that it is exported as; {allowed}")


def _lcm(start: Any) -> "SchedulerMixin":
    from diffusers import LCMScheduler

    return LCMScheduler(**_noise_fields(start), original_inference_steps=ORIGINAL_INFERENCE_STEPS)


def _ddim(start: Any) -> "SchedulerMixin":
    """DPM-Solver++ of order 1, which is DDIM (arXiv:2211.01095).

    Unlike diffusers' DDIMScheduler it goes to the next of its timesteps when their number does not divide 1000, and
    takes a list of them.
    """
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**_noise_fields(start), solver_order=1, timestep_spacing="trailing")


def _ancestral(start: Any) -> "SchedulerMixin":
    """DDPM's own, which takes a list of timesteps; ancestral Euler does the same, and takes none."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        **_noise_fields(start), variance_type="fixed_small", clip_sample=False, timestep_spacing="trailing"
    )


def _euler(start: Any) -> "SchedulerMixin":
    return flow_scheduler(_shift(start))


def _scm(start: Any) -> "SchedulerMixin":
    from diffusers import SCMScheduler

    return SCMScheduler(sigma_data=start.config.sigma_data)


def flow_scheduler(shift: float) -> "SchedulerMixin":
    """Euler's rule at the noise levels of a rectified flow with one fixed shift."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=shift)


def has_dynamic_shift(scheduler: Any) -> bool:
    """Whether a flow's noise levels go by the size of the picture: for one size that is a fixed shift."""
    return is_flow(scheduler) and bool(scheduler.config.get("use_dynamic_shifting"))


def _noise_fields(start: Any) -> dict[str, Any]:
    return {name: start.config[name] for name in NOISE_FIELDS if name in start.config}


EXPORTERS: dict[str, Callable[[Any], "SchedulerMixin"]] = {
    "lcm": _lcm,
    "ddim": _ddim,
    "ancestral": _ancestral,
    "euler": _euler,
    "scm": _scm,
}


def schedule_of(scheduler: Any) -> NoiseSchedule:
    """The noise levels of a diffusers scheduler, variance preserving or of rectified flow.

    Raises:
        UserError: of another kind, such as EDM's, or not of 1000 timesteps; levels that do not rise from data to noise;
            a prediction that is unknown, or of the noise where nothing else is left (zero terminal SNR,
            arXiv:2305.08891).
    """
    schedule, name = _levels(scheduler), type(scheduler).__name__
    if not _rise(schedule.sigmas):
        raise UserError(f"model.path: the noise levels of its {name} do not rise within 0 to 1; mend {CONFIG_FILE}")
    if prediction_type_of(scheduler) == "epsilon" and (last := schedule.alphas[-1].item()) < LEAST_SIGNAL:
        raise UserError(
            f"model.path: its {name} leaves a signal of {last:.2g} at the last timestep, and there is no noise "
            f"prediction at zero SNR: give a v_prediction model, or set rescale_betas_zero_snr false in {CONFIG_FILE}"
        )
    return schedule


def _levels(scheduler: Any) -> NoiseSchedule:
    name, config = type(scheduler).__name__, scheduler.config
    if config.get("num_train_timesteps") != NUM_TRAIN_TIMESTEPS or config.get("use_dynamic_shifting"):
        raise UserError(f"model.path: its {name} is not of {NUM_TRAIN_TIMESTEPS} timesteps and one fixed shift")
    if is_flow(scheduler) and config.get("stochastic_sampling"):
        problem = "draws noise after every step, which is not unrolled here"
        raise UserError(f"model.path: its {name} {problem}: set stochastic_sampling false in {CONFIG_FILE}")
    if is_flow(scheduler):
        return flow_schedule(NUM_TRAIN_TIMESTEPS, _shift(scheduler))
    if name == SCM:
        return trigflow_schedule(NUM_TRAIN_TIMESTEPS)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(f"model.path: the noise levels of its {name} are not known here; give it a DDIMScheduler")
    return variance_preserving(scheduler.alphas_cumprod)


def _rise(sigmas: Tensor) -> bool:
    """Whether levels [T] rise from 0 or more to 1 or less; nan does not."""
    if sigmas.shape != (NUM_TRAIN_TIMESTEPS,) or not (sigmas[0] >= 0 and sigmas[-1] <= 1 + 1e-5):
        return False
    return bool((sigmas.diff() >= LEAST_RISE).all() and sigmas[-1] > sigmas[0])


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is of rectified flow."""
    return type(scheduler).__name__.startswith("FlowMatchEuler") or bool(scheduler.config.get("use_flow_sigmas"))


def _shift(scheduler: Any) -> float:
    """The fixed shift of a flow's noise levels; DPM-Solver++ (SANA's) has another name for it."""
    return scheduler.config.flow_shift if scheduler.config.get("use_flow_sigmas") else scheduler.config.shift


def solvers_for(scheduler: Any) -> list[str]:
    """Our solvers that a model with this scheduler can be unrolled with."""
    if is_flow(scheduler):
        return ["euler"]
    return ["scm"] if type(scheduler).__name__ == SCM else ["lcm", "ddim", "ancestral"]


def prediction_type_of(scheduler: Any) -> PredictionType:
    """What the network predicts.

    Raises:
        UserError: something unknown here.
    """
    if is_flow(scheduler):
        return "flow_prediction"
    if type(scheduler).__name__ == SCM:
        return "v_prediction"  # as the families with it make theirs
    known, found = get_args(PredictionType), scheduler.config.get("prediction_type")
    if found not in known:
        allowed = f"one of {', '.join(known)}"
        raise UserError(f"model.path: its prediction_type is {repr(found)[:80]}; mend {CONFIG_FILE}: {allowed}")
    return found


def solver_of(scheduler: Any) -> str:
    """Our solver for a model as it is: `lcm`, trailing `ancestral`, `euler` for flow, `scm`, `ddim` for all others."""
    if is_flow(scheduler):
        return "euler"
    if type(scheduler).__name__ == SCM:
        return "scm"
    name = type(scheduler).__name__
    if name in ANCESTRAL and scheduler.config.timestep_spacing == "trailing":
        return "ancestral"
    return "lcm" if name == "LCMScheduler" else "ddim"


def few_step_solver(scheduler: Any) -> str:
    """The solver to unroll from a start: its own where it was made for few steps, `lcm` otherwise.

    Trailing Euler in diffusers' units is `ddim` in ours (SDXL-Lightning), as is order 1 of DPM-Solver++; trailing
    ancestral Euler (SDXL-Turbo) is `ancestral`.
    """
    name, config, own = type(scheduler).__name__, scheduler.config, solver_of(scheduler)
    trailing_euler = name == "EulerDiscreteScheduler" and config.timestep_spacing == "trailing"
    made_for_few = trailing_euler or (name == "DPMSolverMultistepScheduler" and config.solver_order == 1)
    return own if own != "ddim" or made_for_few else "lcm"
