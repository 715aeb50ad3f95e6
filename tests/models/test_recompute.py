"""Blocks that are recomputed all but their products: what is kept, counted by hand, and how often each is made."""

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.families import network_of
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.models.memory.counts import count_model, full_condition
from e2ed2.models.memory.recompute import Kept, recompute_blocks
from tests.models.tiny import SIDE, save_tiny

ROWS, WIDTH = 5, 8


def gradient_and_flops(how):
    """Of a feed-forward layer: 8 wide, 32 within."""
    torch.manual_seed(0)
    layer, kept = FeedForward(WIDTH, activation_fn="gelu-approximate"), Kept()
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    ways = {
        "plain": layer,
        "selective": lambda x: kept.run(layer, x),
        "whole": lambda x: checkpoint(layer, x, use_reentrant=False),
    }
    with FlopCounterMode(display=False) as counter:
        ways[how](x).sin().sum().backward()
    return torch.cat([p.grad.flatten() for p in layer.parameters()]), counter.get_total_flops(), kept


def test_of_a_feed_forward_layer_the_narrow_product_is_kept_and_the_wide_one_made_again():
    gradient, flops, _ = gradient_and_flops("plain")
    selective, more, kept = gradient_and_flops("selective")
    torch.testing.assert_close(selective, gradient, rtol=0, atol=0)
    wide = 2 * ROWS * WIDTH * 4 * WIDTH
    assert kept.num_bytes == ROWS * WIDTH * 4 and kept.flops == wide
    assert more == flops + wide  # checkpointing stops before the last product in any case
    assert gradient_and_flops("whole")[1] == flops + wide


@pytest.mark.parametrize("class_name", ["PixArtAlphaPipeline", "StableDiffusionPipeline"])
def test_what_is_made_again_is_what_is_counted(class_name, tmp_path):
    folder = save_tiny(class_name, tmp_path / "start")
    flops = {}
    for how in (False, "selective", True):
        pipeline = load_pipeline(folder)[0]
        network = network_of(pipeline)
        recompute_blocks(network, how)
        x, cond = torch.randn(1, 4, SIDE // 4, SIDE // 4), full_condition(pipeline)
        with FlopCounterMode(display=False) as counter:
            denoiser_of(pipeline, network)(x, torch.ones(1), cond).square().mean().backward()
        flops[how] = counter.get_total_flops()
    counted = count_model(folder, SIDE, recomputed="selective")
    assert 0 < counted.recomputed_flops < counted.evaluation_flops
    assert flops[False] < flops["selective"] <= flops[False] + counted.recomputed_flops
    assert flops["selective"] < flops[True]
    kept = {how: count_model(folder, SIDE, recomputed=how).evaluation for how in (False, "selective", True)}
    assert kept[True] < kept["selective"] < kept[False]
