"""An emoji evaluation: what is missing is said before an image is made; the result says how it was sampled."""

import pytest
import torch

from e2ed2.emoji import evaluate_emoji as module
from e2ed2.emoji.evaluate_emoji import evaluate_emoji
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.system.errors import UserError


class Features:
    """The interface of `EfficientNetFeatures`: the image at 4 px, repeated to its width."""

    weights_sha256 = "0" * 64

    def __init__(self, device):
        pass

    def __call__(self, images, progress=None):
        small = torch.nn.functional.interpolate(images.float() / 255, 4, mode="area").flatten(1)
        return small.repeat(1, 27)[:, :1280]


@pytest.fixture(autouse=True)
def small_cache(monkeypatch, tmp_path, tiny_emoji):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))


def test_the_result_says_how_it_was_sampled(tiny_model, monkeypatch):
    monkeypatch.setattr(module, "EfficientNetFeatures", Features)
    found = evaluate_emoji(str(tiny_model), steps=1, num_images=16, batch_size=5)["environment"]
    assert (found["dtype"], found["batch_size"], found["num_processes"]) == ("float32", 5, 1)
    assert found["torch"] == torch.__version__ and {"e2ed2", "diffusers", "transformers"} <= set(found)


def test_missing_features_are_refused_before_an_image_is_made(tiny_model, monkeypatch):
    def missing(device):
        raise UserError("image features need the package x")

    monkeypatch.setattr(module, "EfficientNetFeatures", missing)
    monkeypatch.setattr(module, "make_samples", lambda *args, **options: pytest.fail("sampled"))
    with pytest.raises(UserError, match="image features need the package x"):
        evaluate_emoji(str(tiny_model), steps=1, num_images=16)


def test_a_folder_of_images_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="no model, and protocol emoji samples one; for images give one over files"):
        evaluate(str(tmp_path), "emoji")
