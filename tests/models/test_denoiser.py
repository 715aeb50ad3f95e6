"""The denoiser interface: guidance, masks, learned variances."""

import pytest
import torch

from e2ed2.models.denoiser import denoiser_of, guided
from e2ed2.models.prompt_embeds import PromptEmbeds


@pytest.fixture
def transformer():
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    return PixArtTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=8,  # noise and variance, as PixArt's own
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=32,
        norm_type="ada_norm_single",
        use_additional_conditions=False,
    ).eval()


def pixart_denoiser(transformer):
    """Of a PixArt pipeline that has nothing but its transformer."""
    from diffusers import PixArtAlphaPipeline

    return denoiser_of(PixArtAlphaPipeline(None, None, None, transformer, None), transformer)


@pytest.fixture
def x_t():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def prompts(num_padding: int) -> PromptEmbeds:
    """Two prompts of 3 and 2 tokens, padded with rubbish that the mask hides."""
    embeds = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(2))
    padding = torch.full((2, num_padding, 32), 7.0)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    return PromptEmbeds(torch.cat([embeds, padding], 1), torch.cat([mask, torch.zeros(2, num_padding, dtype=int)], 1))


@torch.no_grad()
def test_padding_does_not_matter_but_tokens_do(transformer, x_t):
    denoise, t = pixart_denoiser(transformer), torch.tensor([999, 259])
    short, long = denoise(x_t, t, prompts(0)), denoise(x_t, t, prompts(4))
    assert torch.allclose(short, long, atol=1e-5)
    other = prompts(0)
    assert not torch.allclose(short, denoise(x_t, t, PromptEmbeds(other.embeds + 1, other.mask)), atol=1e-3)


@torch.no_grad()
def test_a_learned_variance_is_cut_off(transformer, x_t):
    full = transformer(
        x_t,
        encoder_hidden_states=prompts(0).embeds,
        encoder_attention_mask=prompts(0).mask,
        timestep=torch.tensor([5, 5]),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    assert full.shape[1] == 8
    assert torch.equal(pixart_denoiser(transformer)(x_t, torch.tensor([5, 5]), prompts(0)), full[:, :4])


def test_guidance_is_uncond_plus_scale_times_the_difference():
    """A denoiser that returns its condition's mean: 10 with the prompt, 4 without; scale 2.5 gives 4 + 2.5 x 6 = 19."""
    calls = []

    def denoise(x, t, cond):
        calls.append(len(x))
        return cond.embeds.mean((1, 2)).view(-1, 1) * torch.ones_like(x)

    cond = PromptEmbeds(torch.full((3, 2, 4), 10.0), torch.ones(3, 2, dtype=int))
    uncond = PromptEmbeds(torch.full((1, 2, 4), 4.0), torch.ones(1, 2, dtype=int))
    x, t = torch.zeros(3, 1), torch.zeros(3, dtype=int)
    assert torch.equal(guided(denoise, 2.5, uncond)(x, t, cond), torch.full((3, 1), 19.0))
    assert calls == [6]  # both in one batch, where they are as long
    longer = PromptEmbeds(torch.full((3, 5, 4), 10.0), torch.ones(3, 5, dtype=int))
    assert torch.equal(guided(denoise, 2.5, uncond)(x, t, longer), torch.full((3, 1), 19.0))
    assert calls == [6, 3, 3]
    assert torch.equal(guided(denoise, 1.0, uncond)(x, t, cond), torch.full((3, 1), 10.0))
    assert calls == [6, 3, 3, 3]  # no guidance, one evaluation


def test_the_kernel_for_short_sequences_changes_the_speed_alone(transformer, x_t, monkeypatch):
    def gradients(short):
        monkeypatch.setattr("e2ed2.models.denoiser.SHORT", short)
        transformer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            pixart_denoiser(transformer)(x_t, torch.tensor([10, 900]), prompts(2)).float().square().mean().backward()
        return torch.cat([p.grad.flatten() for p in transformer.parameters() if p.grad is not None])

    plain, fused = gradients(65), gradients(64)  # x_t has 64 cells
    assert not torch.equal(plain, fused)
    assert (plain - fused).norm() < 0.02 * fused.norm()
