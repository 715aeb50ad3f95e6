"""The terms of the end-to-end loss by their names in a recipe, and which rows of a micro-batch each of them sees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from e2ed2.objectives import kernel, reconstruction, scoring
from e2ed2.objectives.perceptual import Maps, feature_distance, lpips
from e2ed2.objectives.total import Term, evaluate_terms
from e2ed2.recipe.objective import SCORING_RULES, ObjectiveConfig
from e2ed2.training.latents.latent_set import LatentBatch

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
    "mmd": lambda objective: kernel.feature_mmd,
}
DECODER_TERMS: dict[str, Callable[[ObjectiveConfig], FeatureTerm]] = {  # of latents on their way through the decoder
    "latent_lpips": lambda objective: lpips,
    "latent_lpips_energy": lambda objective: partial(
        scoring.energy_score, distance=feature_distance(objective.latent_lpips_energy.beta)
    ),
}


@dataclass(frozen=True)
class Judge:
    """Which of a micro-batch's rows a term sees: scoring rules `groups`, MMD `full`, all others `own`.

    But for MMD's a value is weighted by the share of rows it is of, so that every row counts the same; of none it
    is 0.

    Attributes:
        full: numbers of the rows of full captions.
    """

    own: slice
    groups: slice
    full: Tensor
    num_rows: int

    def latents(self, terms: Mapping[str, LatentTerm], samples: Tensor, x0: Tensor) -> dict[str, Tensor]:
        """Values of samples [m, B, C, h, w] against x0 [B, C, h, w]."""
        return self._values(terms, samples, lambda rows: (samples[:, rows], x0[rows]))

    def maps(self, terms: Mapping[str, FeatureTerm], samples: list[Maps], x0: Maps) -> dict[str, Tensor]:
        """Values of the m samples' feature maps, [B, ...] each, against the data's."""

        return self._values(terms, samples[0][0], lambda rows: _rows_of(rows, samples, x0))

    def sets(self, terms: Mapping[str, FeatureTerm], samples: list[Maps], x0: Maps) -> dict[str, Tensor]:
        """The terms that compare sets, on the rows of full captions; 0 of fewer than two.

        Where a caption leaves something open they would take sides: the samples that average over what is possible
        lie far from all data, and are pulled to the possibility that the network's features tell most of.
        """
        if len(self.full) < 2:
            return {name: 0.0 * samples[0][0].sum() for name in terms}
        return evaluate_terms(terms, *_rows_of(self.full.to(x0[0].device), samples, x0))

    def _values(
        self, terms: Mapping[str, Term[Any, Any]], like: Tensor, part: Callable[[slice], tuple[Any, Any]]
    ) -> dict[str, Tensor]:
        values = {}
        for name, term in terms.items():
            rows = self.groups if name in SCORING_RULES else self.own
            share = len(range(*rows.indices(self.num_rows))) / self.num_rows
            values[name] = share * term(*part(rows)) if share > 0 else 0.0 * like.sum()
        return values


def judge_of(batch: LatentBatch, start: int, rows_per_caption: int) -> Judge:
    """In class batches scoring rules judge the groups, and the other terms the rest.

    From a later step on, where x_t tells which of a caption's images it is of, the other terms judge everything.
    """
    num_rows, full = len(batch.x0), torch.nonzero(batch.is_full).flatten()
    if rows_per_caption == 1:
        return Judge(slice(None), slice(None), full, num_rows)
    first = num_rows - (batch.num_grouped if start == 0 else 0)
    return Judge(slice(0, first), slice(first, num_rows), full, num_rows)


def _rows_of(rows: slice | Tensor, samples: list[Maps], x0: Maps) -> tuple[list[Maps], Maps]:
    return [tuple(level[rows] for level in maps) for maps in samples], tuple(level[rows] for level in x0)
