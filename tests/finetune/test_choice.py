"""What is chosen for a model, for data and for a device's memory; whatever it is, a recipe takes it."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from e2ed2.finetune import choice as module
from e2ed2.finetune.choice import HELD, LORA_LR, LR, Captions, captions_of, choose
from e2ed2.finetune.starts import Start
from e2ed2.models.folders.index import ModelIndex
from e2ed2.models.memory import needs
from e2ed2.models.memory.counts import Counts
from e2ed2.models.memory.needs import ON_ITS_WAY
from e2ed2.recipe.config import ModelConfig
from e2ed2.recipe.load import config_of

DATA = {"source": "folder", "path": "photos"}
UNIQUE, SHARED, ONE, STREAM = Captions(40, 0.1), Captions(40, 0.98), Captions(1, 0.0), Captions()
GIB = 2**30
KEPT = {False: 1, "selective": 2, True: 4}  # an evaluation is kept to such a part
START = Start(ModelConfig(path="my/model"), Path("unused"), 4, "lcm", 1.0, True, 64, "its inference.json")


@pytest.fixture
def machine(monkeypatch):
    """`machine(free, num_trained=...)`: memory, and the size of any model; 8 GiB and a small one first.

    An evaluation of an image keeps GIB / 100, half of that with an adapter; with blocks recomputed a quarter
    (selectively half), and a twentieth at work. Decoding one keeps GIB / 50.
    """
    monkeypatch.setattr(module, "has_bf16", lambda device: False)
    monkeypatch.setattr(needs, "read_index", lambda folder: ModelIndex("PixArtAlphaPipeline", {}))

    def have(free: float, num_trained: int = 10**7, in_blocks: int = 0):
        def count(folder, side, rank, half, window, blocks):
            evaluation = GIB // (200 if rank else 100)
            return Counts(
                num_trained=num_trained // 10 if rank else num_trained, num_frozen=num_trained if rank else 0,
                num_decoder=0, num_text=0, num_in_blocks=in_blocks, embeds_guidance=False, block=evaluation // 20,
                evaluation=evaluation // KEPT[blocks], evaluation_flops=1, decoding=GIB // 50, decoding_flops=0,
                decoder_features=0, decoder_features_flops=0, features=0, features_flops=0, recomputed_flops=0,
            )  # fmt: skip

        monkeypatch.setattr(needs, "_counted", count)
        monkeypatch.setattr(module, "device_memory", lambda: int(free))

    have(8 * GIB)
    return have


def config_for(start: Start = START, captions: Captions = UNIQUE):
    chosen = choose(start, DATA, captions, Path("runs/x"))
    return config_of(chosen.values), chosen.reasons


def weights_of(config) -> dict[str, float]:
    terms = config.objective.model_dump()
    return {name: term["weight"] for name, term in terms.items() if isinstance(term, dict) and term.get("weight")}


def test_captions_are_counted_once_an_image():
    assert captions_of(["a", "b", "a", "c"]) == Captions(4, 0.5)
    assert captions_of(["a"]) == Captions(1, 0.0)
    assert captions_of(["a photo of sks dog"] * 5) == Captions(5, 1.0)
    assert captions_of([]) == Captions(0, 0.0)


def test_captions_that_tell_images_apart_are_answered_by_pairs_of_sample_and_image(machine):
    config, reasons = config_for()
    assert weights_of(config) == {"l2": 1, "lpips": 1, "keep": 1, "mmd": 600, "kl": 2e-4}
    assert config.data.images_per_caption == 1
    assert "terms: L2, LPIPS and MMD, since captions tell images apart" in reasons


def test_captions_of_a_subject_are_answered_by_scoring_rules(machine):
    config, reasons = config_for(captions=SHARED)
    rules = {"patch_energy": 1, "lpips_energy": 1}
    assert weights_of(config) == {"l2": 1, "lpips": 1, "keep": 1, **rules, "kl": 2e-4}
    assert (config.data.images_per_caption, config.data.plain_caption_fraction) == (2, 1)
    assert "terms: energy scores, since 98% of the images share their caption with another one" in reasons


def test_the_sampler_is_the_start_s_own(machine):
    config, reasons = config_for()
    trajectory = config.trajectory
    assert (trajectory.num_inference_steps, trajectory.solver, trajectory.guidance_scale) == (4, "lcm", 1)
    assert trajectory.random_num_steps and trajectory.num_steps_weights == pytest.approx([4, 2, 4 / 3, 1])
    assert reasons[0] == "sampler: 1 to 4 steps of lcm, from its inference.json"
    config, reasons = config_for(replace(START, any_steps=False, solver=None, guidance_scale=None, side=128))
    assert not config.trajectory.random_num_steps
    assert config.trajectory.solver is config.trajectory.guidance_scale is None
    assert reasons[0] == "sampler: 4 steps, from its inference.json"
    assert config.data.size == 128


def test_what_is_known_of_model_and_data_is_handed_on(machine):
    model = ModelConfig(path="org/sdxl", variant="fp16", lora=["org/lora"])
    values = choose(replace(START, model=model), DATA | {"default_caption": "a dog"}, UNIQUE, Path("runs/x")).values
    assert values["model"] == {"path": "org/sdxl", "variant": "fp16", "lora": ["org/lora"]}
    assert values["data"] == DATA | {"default_caption": "a dog", "size": 64}
    assert values["run"] == {"dir": "runs/x"}


def test_of_a_bundled_model_its_own_kind_of_prompts_is_kept(machine):
    for path, prompts in (("my/model", "general"), ("emoji-e2ed2", "emoji"), ("emoji-lcm", "emoji")):
        config, reasons = config_for(replace(START, model=ModelConfig(path=path)))
        assert config.objective.keep.prompts == prompts
        assert f"kept: what the start makes of {prompts} prompts" in reasons


def test_all_weights_are_trained_where_they_are_few_and_fit(machine):
    config, reasons = config_for()
    assert (config.trajectory.parameters, config.train.lr) == ("shared", LR)
    assert "trained: all 10M weights" in reasons


def test_of_a_large_model_an_adapter_is_trained(machine):
    machine(80 * GIB, num_trained=2 * 10**8)
    config, reasons = config_for()
    assert (config.trajectory.parameters, config.trajectory.lora_rank, config.train.lr) == ("lora", 64, LORA_LR)
    assert "trained: a LoRA of rank 64, since the model has 200M weights" in reasons
    machine(80 * GIB, num_trained=2 * 10**8 - 1)
    assert config_for()[0].trajectory.parameters == "shared"


def test_where_all_weights_do_not_fit_an_adapter_is_trained(machine):
    machine(0.25 * GIB)
    config, reasons = config_for()
    assert config.trajectory.parameters == "lora"
    assert "trained: a LoRA of rank 64, since the model has 10M weights, too many for the memory here" in reasons


def peak(rows: int, evaluations: int, evaluation: float, weights: float) -> float:
    """GiB: what stays, and of each image the evaluations that are kept, half as many for `keep`, and its decoding."""
    return weights + ON_ITS_WAY * (1.5 * rows * evaluations * evaluation + rows / 50)


def test_the_less_memory_the_fewer_images_at_a_time_and_as_many_an_update(machine):
    """16 bytes a trained weight, 4 of the frozen start; four evaluations an image."""
    needed = {rows: peak(rows, 4, 0.01, 20 * 10**7 / GIB) for rows in (32, 16, 8, 4, 2)}
    for rows, least in needed.items():
        for free, expected in ((1.01 * least, rows), (0.99 * least, max(rows // 2, 2))):
            machine(free / 0.9 * GIB)
            config, reasons = config_for()
            if config.model.gradient_checkpointing:  # of two at a time
                assert (rows, expected, free) == (2, 2, 0.99 * least)
                continue
            assert config.trajectory.parameters == "shared" and not config.trajectory.gradient_checkpointing
            found = config.train.micro_batch_size, config.train.gradient_accumulation_steps
            assert found == (expected, 32 // expected), free
            assert reasons[-1].startswith(f"batch: 32 images an update, {expected} at a time, about ")


def test_where_two_images_do_not_fit_more_is_recomputed_before_they_are_taken_one_by_one(machine):
    """An adapter's 16 bytes a weight, and 4 of each frozen one; what is kept by how much is recomputed."""
    weights, each = (16 * 10**6 + 4 * 10**7) / GIB, 0.005
    work = ON_ITS_WAY * 2 * each / 20
    plain = peak(2, 4, each, weights)
    some, blocks = (peak(2, 4, each / part, weights) + work for part in (2, 4))
    steps = peak(2, 1, each, weights)
    both = peak(2, 1, each / 4, weights) + work
    one = peak(1, 4, each, weights) + ON_ITS_WAY * 0.5 * 4 * each  # half a row of `keep` is one
    assert plain > some > blocks > steps > both
    for least, expected in ((plain, (2, False, False)), (some, (2, False, "selective")), (blocks, (2, False, True)),
                            (steps, (2, True, False)), (both, (2, True, True))):  # fmt: skip
        machine(1.001 * least / 0.9 * GIB, num_trained=10**7)
        for captions in (UNIQUE, SHARED):
            chosen = choose(START, DATA, captions, Path("runs/x"), {"parameters": "lora"})
            config = config_of(chosen.values)
            assert (config.train.micro_batch_size, config.trajectory.gradient_checkpointing,
                    config.model.gradient_checkpointing) == expected  # fmt: skip
            said = [word in chosen.reasons[-1] for word in ("steps", "blocks", "selectively")]
            assert said == [expected[1], bool(expected[2]), expected[2] == "selective"]
            assert ("recomputed in backward" in chosen.reasons[-1]) == any(expected[1:])
    machine(0.99 * both / 0.9 * GIB, num_trained=10**7)
    config, reasons = config_for()
    assert config.train.micro_batch_size == 1 and weights_of(config).keys() == {"l2", "lpips", "keep", "kl"}
    assert one > both


