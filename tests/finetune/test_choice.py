"""What is chosen for a model, for data and for a device's memory; whatever it is, a recipe takes it."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from e2ed2.finetune import choice as module
from e2ed2.finetune.choice import LORA_LR, LR, Captions, captions_of, choose
from e2ed2.finetune.starts import Start
from e2ed2.models.memory import Memory
from e2ed2.recipe.config import ModelConfig
from e2ed2.recipe.load import config_of

DATA = {"source": "folder", "path": "photos"}
UNIQUE, SHARED, ONE, STREAM = Captions(40, 0.1), Captions(40, 0.98), Captions(1, 0.0), Captions()
GIB = 2**30
START = Start(ModelConfig(path="my/model"), Path("unused"), 4, "lcm", 1.0, True, 64, "its inference.json")


@pytest.fixture
def machine(monkeypatch):
    """`machine(free, num_trained=..., ...)`: memory, and the size of any model; 8 GiB and a small one first."""

    def have(free: float, num_trained: int = 10**7, weights: int = GIB, evaluation: int = GIB // 100):
        whole = Memory(weights, evaluation, GIB // 50, num_trained)
        adapter = replace(whole, weights=weights // 5, evaluation=evaluation // 2, num_trained=num_trained // 10)
        monkeypatch.setattr(module, "device_memory", lambda: int(free))

        def count(folder, side, rank=None, *, half=False, recomputes_blocks=False):
            memory = adapter if rank else whole
            return replace(memory, evaluation=memory.evaluation // 4) if recomputes_blocks else memory

        monkeypatch.setattr(module, "count_memory", count)

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
    machine(GIB)
    config, reasons = config_for()
    assert config.trajectory.parameters == "lora"
    assert "trained: a LoRA of rank 64, since the model has 10M weights, too many for the memory here" in reasons


def test_the_less_memory_the_fewer_images_at_a_time_and_as_many_an_update(machine):
    """90% of what is free, against 1.25 * (1 + 0.04 of the frozen start + rows * (1.5 * 0.04 + 0.02)) GiB."""
    for free, rows in ((5.01, 32), (4.98, 16), (3.20, 8), (2.32, 4), (1.70, 2)):
        machine(free * GIB)
        config, reasons = config_for()
        assert config.trajectory.parameters == "shared" and not config.trajectory.gradient_checkpointing
        assert (config.train.micro_batch_size, config.train.gradient_accumulation_steps) == (rows, 32 // rows), free
    assert reasons[-1] == "batch: 32 images an update, 2 at a time, about 1.5 of 2 GiB"


def test_where_two_images_do_not_fit_more_is_recomputed_before_they_are_taken_one_by_one(machine):
    """1.25 * (0.2 + rows * (1.5 * 4 * 0.005 + 0.02)) GiB of an adapter; then one step is kept, or a quarter of it."""
    for free, rows, steps, blocks in ((0.42, 2, False, False), (0.36, 2, True, False), (0.34, 2, True, True),
                                      (0.33, 1, True, True)):  # fmt: skip
        machine(free * GIB)
        for captions in (UNIQUE, SHARED):
            config, reasons = config_for(captions=captions)
            found = config.trajectory.gradient_checkpointing, config.model.gradient_checkpointing
            assert (config.train.micro_batch_size, *found) == (rows, steps, blocks), free
            assert ("recomputed in backward" in reasons[-1], "steps and blocks" in reasons[-1]) == found
            assert (weights_of(config).keys() == {"l2", "lpips", "keep", "kl"}) == (rows == 1)


def test_of_large_images_losses_decode_a_window(machine):
    machine(100 * GIB)
    assert config_for(replace(START, side=384))[0].objective.crop.size is None
    config, _ = config_for(replace(START, side=512))
    assert (config.objective.crop.size, config.data.size) == (48, 512)


def test_whatever_is_chosen_is_a_recipe_that_is_accepted(machine):
    for free, num_trained in product((1, GIB, 100 * GIB), (10**7, 10**9)):
        machine(free, num_trained)
        for steps, any_steps, solver in product((1, 2, 4, 8, 50), (True, False), ("lcm", "ancestral", "euler", None)):
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
