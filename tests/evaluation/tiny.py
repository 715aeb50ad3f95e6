"""Tiny random copies of the measuring networks, saved in their true format, and a protocol that uses them."""

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from e2ed2.evaluation.features import extractors
from tests.models.tiny import clip_tokenizer

SIDE = 32  # of the real images; the tiny pipelines make as much
LINE = "apple bus cat dog egg fish gem hat ice jar key leaf moon nut owl pen queen ring sun tree urn van whale yak"


class StubInception:
    """The interface of an extractor over a fixed projection of the image at 8 px."""

    name, weights_sha256 = "stub inception", "0" * 64

    def __init__(self, networks=None, device="cpu"):
        self.project = torch.randn(3 * 8 * 8, 12, generator=torch.Generator().manual_seed(0))

    def __call__(self, images):
        small = [torch.nn.functional.interpolate(image[None].float() / 255, 8, mode="area") for image in images]
        return torch.cat(small).flatten(1) @ self.project

    def probabilities(self, features):
        return features.softmax(1)


@pytest.fixture(scope="session")
def networks(tmp_path_factory) -> dict[str, str]:
    """Folders of a CLIP and a DINOv2 with a few thousand random weights."""
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    shared = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**shared, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = {**shared, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    dinov2 = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(dinov2).save_pretrained(folder / "dinov2")
    clip, dinov2_folder = str(folder / "clip"), str(folder / "dinov2")
    return {"clip": clip, "clip_cmmd": clip, "pickscore": clip, "dinov2": dinov2_folder}


@pytest.fixture
def stub_inception(monkeypatch, tmp_path):
    for name in ("inception", "inception_legacy", "inception_spatial"):
        monkeypatch.setitem(extractors.EXTRACTORS, name, StubInception)
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))


def draw_images(folder: Path, count: int, side: int = SIDE, seed: int = 0) -> Path:
    """Smooth random pictures `0000.png`, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        pixels = torch.randint(256, (6, 6, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.png")
    return folder


@pytest.fixture
def protocol(tmp_path, networks, stub_inception):
    """`protocol(metrics=[...], **parts)` -> a YAML file beside 24 captions and 40 real images."""
    draw_images(tmp_path / "real", 40)
    (tmp_path / "captions.txt").write_text("".join(f"a {word}\n" for word in LINE.split()))

    def write(name: str = "tiny.yaml", **parts: object) -> Path:
        values: dict[str, object] = {
            "prompts": {"path": "captions.txt", "num": 24},
            "reference": {"path": "real"},
            "images": {"size": SIDE},
            "networks": {**networks, "clip_prefix": "A photo depicts "},
            "metrics": ["fid", "kid", "clip_score"],
            **parts,
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values))
        return path

    return write
