"""Stage `e2ed2`: the whole sampler trained end to end (Eq. 7, Algorithm 1), one loss at the end."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from e2ed2.data.batch import ImageTextSet
from e2ed2.errors import UserError
from e2ed2.models.denoiser import pixart_denoiser
from e2ed2.objectives import reconstruction, scoring
from e2ed2.objectives.total import Term, evaluate_terms
from e2ed2.training.config import Config, ObjectiveConfig
from e2ed2.training.few_step import FewStepStage
from e2ed2.trajectory import draw_noises, unroll

SCORING_RULES = ("energy", "patch_energy")


class EndToEndStage(FewStepStage):
    """Unrolls the few-step sampler from noise, or from a noised image at a random step, and trains through it."""

    def __init__(self, config: Config, data: ImageTextSet, device: torch.device, say: Callable[[str], None]):
        self.weights = objective_weights(config.objective)
        super().__init__(config, data, device, say)
        self._terms = objective_terms(config.objective)
        self._trajectory = config.trajectory
        self._num_samples = config.objective.num_samples

    def loss_terms(
        self, network: nn.Module, ema: nn.Module, rows: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Every weighted objective of m samples per caption against the data, in latent space."""
        batch = self.data.batch(rows, generator)
        x0, m = batch.x0, self._num_samples
        start = 0
        if self._trajectory.start == "random_step":
            start = int(torch.randint(len(self.timesteps), (), generator=generator))
        timesteps = self.timesteps[start:]
        noises = draw_noises((m, *x0.shape), len(timesteps), generator).to(x0)
        if start == 0:
            x = noises[0]  # pure noise: nothing of x0 leaks, and samples of a caption differ from the start
        else:  # samples of a caption share x_t, without which the scoring rule is not proper
            x = self.schedule.add_noise(x0, noises[0, 0], timesteps[:1].expand(len(x0))).expand(m, *x0.shape)
        samples = unroll(
            pixart_denoiser(network),
            x.flatten(0, 1),
            timesteps,
            batch.cond.repeat(m),
            schedule=self.schedule,
            prediction_type=self.prediction_type,
            noises=noises[1:].flatten(1, 2),
            gradient_checkpointing=self._trajectory.gradient_checkpointing,
        )
        return evaluate_terms(self._terms, samples.float().unflatten(0, (m, len(x0))), x0)


def objective_weights(objective: ObjectiveConfig) -> dict[str, float]:
    """name -> weight of the terms that count.

    Raises:
        UserError: none has a weight, or a scoring rule has fewer than two samples per caption.
    """
    terms = ("l1", "l2", "huber", *SCORING_RULES)
    weights = {name: getattr(objective, name).weight for name in terms if getattr(objective, name).weight > 0}
    if not weights:
        raise UserError(
            f"objective: no term has a weight; give one of {', '.join(terms)}, e.g. objective.patch_energy.weight=1"
        )
    if objective.num_samples < 2 and any(name in weights for name in SCORING_RULES):
        raise UserError(
            f"objective.num_samples: {objective.num_samples}, but a scoring rule compares samples: give 2 or more"
        )
    return weights


def objective_terms(objective: ObjectiveConfig) -> dict[str, Term]:
    """name -> function of (samples [m, B, ...], x0 [B, ...]) for the weighted terms."""
    terms: dict[str, Term] = {
        "l1": reconstruction.l1,
        "l2": reconstruction.l2,
        "huber": reconstruction.huber,
        "energy": lambda samples, x0: scoring.energy_score(samples, x0, scoring.euclidean(objective.energy.beta)),
        "patch_energy": lambda samples, x0: scoring.energy_score(
            samples, x0, scoring.patch_euclidean(objective.patch_energy.beta)
        ),
    }
    return {name: terms[name] for name in objective_weights(objective)}
