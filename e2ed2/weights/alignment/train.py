"""Trains the alignment head (`emoji/alignment.py`) again, and prints its card.

python -m e2ed2.weights.alignment.train
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from e2ed2.emoji.alignment import (
    CAPTION_DIM,
    HEAD_FILE,
    AlignmentHead,
    cached_rows,
    caption_embeddings,
)
from e2ed2.emoji.dataset import STYLES, EmojiSet, load_emoji, styled_caption
from e2ed2.evaluation.features.efficientnet import WEIGHTS_SHA256, EfficientNetFeatures
from e2ed2.models.text import MINILM_SHA256
from e2ed2.system.files import file_sha256

SEED = 0
NUM_AUGMENTED = 2  # altered copies of every training image
NUM_EPOCHS, BATCH_SIZE, MAX_LR, WEIGHT_DECAY, DROPOUT = 30, 512, 1e-3, 0.1, 0.2
NEAR_DUPLICATE = 0.9  # captions whose embeddings have this cosine are not each other's negatives
_IMAGE_CHUNK = 32

Progress = Callable[[int, int], None]  # called with (done, total)


def train_alignment_head(progress: Progress | None = None) -> tuple[AlignmentHead, dict[str, Any]]:
    """Train the head on the emoji training split and measure it on the held-out one.

    The head takes seconds; the features of the altered images, cached once measured, take minutes. The result
    is the same every time on one machine, and equal up to rounding on others.

    Returns:
        The head, and its card less the file's hash.
    """
    train, heldout = load_emoji("train"), load_emoji("heldout")
    extract = EfficientNetFeatures()
    generator = torch.Generator().manual_seed(SEED)
    versions = [train.images] + [_augment(train.images, generator) for _ in range(NUM_AUGMENTED)]
    features = torch.stack([_image_features(images, extract, progress) for images in versions])
    head = _fit(features, train, generator)
    card = {
        "what": "linear maps of EfficientNet-lite0 features and mean-pooled MiniLM-L6 embeddings; their cosine",
        "use": "measuring only, never a loss",
        "command": "python -m e2ed2.weights.alignment.train",
        "data": f"emoji train split, {len(train)} images, captions with and without style",
        "encoders_sha256": {"efficientnet-lite0": WEIGHTS_SHA256, "minilm-l6": MINILM_SHA256},
        "seed": SEED,
        "torch": torch.__version__,
        "heldout": _retrieval(head, heldout, extract),
        "train": _retrieval(head, train, extract),
    }
    return head, card


def _image_features(images: Tensor, extract: EfficientNetFeatures, progress: Progress | None = None) -> Tensor:
    """Features [N, 1280] of uint8 images [N, 3, H, W], kept in the cache."""

    def measured() -> Iterator[Tensor]:
        for start in range(0, len(images), _IMAGE_CHUNK):
            yield extract([*images[start : start + _IMAGE_CHUNK]])
            if progress:
                progress(start, len(images))

    key = hashlib.sha256(f"{extract.weights_sha256} {tuple(images.shape)}".encode())
    key.update(images.contiguous().numpy().tobytes())
    return cached_rows(f"features-{key.hexdigest()}", lambda: torch.cat([*measured()]))


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Lightly altered copies of uint8 [N, 3, H, W]: moved, scaled, tinted, blurred, noisy; never mirrored.

    A mirrored arrow or letter is another emoji. Blur and noise are what few-step samples suffer from.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(images), *shape, generator=generator)

    affine = torch.zeros(len(images), 2, 3)
    affine[:, 0, 0] = affine[:, 1, 1] = uniform(0.87, 1.15)
    affine[:, :, 2] = uniform(-0.15, 0.15, 2)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    ink = F.grid_sample(1 - images.float() / 255, grid, align_corners=False)  # white comes in at the edges
    pixels = (0.5 - ink) * uniform(0.85, 1.15, 1, 1, 1) + 0.5 + uniform(-0.05, 0.05, 3, 1, 1)
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pixels = torch.lerp(pixels, blurred, uniform(0, 0.8, 1, 1, 1))
    pixels = pixels + uniform(0, 0.05, 1, 1, 1) * torch.randn(pixels.shape, generator=generator)
    return (pixels.clamp(0, 1) * 255).round().byte()


def _fit(features: Tensor, data: EmojiSet, generator: torch.Generator) -> AlignmentHead:
    """Symmetric InfoNCE with AdamW and one learning-rate cycle.

    Args:
        features: of each version of each image, [V, N, 1280].
    """
    torch.manual_seed(SEED)
    mean, std = features.mean((0, 1)), features.std((0, 1)) + 1e-3
    features = (features - mean) / std
    plain, styled = caption_embeddings(data.plain_captions), caption_embeddings(data.captions)
    style = torch.tensor([STYLES.index(s) for s in data.styles])
    head = AlignmentHead()
    log_scale = nn.Parameter(torch.tensor(2.7))  # logit scale e^2.7 = 15 at the start
    optimizer = torch.optim.AdamW([*head.parameters(), log_scale], MAX_LR, weight_decay=WEIGHT_DECAY)
    num_steps = NUM_EPOCHS * (len(data) // BATCH_SIZE)
    lr_schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, MAX_LR, total_steps=num_steps)
    for _ in range(NUM_EPOCHS):
        order = torch.randperm(len(data), generator=generator)
        for rows in order[: len(data) // BATCH_SIZE * BATCH_SIZE].split(BATCH_SIZE):
            version = torch.randint(len(features), (BATCH_SIZE,), generator=generator)
            is_plain = torch.rand(BATCH_SIZE, generator=generator) < 0.5
            captions = torch.where(is_plain[:, None], plain[rows], styled[rows])
            images = head.embed_images(F.dropout(features[version, rows], DROPOUT))
            # the scale keeps the entries of a unit vector near 1, as the image side has them
            texts = head.embed_captions(F.dropout(captions * CAPTION_DIM**0.5, DROPOUT))
            # A near-duplicate caption is no negative, unless it names the other style.
            near = plain[rows] @ plain[rows].T > NEAR_DUPLICATE
            near &= is_plain | (style[rows, None] == style[rows])
            loss = _info_nce(log_scale.exp() * images @ texts.T, near)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lr_schedule.step()
    return _fold_scaling(head, mean, std)


def _info_nce(logits: Tensor, ignored: Tensor) -> Tensor:
    """Symmetric InfoNCE of logits [B, B] whose diagonal is true; ignored pairs [B, B] are no negatives."""
    target = torch.arange(len(logits))
    ignored = ignored & ~torch.eye(len(logits), dtype=torch.bool)
    logits = logits.masked_fill(ignored, -torch.inf)
    return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


@torch.no_grad()
def _fold_scaling(head: AlignmentHead, mean: Tensor, std: Tensor) -> AlignmentHead:
    """The same head for raw features and unit caption embeddings."""
    head.image.weight.div_(std)
    head.image.bias.sub_(head.image.weight @ mean)
    head.caption.weight.mul_(CAPTION_DIM**0.5)
    return head.eval().requires_grad_(False)


def _retrieval(head: AlignmentHead, data: EmojiSet, extract: EfficientNetFeatures) -> dict[str, float | int]:
    """Image-to-caption retrieval among all captions of the split, with and without style; mean cosines."""
    images = head.embed_images(_image_features(data.images, extract))
    scores: dict[str, float | int] = {"num_images": len(data)}
    for kind, own in (("styled", data.captions), ("plain", data.plain_captions)):
        distinct = list(dict.fromkeys(own))
        cosines = images @ head.embed_captions(caption_embeddings(distinct)).T
        row = {caption: i for i, caption in enumerate(distinct)}
        true = cosines.gather(1, torch.tensor([row[caption] for caption in own])[:, None])
        rank = (cosines > true).sum(1)
        scores |= {
            f"{kind}_num_captions": len(distinct),
            f"{kind}_top1": round(float((rank < 1).double().mean()), 4),
            f"{kind}_top5": round(float((rank < 5).double().mean()), 4),
            f"{kind}_cosine": round(float(true.mean()), 4),
            f"{kind}_cosine_any_caption": round(float(cosines.mean()), 4),
        }
    other_style = dict(zip(STYLES, reversed(STYLES), strict=True))
    other = [styled_caption(n, other_style[s]) for n, s in zip(data.names, data.styles, strict=True)]
    own_cosine = (images * head.embed_captions(caption_embeddings(data.captions))).sum(1)
    other_cosine = (images * head.embed_captions(caption_embeddings(other))).sum(1)
    scores["style_accuracy"] = round(float((own_cosine > other_cosine).double().mean()), 4)
    return scores


def main() -> None:
    """Train the head, write it and its card, print the card."""
    head, card = train_alignment_head(lambda done, total: print(f"\r{done}/{total}", end="", file=sys.stderr))
    save_file(head.state_dict(), HEAD_FILE)
    card["sha256"] = file_sha256(HEAD_FILE)
    HEAD_FILE.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
