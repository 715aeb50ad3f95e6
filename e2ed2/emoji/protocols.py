"""The emoji benchmark's protocols: which prompts, how many samples of each, against which real images.

| name | prompts | reference |
|---|---|---|
| `emoji` | captions seen in training, style named, 2 samples each | training images of the other captions |
| `emoji-heldout` | captions of unseen emoji, style named, 2 samples each | the images of the unseen emoji |
| `emoji-unseen` | of these the ones that finished models are compared on | their images |
| `emoji-validation` | the other ones, which settings are chosen on, 4 samples each | their images |
| `emoji-anystyle` | seen names without a style, 4 samples each | training images of the other names |
| `noto-heldout`, `lineart-heldout` | a style's captions held out from training, 2 samples each | their images |
| `noto-validation`, `lineart-validation` | those that settings are chosen on, 2 samples each | their images |

Prompts are drawn once by a fixed seed, so that every model answers the same ones; under `emoji` and `emoji-anystyle`
the drawn emoji (both styles) are no reference, so that the real images of the prompts are a fair floor row.

Importing this module adds them, and the metrics `alignment` and `style_share`, to the tables of `evaluation`.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import e2ed2.emoji.metrics  # noqa: F401 - adds its metrics
from e2ed2.data.image_set import TensorImages
from e2ed2.emoji.dataset import EmojiSet, load_emoji
from e2ed2.emoji.styles import Style, StyleSplit, load_style
from e2ed2.evaluation.asked import Asked, Floor, Networks, Protocol, RealImages
from e2ed2.evaluation.features.extractors import Extractor
from e2ed2.evaluation.metrics.neighbourhoods import NEAREST_K
from e2ed2.evaluation.metrics.table import check_counts, metric_named
from e2ed2.evaluation.protocols import FOLDERS, KINDS, protocol_names
from e2ed2.models.autoencoder import decode_all, encode_all
from e2ed2.models.folders.bundled import AUTOENCODER, resolve_model
from e2ed2.models.folders.pipeline import load_autoencoder
from e2ed2.recipe.fields import Count
from e2ed2.system.errors import UserError
from e2ed2.system.readers.typed import Part
from e2ed2.system.watch import Watch, silent

DRAW_SEED = 20260101
BUNDLED_METRICS = [
    "kernel_distance", "frechet_distance", "alignment", "precision", "recall", "coverage", "spread", "sharpness",
]  # fmt: skip


class Emoji(Part):
    """Prompts and reference from the bundled emoji set.

    Attributes:
        style: of `emoji.styles`, by default the two that the bundled models know. split: of those it has.
        captions: `styled` (`red apple, twemoji style`) or `plain` (`red apple`).
    """

    style: Style | None = None
    split: StyleSplit | Literal["unseen"]
    captions: Literal["styled", "plain"]

    def load(self, progress: Callable[[int, int], None]) -> EmojiSet:
        """The images and captions of the split."""
        return load_style(self.style, self.split, progress) if self.style else load_emoji(self.split, progress)


class EmojiProtocol(Protocol):
    """A protocol of the emoji benchmark, by default measured in EfficientNet features."""

    emoji: Emoji
    num_images: Count
    samples_per_prompt: Count
    networks: Networks = Networks(features="efficientnet")
    metrics: list[str] = BUNDLED_METRICS

    @property
    def default_num_images(self) -> int:
        return self.num_images

    def load(self, name: str, num_images: int | None, data: Path | None, watch: Watch = silent) -> Asked:
        if data is not None:
            raise UserError(f"--data {data}: protocol {name} brings its own data; leave it out")
        emoji = self.emoji.load(partial(watch, "rendering emoji"))
        captions = emoji.plain_captions if self.emoji.captions == "plain" else emoji.captions
        rows = self._drawn(name, emoji, captions, num_images)
        drawn = {emoji.names[i] for i in rows}
        others = [i for i in range(len(emoji)) if self.emoji.split != "train" or emoji.names[i] not in drawn]
        note = ", prompts' emoji left out" if self.emoji.split == "train" else ""
        asked = Asked(
            name=name,
            protocol=self,
            prompts=[captions[i] for i in rows for _ in range(self.samples_per_prompt)],
            samples_per_prompt=self.samples_per_prompt,
            real={"reference": _reference(emoji, others)},
            reference=f"{self.emoji.style or 'emoji'} {self.emoji.split}, {len(others)} images{note}",
            metrics=self.metrics,
            notes=[],
        )
        counts = {"samples": len(asked.prompts), "reference": len(others)}
        notes = check_counts(self.metrics, counts, self.samples_per_prompt)
        floors = {kind: partial(_floor, kind, asked, emoji, captions, rows) for kind in ("real", "autoencoder")}
        return replace(asked, notes=notes, floors=floors)

    def _drawn(self, name: str, emoji: EmojiSet, captions: list[str], num_images: int | None) -> list[int]:
        """The rows whose captions are asked, one for each distinct caption."""
        order = torch.randperm(len(emoji), generator=torch.Generator().manual_seed(DRAW_SEED)).tolist()
        rows = list({captions[i]: i for i in reversed(order)}.values())[::-1]
        wanted, count = self.num_images if num_images is None else num_images, self.samples_per_prompt
        least = max(2, math.ceil(2 * NEAREST_K / count)) * count  # what the metrics need
        if wanted % count or not least <= wanted <= len(rows) * count:
            makes = f"protocol {name} makes {count} images per prompt for up to {len(rows)} prompts"
            allowed = f"a multiple of {count} from {least} to {len(rows) * count}"
            raise UserError(f"--num-images {wanted}: {makes}, so give {allowed}")
        return rows[: wanted // count]

    def facts(self, asked: Asked, real_sha256: Mapping[str, str], formats: str) -> dict[str, Any]:
        """Of those that ship, whose prompts and images follow from pinned packages and a draw: names stand for them."""
        if asked.name not in protocol_names():
            return super().facts(asked, real_sha256, formats)
        num_prompts = len(asked.prompts) // asked.samples_per_prompt
        return {"protocol": asked.name, "num_prompts": num_prompts, "reference": asked.reference}

    def network_facts(self, networks: Mapping[str, Extractor]) -> dict[str, Any]:
        """Of those that ship one, which the alignment head looks through as well."""
        if networks.keys() != {"efficientnet"}:
            return super().network_facts(networks)
        return {"features_sha256": networks["efficientnet"].weights_sha256}


KINDS["emoji"] = EmojiProtocol
FOLDERS.append(Path(__file__).parent / "assets")


def _reference(emoji: EmojiSet, rows: list[int]) -> RealImages:
    """The images of a split that count; features are kept of all of it, whatever part is asked for."""
    names, styles = [emoji.names[i] for i in rows], [emoji.styles[i] for i in rows]
    return RealImages(TensorImages(emoji.images, "reference"), rows, groups=names, labels=styles)


def _floor(kind: str, asked: Asked, emoji: EmojiSet, captions: list[str], rows: list[int]) -> Floor:
    """What no model can be expected to beat: real images of the prompts, or what the autoencoder keeps of them.

    One image a prompt, so that there is no `spread`. A copy of a reference image is no floor: where the prompts' real
    images are among the reference (of what is held out there are no other images), half of the emoji are asked, and
    the other half are the reference.
    """
    reference, real = asked.reference, asked.real["reference"]
    assert real.groups is not None and real.rows is not None
    if set(rows) & set(real.rows):
        half = set(sorted({emoji.names[i] for i in real.rows})[::2])
        rows = [i for i in rows if emoji.names[i] in half]
        others = [i for i in real.rows if emoji.names[i] not in half]
        real = _reference(emoji, others)
        reference = f"{reference.partition(',')[0]}, {len(others)} images of the other half of the emoji"
    images, rate = emoji.images[rows], None
    if kind == "autoencoder":
        images, rate = _reconstructed(images)
    asked = replace(
        asked,
        prompts=[captions[i] for i in rows],
        samples_per_prompt=1,
        real={"reference": real},
        reference=reference,
        metrics=[name for name in asked.metrics if metric_named(name).least_samples < 2],
    )
    return Floor(asked, images, rate)


def _reconstructed(images: Tensor) -> tuple[Tensor, float]:
    """(uint8 images decoded from their own latents, images per second) by the bundled autoencoder."""
    autoencoder = load_autoencoder(resolve_model(AUTOENCODER))
    started = time.perf_counter()
    with torch.inference_mode():
        decoded = decode_all(autoencoder, encode_all(autoencoder, images))
    return decoded, len(images) / (time.perf_counter() - started)
