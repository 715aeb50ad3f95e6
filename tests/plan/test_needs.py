"""What an update takes, added up by hand from counts of round numbers."""

from dataclasses import replace
from pathlib import Path

import pytest

from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.memory import needs as module
from e2ed2.models.memory.counts import Counts
from e2ed2.models.memory.needs import ON_ITS_WAY, needs, settings
from e2ed2.recipe.load import load_config
from e2ed2.system.errors import UserError
from tests.models.tiny import save_tiny

COUNTS = Counts(
    num_trained=1000, num_frozen=0, num_decoder=300, num_text=70, num_in_blocks=0, embeds_guidance=False, block=0,
    evaluation=400, evaluation_flops=10, decoding=40, decoding_flops=5, decoder_features=8, decoder_features_flops=3,
    features=20, features_flops=2, recomputed_flops=0,
)  # fmt: skip
PLAIN = ["trajectory.start=pure_noise", "trajectory.random_num_steps=false", "trajectory.num_steps_weights=[]",
         "trajectory.timesteps=[[999, 828, 617, 97]]", "train.micro_batch_size=8", "data.images_per_caption=1",
         *(f"objective.{name}.weight=0" for name in ("lpips", "mmd", "patch_energy", "lpips_energy"))]  # fmt: skip


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    monkeypatch.setattr(module, "_counted", lambda folder, side, rank, half, window, blocks: COUNTS)


def config(*overrides, recipe="emoji/e2ed2"):
    return load_config(Path(recipe), ["model.path=emoji-lcm", *PLAIN, *overrides])


def test_four_steps_of_eight_images_in_float32(tmp_path):
    """Four evaluations of 400 bytes for each image; when the last one's are gone there are more of gradients."""
    found = needs(config(), tmp_path, half=False)
    assert found.parts == {
        "weights": 4000, "optimizer": 8000, "average": 4000, "gradients": 4000, "frozen networks": 4 * 300,
        "chain": int(3 * 8 * 400 * ON_ITS_WAY), "decoding": 0, "text encoders": 0,
    }  # fmt: skip
    assert found.peak_memory_bytes == sum(found.parts.values())
    assert found.flops == 8 * 4 * 3 * 10


def test_in_half_precision_what_is_frozen_takes_half(tmp_path):
    parts = needs(config(), tmp_path, half=True).parts
    assert (parts["weights"], parts["frozen networks"]) == (6000, 2 * 300)


def test_recomputed_steps_keep_one_evaluation_and_cost_one_more(tmp_path):
    """3,200 bytes are kept of one evaluation; the 4,000 of gradients are there at the next one."""
    found = needs(config("trajectory.gradient_checkpointing=true"), tmp_path, half=False)
    assert (found.parts["chain"], found.parts["gradients"]) == (int(8 * 400 * ON_ITS_WAY), 4000)
    assert found.flops == 8 * (4 * 3 + 3) * 10


def test_the_gradient_of_the_last_step_alone(tmp_path):
    found = needs(config("trajectory.num_backprop_steps=1"), tmp_path, half=False)
    assert found.flops == 8 * (3 + 3) * 10
    assert found.parts["chain"] + found.parts["gradients"] == 4000, "the gradients outweigh what one step keeps"


def test_losses_on_images_are_of_the_pictures_too(tmp_path):
    """Decoding forward and back; features of eight samples forward and back, of eight pictures forward."""
    found = needs(config("objective.lpips.weight=1"), tmp_path, half=False)
    assert found.parts["decoding"] == int(8 * (40 + 20) * ON_ITS_WAY)
    assert found.flops == 8 * 4 * 3 * 10 + 8 * 2 * 5 + 3 * 8 * 2


def test_chains_of_drawn_lengths_are_expected_ones(tmp_path):
    """Of 1 or 2 steps, as often; those of 2 begin at noise or at the last step: 1.25 evaluations on average."""
    drawn = ["trajectory.random_num_steps=true", "trajectory.start=random_step", "trajectory.num_inference_steps=2",
             "trajectory.timesteps=[]"]  # fmt: skip
    assert needs(config(*drawn), tmp_path, half=False).flops == pytest.approx(8 * 1.25 * 3 * 10)


def test_settings_keep_the_update_and_cost_more_and_more():
    folder = resolve_model("emoji-lcm")
    found = list(settings(config("train.gradient_accumulation_steps=2"), folder))
    sizes = {(c.train.micro_batch_size * c.train.gradient_accumulation_steps) for c, _ in found}
    assert sizes == {16} and len(found) == 5 * 4 and found[0][1] == {}
    assert {c.train.micro_batch_size for c, _ in settings(config("objective.mmd.weight=1"), folder)} == {8, 4, 2}


def test_images_of_one_caption_stay_together():
    asked = config("objective.patch_energy.weight=1", "data.images_per_caption=2")
    assert min(c.train.micro_batch_size for c, _ in settings(asked, resolve_model("emoji-lcm"))) == 2


def test_blocks_are_recomputed_where_that_leaves_the_gradient(tmp_path):
    """Not of Chroma: diffusers leaves its mask out."""
    folder = save_tiny("ChromaPipeline", tmp_path)
    assert not any(c.model.gradient_checkpointing for c, _ in settings(config(), folder))
    assert any(c.trajectory.gradient_checkpointing for c, _ in settings(config(), folder))


def test_guidance_in_the_chain_is_a_second_evaluation_unless_the_network_is_told(tmp_path, monkeypatch):
    guided = ["trajectory.guidance_scale=3"]
    assert needs(config(*guided), tmp_path, half=False).flops == 2 * 8 * 4 * 3 * 10
    told = replace(COUNTS, embeds_guidance=True)
    monkeypatch.setattr(module, "_counted", lambda *asked: told)
    assert needs(config(*guided), tmp_path, half=False).flops == 8 * 4 * 3 * 10


def test_another_stage_is_refused(tmp_path):
    with pytest.raises(UserError, match="only stage e2ed2 of a pretrained start is counted"):
        needs(load_config(Path("emoji/lcm"), ["model.path=emoji-base"]), tmp_path, half=False)
