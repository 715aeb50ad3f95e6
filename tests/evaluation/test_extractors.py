"""Extractors over tiny copies in the true classes: transformers' own features, whatever the batch."""

import numpy as np
import pytest
import torch
from PIL import Image

from e2ed2.evaluation.features import extractors as ext
from e2ed2.system.errors import UserError


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 40, 24 + 8 * (i % 2)), dtype=torch.uint8, generator=generator) for i in range(5)]


def test_clip_features_and_texts_are_those_of_transformers(networks, images):
    from transformers import AutoTokenizer, CLIPModel

    clip = ext.ClipFeatures(networks["clip"])
    model, tokenizer = CLIPModel.from_pretrained(networks["clip"]), AutoTokenizer.from_pretrained(networks["clip"])
    pixels = torch.stack([ext.square_pixels(i, 16, ext.CLIP_MEAN, ext.CLIP_STD) for i in images])
    captions = ["a cat", "a very long caption that does not fit", "", "dog", "owl"]
    tokens = tokenizer(captions, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        both = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
    found, texts = clip(images), clip.texts(captions)
    assert torch.allclose(torch.nn.functional.normalize(found, dim=1), both.image_embeds, atol=1e-5)
    assert torch.allclose(torch.nn.functional.normalize(texts, dim=1), both.text_embeds, atol=1e-5)
    own = both.logits_per_image.diagonal().double()
    assert torch.allclose(ext.clip_scores(found, texts, clip.scale), own, rtol=1e-5)


def test_clip_score_arithmetic():
    """CLIPScore with w = 100: cosines 1, 0, -1/2."""
    images = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    texts = torch.tensor([[0.5, 0.0], [1.0, 0.0], [-1.0, 3.0**0.5]])
    assert ext.clip_scores(images, texts).tolist() == pytest.approx([100.0, 0.0, -50.0], rel=1e-7)


def test_dinov2_features_are_those_of_transformers(networks, images):
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(networks["dinov2"]).eval()
    pixels = torch.stack([ext.square_pixels(i, 224, ext.IMAGENET_MEAN, ext.IMAGENET_STD) for i in images])
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state[:, 0]
    assert torch.allclose(ext.Dinov2Features(networks["dinov2"])(images), expected, atol=1e-5)


def test_features_do_not_depend_on_the_batch(networks, images):
    for extract in (ext.ClipFeatures(networks["clip"]), ext.Dinov2Features(networks["dinov2"])):
        alone = torch.cat([extract([image]) for image in images])
        assert torch.allclose(extract(images), alone, atol=1e-5)


def test_no_network_computes_in_tf32(networks, images, monkeypatch):
    seen = []
    for extract in (ext.ClipFeatures(networks["clip"]), ext.Dinov2Features(networks["dinov2"])):
        extract._network.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
        vision = getattr(extract._network, "vision_model", extract._network)
        vision.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
        extract(images)

    class Network(torch.nn.Module):
        def forward(self, pixels):
            seen.append(torch.backends.cudnn.allow_tf32)
            return pixels.flatten(1)

    monkeypatch.setattr(ext, "load_inception", lambda weights: Network())
    ext.InceptionFeatures("", clean=True)(images)
    assert torch.backends.cudnn.allow_tf32 and len(seen) >= 3 and not any(seen)


def test_clean_resize_is_pillow_on_floats(images):
    found = ext.clean_resize(images[0], 20)
    for plane, expected in zip(images[0], found, strict=True):
        picture = Image.fromarray(plane.numpy().astype(np.float32), mode="F").resize((20, 20), Image.Resampling.BICUBIC)
        assert np.array_equal(np.asarray(picture).clip(0, 255), expected.numpy())
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    rounded = np.asarray(picture.resize((20, 20), Image.Resampling.BICUBIC))
    assert np.abs(rounded.transpose(2, 0, 1) - found.numpy()).max() < 1.5, "it rounds after each pass"


def test_the_hash_is_of_the_weights_wherever_they_lie(networks, tmp_path):
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(networks["dinov2"])
    first = ext.Dinov2Features(networks["dinov2"]).weights_sha256
    model.save_pretrained(tmp_path / "copy", max_shard_size="10KB")
    assert ext.Dinov2Features(str(tmp_path / "copy")).weights_sha256 == first
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert ext.tensors_sha256(model) != first


def test_a_missing_network_names_its_field(tmp_path):
    with pytest.raises(UserError, match="nowhere: cannot be loaded.*--local-dir DIR.*`networks:`"):
        ext.Dinov2Features(str(tmp_path / "nowhere"))
