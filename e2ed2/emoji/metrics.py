"""The metrics that only this benchmark has: fit of image and caption by a small head, and shares of styles."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from e2ed2.emoji.alignment import alignment
from e2ed2.evaluation.metrics.intervals import Estimate, Groups, share_estimate
from e2ed2.evaluation.metrics.table import METRICS, Metric

if TYPE_CHECKING:
    from e2ed2.evaluation.measurement import Measurement

_ROW_BLOCK = 1024


def _alignment(m: "Measurement", samples: Tensor) -> Estimate:
    return alignment(samples, m.prompts)


def _style_share(m: "Measurement", samples: Tensor, reference: Tensor) -> dict[str, Estimate]:
    assert m.reference.labels is not None
    return style_shares(samples, reference, m.reference.labels, m.prompts)


def nearest_styles(features: Tensor, reference_features: Tensor, reference_styles: Sequence[str]) -> list[str]:
    """The style of each image's nearest reference image, by cosine of features [N, D] and [M, D]."""
    real = F.normalize(reference_features.float(), dim=1)
    rows = [F.normalize(chunk.float(), dim=1) @ real.T for chunk in features.split(_ROW_BLOCK)]
    return [reference_styles[i] for chunk in rows for i in chunk.argmax(1).tolist()]


def style_shares(
    features: Tensor, reference_features: Tensor, reference_styles: Sequence[str], groups: Groups = None
) -> dict[str, Estimate]:
    """For prompts that name no style: share of samples nearest to each style of the reference.

    Args:
        groups: the caption of each sample.
    """
    found = nearest_styles(features, reference_features, reference_styles)
    return {
        style: share_estimate(torch.tensor([f == style for f in found]), groups)
        for style in sorted(set(reference_styles))
    }


METRICS["alignment"] = Metric(
    "alignment", "align", "higher",
    "How well an image fits its caption: mean cosine in a small contrastive head that no training has seen.",
    _alignment, "efficientnet", ("samples",),
)  # fmt: skip
METRICS["style_share"] = Metric(
    "share of {}", "{}", "shown", "Share of samples whose nearest real image is in {} style.",
    _style_share, "efficientnet",
)  # fmt: skip