def test_of_a_large_start_the_frozen_blocks_are_made_small_before_images_are_taken_one_by_one(machine):
    """4 bytes of a weight become 1, then 0.56, then none; an adapter's gradients outweigh what is decoded."""
    leanest = 20 * 10**8 / GIB + ON_ITS_WAY * (1.5 * 2 * 0.005 / 4 + 2 * 0.005 / 20)
    for held, size in (("whole", 4), ("int8", 1), ("nf4", 0.5625), ("offloaded", 0)):
        machine((leanest + size * 10**9 / GIB + 1e-4) / 0.9 * GIB, num_trained=10**9, in_blocks=10**9)
        config, reasons = config_for()
        assert (config.model.frozen_weights, config.train.micro_batch_size) == (held, 2)
        assert reasons[1].endswith({"whole": "1,000M weights"}.get(held, f"; {HELD[held][2:]}"))


def test_where_nothing_fits_the_leanest_is_said_to_run_out(machine):
    machine(1)
    config, reasons = config_for()
    assert (config.train.micro_batch_size, config.trajectory.gradient_checkpointing,
            config.model.gradient_checkpointing) == (1, True, True)  # fmt: skip
    assert "it may run out of memory" in reasons[-1]


def test_of_large_images_losses_decode_a_window(machine):
    machine(100 * GIB)
    assert config_for(replace(START, side=384))[0].objective.crop.size is None
    config, _ = config_for(replace(START, side=512))
    assert (config.objective.crop.size, config.data.size) == (48, 512)


def test_whatever_is_chosen_is_a_recipe_that_is_accepted(machine):
    for free, num_trained in product((1, GIB, 100 * GIB), (10**7, 10**9)):
        machine(free, num_trained)
        for steps, any_steps, solver in product((1, 4, 50), (True, False), ("lcm", "euler", None)):
            start = replace(START, steps=steps, any_steps=any_steps, solver=solver)
            for captions in (UNIQUE, SHARED, ONE, STREAM, Captions(2, 1.0)):
                config, reasons = config_for(start, captions)
                assert config.trajectory.num_inference_steps == steps and len(reasons) == 5
                assert config.train.micro_batch_size * config.train.gradient_accumulation_steps == 32
                assert len(weights_of(config)) > 3 and "keep" in weights_of(config)


def test_a_tiny_model_is_trained_whole(tiny_model):
    start = replace(START, model=ModelConfig(path=str(tiny_model)), folder=tiny_model)
    config, reasons = config_for(start)
    assert (config.trajectory.parameters, config.train.micro_batch_size) == ("shared", 32)
    assert len(reasons) == 5
