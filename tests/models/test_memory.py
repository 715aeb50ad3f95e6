"""What a training takes of a device's memory: counted by hand, and as autograd keeps it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from e2ed2.models.autoencoder import decode
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.families import family_of, network_of
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.models.memory.counts import _taken, count_model, device_memory
from e2ed2.models.prompt_embeds import PromptEmbeds
from tests.models.tiny import SIDE, autoencoder, save_tiny

VAE = sum(p.numel() for p in autoencoder().parameters())


def num_weights(folder, part: str) -> int:
    network = getattr(load_pipeline(folder)[0], part)
    return sum(p.numel() for p in network.parameters())


def test_all_weights_of_the_network_are_trained_and_none_of_the_autoencoder(tiny_model):
    counts = count_model(tiny_model, 64)
    assert (counts.num_trained, counts.num_frozen) == (num_weights(tiny_model, "transformer"), 0)
    assert counts.num_decoder == num_weights(tiny_model, "vae")
    assert counts.num_text == num_weights(tiny_model, "text_encoder")


def test_of_a_lora_only_its_own_weights_are_trained(tiny_model):
    """Eight layers of attention 32 -> 32, and the feed-forward's 32 -> 128 and back."""
    layers = [(32, 32)] * 8 + [(32, 128), (128, 32)]
    for rank, half in ((1, False), (4, False), (4, True)):
        counts = count_model(tiny_model, 64, rank, half=half)
        assert counts.num_trained == sum(rank * (wide + high) for wide, high in layers)
        assert counts.num_frozen == num_weights(tiny_model, "transformer")
    whole, halved = count_model(tiny_model, 64, 4), count_model(tiny_model, 64, 4, half=True)
    assert whole.evaluation / 2 < halved.evaluation < whole.evaluation, "norms and sums stay in float32"
    assert whole.decoding / 2 <= halved.decoding < whole.decoding


@pytest.mark.parametrize("class_name", ["StableDiffusion", "StableDiffusionXL", "StableDiffusion3", "ZImage", "Flux"])
def test_every_family_is_counted_without_its_weights(class_name, tmp_path):
    folder = save_tiny(f"{class_name}Pipeline", tmp_path)
    part = "transformer" if (folder / "transformer").is_dir() else "unet"
    num_trained = num_weights(folder, part)
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    counts = count_model(folder, SIDE)
    assert (counts.num_trained, counts.num_decoder) == (num_trained, VAE)
    larger = count_model(folder, 2 * SIDE)
    assert larger.decoding == pytest.approx(4 * counts.decoding, rel=0.1), "of four times as many pixels"
    assert counts.evaluation < larger.evaluation < 4 * counts.evaluation, "there is also the prompt"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_autograd_keeps_is_counted_once(device):
    """The input [5, 3] and the one tensor [5, 4] that tanh and the second layer both keep, no weights; in float32."""
    with torch.device(device):
        network, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.ones(5, 3)
    assert _taken(lambda: network(x), network)[0] == 4 * (5 * 3 + 5 * 4)
    network.requires_grad_(False)
    assert _taken(lambda: network(x), network)[0] == 0
    x.requires_grad_(True)
    assert _taken(lambda: network(x), network)[0] == 4 * 5 * 4


def held(run: Callable[[], torch.Tensor], network: nn.Module) -> int:
    """Bytes of the storages that autograd keeps of a run, the network's own aside."""
    weights, kept = {p.untyped_storage().data_ptr() for p in network.parameters()}, {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(x.untyped_storage().nbytes() for place, x in kept.items() if place not in weights)


@pytest.mark.parametrize("class_name", ["StableDiffusion", "StableDiffusion3"])
def test_what_is_counted_is_what_the_real_networks_keep(class_name, tmp_path):
    """On the CPU, whose attention is a fused kernel as a GPU's is: it keeps no table of all pairs."""
    folder = save_tiny(f"{class_name}Pipeline", tmp_path)
    counts, pipeline = count_model(folder, SIDE), load_pipeline(folder)[0]
    network, vae = network_of(pipeline), pipeline.vae.requires_grad_(False)
    width, pooled_width = family_of(pipeline).widths(pipeline)
    num_tokens = 256 if class_name == "StableDiffusion3" else 77  # as its pipeline's call, and CLIP's
    cond = PromptEmbeds(torch.zeros(1, num_tokens, width), None, torch.zeros(1, pooled_width) if pooled_width else None)
    x = torch.zeros(1, 4, SIDE // 4, SIDE // 4, requires_grad=True)
    assert counts.evaluation == held(lambda: denoiser_of(pipeline, network)(x, torch.ones(1), cond), network)
    assert counts.decoding == held(lambda: decode(vae, x), vae)


def test_what_is_recomputed_in_backward_is_not_kept(tiny_model):
    counts, less = (count_model(tiny_model, 64, recomputed=recomputed) for recomputed in (False, True))
    assert less.evaluation < counts.evaluation / 2 and 0 < less.block <= counts.evaluation
    assert replace(less, evaluation=counts.evaluation, recomputed_flops=0) == counts
    assert less.recomputed_flops == counts.evaluation_flops


def test_the_device_has_some():
    assert device_memory() > 2**28
