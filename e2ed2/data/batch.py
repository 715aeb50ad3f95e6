"""Captioned images, decoded."""

from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor

from e2ed2.data.items import SkippedItem


@dataclass(frozen=True)
class Picture:
    """A decoded item.

    Attributes:
        image: uint8 [3, h, w], RGB.
        captions: of which one is drawn each time.
        micro: what SDXL's time ids hold (arXiv:2307.01952, Sec. 2.2), in its order: original height and width, top and
            left of the crop in the resized image, target height and width.
        plain_caption: one with less detail, where a source has it.
    """

    key: str
    image: Tensor
    captions: tuple[str, ...]
    micro: tuple[int, ...]
    plain_caption: str | None = None


@dataclass(frozen=True)
class ImageTextSet:
    """Captioned images in memory.

    Attributes:
        images: uint8 [N, 3, S, S], RGB.
        captions: one line each, never empty.
        keys: unique and stable names; for a folder the path relative to it, `cats/tom.png`.
        skipped: what was left out.
        micro: [N, 6], as in `Picture`; by default those of images that were neither scaled nor cut.
        by_default: of each image whether it was given the default caption; None where there is no such caption.
    """

    images: Tensor
    captions: list[str]
    keys: list[str]
    skipped: list[SkippedItem] = field(default_factory=list, kw_only=True)
    micro: Tensor | None = field(default=None, kw_only=True)
    by_default: list[bool] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def size(self) -> int:
        return self.images.shape[-1]

    @property
    def sides(self) -> list[tuple[int, int]]:
        """Height and width of each image as it was found; none where nobody knows."""
        return [] if self.micro is None else [(int(row[0]), int(row[1])) for row in self.micro]

    @property
    def plain_captions(self) -> list[str]:
        """Captions with less detail, where a source has them; here the captions themselves."""
        return self.captions

    @property
    def has_plain(self) -> bool:
        """Whether those are others than the captions."""
        return self.plain_captions != self.captions

    def fingerprint(self) -> str:
        """Changes with the data."""
        digest = sha256(repr((self.keys, self.captions, self.plain_captions)).encode())
        digest.update(self.images.numpy().tobytes())
        return digest.hexdigest()

    def pictures(self, rows: Tensor) -> list[Picture]:
        """The items `rows` [B]."""
        s, plain = self.size, self.plain_captions if self.has_plain else None
        return [
            Picture(
                self.keys[row],
                self.images[row],
                (self.captions[row],),
                (s, s, 0, 0, s, s) if self.micro is None else tuple(self.micro[row].tolist()),
                None if plain is None else plain[row],
            )
            for row in rows.tolist()
        ]

    def preview(self, count: int) -> list[Picture]:
        """At most `count` items, spread over the set."""
        return self.pictures(spread(len(self), count))


def spread(num_items: int, count: int) -> Tensor:
    """At most `count` of the rows 0 to num_items - 1, evenly."""
    count = min(count, num_items)
    return torch.arange(count) * (num_items // max(count, 1))
