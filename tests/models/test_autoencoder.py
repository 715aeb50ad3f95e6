"""The autoencoder's edges: value ranges, scaling, whitening."""

from types import SimpleNamespace

import pytest
import torch

from e2ed2.models import autoencoder as models_autoencoder
from e2ed2.models.autoencoder import (
    decode,
    decode_all,
    decode_crop,
    decoder_features,
    encode,
    encode_all,
    to_float,
    to_uint8,
    whiten,
)


@pytest.fixture
def autoencoder():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=[8, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        norm_num_groups=4,
    ).eval()


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_uint8_survives_the_round_trip_and_overshoot_is_clipped():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(values)), values)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_scaling_is_applied_once_each_way(autoencoder, images):
    """0.18215 is the class's default; the raw latents are what the encoder itself gives."""
    x = to_float(images)
    raw = autoencoder.encode(x).latent_dist.mode()
    assert torch.allclose(encode(autoencoder, x), raw * 0.18215)
    assert torch.allclose(decode(autoencoder, raw * 0.18215), autoencoder.decode(raw).sample, atol=1e-5)


def test_whitened_latents_have_mean_0_and_deviation_1_and_the_round_trip_is_unchanged(autoencoder, images, tmp_path):
    from diffusers import AutoencoderKL

    with torch.no_grad():
        before = decode(autoencoder, encode(autoencoder, to_float(images)))
        old_std = autoencoder.encode(to_float(images)).latent_dist
        whiten(autoencoder, encode_all(autoencoder, images))
        autoencoder.save_pretrained(tmp_path)
        saved = AutoencoderKL.from_pretrained(tmp_path).eval()
        latents = encode_all(saved, images)
        after = decode(saved, latents)
        new_std = saved.encode(to_float(images)).latent_dist
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(before, after, atol=1e-4)
    # the posterior's spread shrinks with its mean
    shrink = new_std.mean.std((0, 2, 3)) / old_std.mean.std((0, 2, 3))
    assert torch.allclose(new_std.std.mean((0, 2, 3)), old_std.std.mean((0, 2, 3)) * shrink, rtol=1e-3)


@pytest.mark.parametrize("quant_conv", [True, False])
@pytest.mark.parametrize("widths", [(8,), (8, 16), (8, 8, 16, 16)])
def test_the_decoder_s_features_are_those_of_a_whole_decoding_and_end_early(quant_conv, widths):
    """Any number of blocks, Stable Diffusion's scaling (the default), with and without the 1x1 convolution before."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    autoencoder = AutoencoderKL(
        block_out_channels=list(widths),
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        norm_num_groups=4,
        use_post_quant_conv=quant_conv,
    ).eval()
    seen, latents = [], torch.randn(2, 4, 6, 6)
    for block in (autoencoder.decoder.mid_block, *autoencoder.decoder.up_blocks):
        block.register_forward_hook(lambda *call: seen.append(call[2]))
    decode(autoencoder, latents)
    whole = seen[:2]
    seen.clear()
    for found, expected in zip(decoder_features(autoencoder, latents), whole, strict=True):
        torch.testing.assert_close(found, expected)
    assert len(seen) == 2


class ConvolutionalDecoder(torch.nn.Module):
    """Doubles the side; its two 3x3 convolutions reach two cells far."""

    config = SimpleNamespace(scaling_factor=0.5)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        up = torch.nn.Upsample(scale_factor=2)
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1), up, torch.nn.Conv2d(8, 3, 3, padding=1))

    def decode(self, latents, return_dict):
        return (self.layers(latents),)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 5), (8, 1), (8, 8)])
def test_a_crop_with_its_halo_is_a_part_of_the_whole(top, left):
    autoencoder = ConvolutionalDecoder()
    latents = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    part = decode(autoencoder, latents)[..., 2 * top : 2 * top + 8, 2 * left : 2 * left + 8]
    assert torch.allclose(decode_crop(autoencoder, latents, top, left, size=4, halo=2), part, atol=1e-6)
    assert not torch.allclose(decode_crop(autoencoder, latents, top, left, size=4, halo=0), part, atol=1e-3)


@torch.no_grad()
def test_pictures_are_decoded_a_few_at_a_time_and_the_same(autoencoder, monkeypatch):
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, sizes = to_uint8(decode(autoencoder, latents)), []
    monkeypatch.setattr(models_autoencoder, "PIXELS_AT_A_TIME", 2 * 32 * 32)
    original = autoencoder.decode
    monkeypatch.setattr(autoencoder, "decode", lambda z, **options: sizes.append(len(z)) or original(z, **options))
    found = decode_all(autoencoder, latents)
    assert sizes == [2, 2, 1] and (found.int() - expected.int()).abs().max() <= 1
