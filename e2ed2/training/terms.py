"""The terms of the end-to-end loss by their names in a recipe, and which rows of a micro-batch each of them sees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from e2ed2.objectives import kernel, reconstruction, scoring
from e2ed2.objectives.perceptual import Maps, feature_distance, lpips
from e2ed2.objectives.total import Term
from e2ed2.training.config import Config, objective_weights
from e2ed2.training.objective_config import SCORING_RULES, ObjectiveConfig

LatentTerm = Term[Tensor, Tensor]  # samples [m, B, C, h, w], x0 [B, C, h, w]
FeatureTerm = Term[list[Maps], Maps]  # the m samples' feature maps, the data's

LATENT_TERMS: dict[str, Callable[[ObjectiveConfig], LatentTerm]] = {
    "l1": lambda objective: reconstruction.l1,
    "l2": lambda objective: reconstruction.l2,
    "huber": lambda objective: reconstruction.huber,
    "energy": lambda objective: partial(
        scoring.energy_score, distance=scoring.euclidean(objective.energy.beta)
    ),
    "patch_energy": lambda objective: partial(
        scoring.energy_score, distance=scoring.patch_euclidean(objective.patch_energy.beta)
    ),
}
FEATURE_TERMS: dict[str, Callable[[ObjectiveConfig], FeatureTerm]] = {  # of decoded images
    "lpips": lambda objective: lpips,
    "lpips_energy": lambda objective: partial(
        scoring.energy_score, distance=feature_distance(objective.lpips_energy.beta)
    ),
}
SET_TERMS: dict[str, Callable[[ObjectiveConfig], FeatureTerm]] = {  # the same, of the samples of full captions
    "mmd": lambda objective: kernel.of_pooled_features(kernel.mmd),
    "drifting": lambda objective: kernel.of_pooled_features(kernel.drifting),
}
DECODER_TERMS: dict[str, Callable[[ObjectiveConfig], FeatureTerm]] = {  # of latents on their way through the decoder
    "latent_lpips": lambda objective: lpips,
    "latent_lpips_energy": lambda objective: partial(
        scoring.energy_score, distance=feature_distance(objective.latent_lpips_energy.beta)
    ),
}


def judges_features(config: Config) -> bool:
    """Whether a term sees features of decoded samples and of the pictures themselves."""
    weights = objective_weights(config)
    return bool(weights.keys() & (FEATURE_TERMS | SET_TERMS).keys()) or (
        "adversarial" in weights and config.objective.adversarial.space == "feature"
    )


@dataclass(frozen=True)
class Judge:
    """Which of a micro-batch's rows a term sees: scoring rules `groups`, all others `own`.

    A value is weighted by the share of rows it is of, so that every row counts the same; of none it is 0.
    """

    own: slice
    groups: slice
    num_rows: int

    def latents(self, terms: Mapping[str, LatentTerm], samples: Tensor, x0: Tensor) -> dict[str, Tensor]:
        """Values of samples [m, B, C, h, w] against x0 [B, C, h, w]."""
        return self._values(terms, samples, lambda rows: (samples[:, rows], x0[rows]))

    def maps(self, terms: Mapping[str, FeatureTerm], samples: list[Maps], x0: Maps) -> dict[str, Tensor]:
        """Values of the m samples' feature maps, [B, ...] each, against the data's."""

        def part(rows: slice) -> tuple[list[Maps], Maps]:
            return [tuple(level[rows] for level in maps) for maps in samples], tuple(level[rows] for level in x0)

        return self._values(terms, samples[0][0], part)

    def _values(
        self, terms: Mapping[str, Term[Any, Any]], like: Tensor, part: Callable[[slice], tuple[Any, Any]]
    ) -> dict[str, Tensor]:
        values = {}
        for name, term in terms.items():
            rows = self.groups if name in SCORING_RULES else self.own
            share = len(range(*rows.indices(self.num_rows))) / self.num_rows
            values[name] = share * term(*part(rows)) if share > 0 else 0.0 * like.sum()
        return values
