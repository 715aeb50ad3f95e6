"""A user whose key is made for the tests, and files that are labelled with it."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from e2ed2.provenance.label import full_label
from e2ed2.sampling.label import Made

MADE = Made("emoji-lcm", "a" * 64, 4, 4, "a red cat, 'été' 🦊", 7)


@pytest.fixture(autouse=True)
def user(tmp_path_factory, monkeypatch) -> Path:
    """An empty configuration folder."""
    folder = tmp_path_factory.mktemp("config")
    monkeypatch.setenv("E2ED2_CONFIG", str(folder))
    return folder


def picture(height: int = 64, width: int = 64, seed: int = 0) -> Image.Image:
    """Smooth colours."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return Image.fromarray((smooth[0] * 255).byte().permute(1, 2, 0).numpy())


@pytest.fixture
def labelled(tmp_path) -> Path:
    """A small image with metadata and a manifest of the user's own key."""
    path = tmp_path / "labelled.png"
    path.write_bytes(full_label().png(picture(), MADE))
    return path
