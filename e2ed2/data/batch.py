"""What a data source hands over: images with captions, and what had to be left out."""

from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class SkippedItem:
    """An item that cannot be used, and why. `path` is the file at fault, `metadata.jsonl:7` for a bad row."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class ImageTextSet:
    """Captioned images in memory.

    Attributes:
        images: uint8 [N, 3, S, S], RGB.
        captions: one line each, never empty.
        keys: unique and stable names; for a folder the path relative to it, `cats/tom.png`.
        skipped: what was left out.
    """

    images: torch.Tensor
    captions: list[str]
    keys: list[str]
    skipped: list[SkippedItem] = field(default_factory=list, kw_only=True)

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def plain_captions(self) -> list[str]:
        """Captions with less detail, where a source has them; here the captions themselves."""
        return self.captions
