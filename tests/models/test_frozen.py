"""Frozen weights below an adapter in another form: gradients of a chain against plain networks, and what is kept."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from e2ed2.models.families import network_of
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.models.lora.adapter import lora_copies
from e2ed2.models.memory.activations import offloaded_activations
from e2ed2.models.memory.frozen import FORMS, HeldLinear, freeze, linear_layers
from e2ed2.system.errors import UserError
from tests.models.tiny import MAKERS, save_tiny

CPU = torch.device("cpu")
OFF_BY = {"int8": 0.01, "nf4": 0.15, "offloaded": 0.0}  # of the gradient through weights that are whole


@pytest.fixture
def network():
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    size = {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 32, "cross_attention_dim": 64}
    return PixArtTransformer2DModel(**size, caption_channels=32, sample_size=8).eval()


def with_adapter(network):
    adapted = lora_copies(network, 1, 4)[0]
    generator = torch.Generator().manual_seed(1)
    for p in adapted.parameters():
        if p.requires_grad:
            p.data.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return adapted


def loss(network):
    """Of a chain of three steps."""
    generator = torch.Generator().manual_seed(2)
    x, prompt = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 32, generator=generator)
    added = {"resolution": None, "aspect_ratio": None}
    for t in (900, 500, 100):
        asked = {"encoder_hidden_states": prompt, "timestep": torch.full((2,), t), "added_cond_kwargs": added}
        x = x - 0.1 * network(x, **asked).sample[:, :4]
    return x.square().mean()


def gradient(network):
    loss(network).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.requires_grad])


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("how", FORMS)
def test_the_gradient_is_that_of_the_same_weights_whole(network, how, recomputes):
    whole = gradient(with_adapter(copy.deepcopy(network)))
    held, same = copy.deepcopy(network), copy.deepcopy(network)
    if recomputes:
        held.enable_gradient_checkpointing()
        held.train()
    freeze(held, how, CPU)
    for (_, _, layer), (parent, name, _) in zip([*linear_layers(same)], [*linear_layers(network)], strict=True):
        layer.weight.data = FORMS[how](getattr(parent, name).weight.data).weight(CPU)
    found = gradient(with_adapter(held))
    torch.testing.assert_close(found, gradient(with_adapter(same)), rtol=1e-5, atol=1e-7)
    assert (found - whole).norm() <= OFF_BY[how] * whole.norm()


def test_fewer_bits_are_fewer_bits(network):
    weight = network.transformer_blocks[0].attn1.to_q.weight.data
    errors = {how: (FORMS[how](weight).weight(CPU) - weight).norm() / weight.norm() for how in FORMS}
    assert errors["offloaded"] == 0 < errors["int8"] < 0.01 < errors["nf4"] < 0.12


@pytest.mark.parametrize("how", FORMS)
def test_autograd_keeps_no_weight_and_copies_share_what_is_held(network, how):
    freeze(network, how, CPU)
    adapted, shapes = with_adapter(network), []
    with saved_tensors_hooks(lambda x: shapes.append(tuple(x.shape)) or x, lambda x: x):
        loss(adapted)
    assert (64, 64) not in shapes and (256, 64) not in shapes
    held = [m for m in adapted.modules() if isinstance(m, HeldLinear)]
    copied = [m for m in copy.deepcopy(adapted).modules() if isinstance(m, HeldLinear)]
    assert len(held) == 3 * 10 and all(a._held is b._held for a, b in zip(held, copied, strict=True))
    assert not any(name.endswith("base_layer.weight") for name, _ in adapted.named_parameters())


@pytest.mark.parametrize("class_name", MAKERS)
def test_of_every_family_attention_is_among_the_layers_of_its_blocks_and_the_embedding_of_time_is_not(
    class_name, tmp_path
):
    network = network_of(load_pipeline(save_tiny(class_name, tmp_path))[0])
    found = [id(layer) for _, _, layer in linear_layers(network)]
    linear = {name: id(m) for name, m in network.named_modules() if isinstance(m, nn.Linear)}
    attention = {number for name, number in linear.items() if ".to_q" in name or "qkv" in name}
    assert attention and attention <= set(found) and len(set(found)) == len(found)
    assert not {number for name, number in linear.items() if name.startswith("time")} & set(found)


def test_activations_that_are_offloaded_give_the_same_gradient_and_weights_stay(network):
    plain, moved, stayed, pack = copy.deepcopy(network), [], [], offloaded_activations().pack_hook
    with saved_tensors_hooks(lambda x: (moved if isinstance(pack(x), tuple) else stayed).append(x) or x, lambda x: x):
        loss(network)
    assert moved and not any(isinstance(x, nn.Parameter) for x in moved) and all(x.numel() >= 2**10 for x in moved)
    assert any(isinstance(x, nn.Parameter) for x in stayed)
    with offloaded_activations():
        value = loss(network)
    value.backward()
    loss(plain).backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert ours.grad is theirs.grad is None or torch.equal(ours.grad, theirs.grad)


def test_without_bitsandbytes_one_line_says_what_to_do(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"model\.frozen_weights: nf4 needs bitsandbytes.*e2ed2\[large\]"):
        freeze(network, "nf4", CPU)
    freeze(network, "offloaded", CPU)
