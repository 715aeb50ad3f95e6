"""Every class of autoencoder: its own copy of an image, whatever its latents are in between."""

import pytest
import torch

from e2ed2.models.autoencoder import cell_side, decode, decoder_features, encode, latent_channels
from e2ed2.models.latent_spaces import SPACES
from tests.models import tiny

MAKERS = {
    "AutoencoderKL": lambda: tiny.autoencoder(shift_factor=0.1),
    "AutoencoderKLFlux2": lambda: tiny.flux_2_klein()["vae"],
    "AutoencoderKLQwenImage": lambda: tiny.qwen_image()["vae"],
    "AutoencoderDC": lambda: tiny.sana()["vae"],
}


@pytest.fixture(params=SPACES)
def autoencoder(request):
    torch.manual_seed(0)
    return MAKERS[request.param]().eval().requires_grad_(False)


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


def copied(autoencoder, images: torch.Tensor) -> torch.Tensor:
    """What diffusers makes of images, the mode of the distribution where there is one."""
    is_film = type(autoencoder).__name__ == "AutoencoderKLQwenImage"
    encoded = autoencoder.encode(images[:, :, None] if is_film else images)
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    decoded = autoencoder.decode(latents).sample
    return decoded[:, :, 0] if is_film else decoded


def test_an_image_comes_back_as_from_the_autoencoder_itself(autoencoder, images):
    latents = encode(autoencoder, images)
    cell = cell_side(autoencoder)
    assert latents.shape == (2, latent_channels(autoencoder), 32 // cell, 48 // cell)
    torch.testing.assert_close(decode(autoencoder, latents).clamp(-1, 1), copied(autoencoder, images).clamp(-1, 1))


def test_a_pipeline_s_own_latents_are_ours(images):
    """FLUX.2's pipeline encodes pictures that it is shown."""
    from diffusers import Flux2KleinPipeline

    torch.manual_seed(0)
    parts = tiny.flux_2_klein()
    pipeline = Flux2KleinPipeline(**parts)
    theirs = pipeline._encode_vae_image(images, generator=None)
    torch.testing.assert_close(encode(parts["vae"], images), theirs)


def test_the_decoder_s_maps_have_a_gradient_and_the_sides_that_losses_expect(autoencoder, images):
    latents = encode(autoencoder, images).requires_grad_(True)
    maps = decoder_features(autoencoder, latents)
    inner = cell_side(autoencoder) // 4  # the tiny decoders double twice, FLUX.2's from four cells in one
    sides = [tuple(x.shape[-2:]) for x in maps]
    height, width = (side * inner for side in latents.shape[-2:])
    assert sides == [(height, width), (2 * height, 2 * width)]
    sum(x.square().mean() for x in maps).backward()
    assert latents.grad.isfinite().all() and latents.grad.abs().sum() > 0


def test_whole_images_have_a_gradient_where_they_leave_the_range(images):
    """`AutoencoderKLQwenImage.decode` clamps, which would stop it."""
    torch.manual_seed(0)
    autoencoder = MAKERS["AutoencoderKLQwenImage"]().eval().requires_grad_(False)
    autoencoder.decoder.conv_out.weight.mul_(50)
    latents = encode(autoencoder, images).requires_grad_(True)
    decoded = decode(autoencoder, latents)
    outside = decoded.abs() > 1
    assert outside.any()
    decoded[outside].sum().backward()
    assert latents.grad.abs().sum() > 0
