"""The term that keeps a model near its start, against a start that was loaded beside it and never trained."""

import copy
from pathlib import Path

import pytest
import torch

from e2ed2.data.captions import read_captions
from e2ed2.models.few_step_network import FewStepNetwork
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.models.text import encode_prompts
from e2ed2.recipe.load import build_config
from e2ed2.system.errors import UserError
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.stages.create import create_stage
from e2ed2.training.stages.keep import SHIPPED, kept_prompts
from e2ed2.trajectory import draw_noises

PROMPTS, ROWS, NUM_STEPS, COUNT = ["a blue owl", "two ships", "rain"], torch.arange(4), 2, 3
KINDS = pytest.mark.parametrize("parameters", ["shared", "lora", "lora_per_step"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def prompts(tmp_path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{line}\n" for line in [*PROMPTS, PROMPTS[0]]))
    return file


@pytest.fixture
def make(tiny_model, pictures, prompts):
    """`make(parameters, **trajectory)` -> a stage with the term alone, on four pictures."""

    def stage_of(parameters="shared", objective=None, **trajectory):
        torch.manual_seed(0)
        objective = objective or {"keep": {"weight": 1, "prompts": prompts, "batch_size": COUNT}}
        lora = {"lora_rank": 2} if parameters.startswith("lora") else {}
        config = build_config(
            {
                "stage": "e2ed2",
                "run": {"dir": "unused"},
                "model": {"path": str(tiny_model)},
                "data": {"source": "folder", "path": pictures, "size": 64},
                "trajectory": {"num_inference_steps": NUM_STEPS, "start": "pure_noise", "parameters": parameters}
                | lora | trajectory,
                "objective": objective,
                "train": {"micro_batch_size": 4},
            }
        )  # fmt: skip
        return create_stage(config, load_training_set(config.data, print), torch.device("cpu"), lambda line: None)

    return stage_of


def term(stage, seed: int = 0) -> torch.Tensor:
    """The term of a micro-batch."""
    return stage._keep(stage.network, stage.data.latents[ROWS], NUM_STEPS, generator(seed))


def shake(network: FewStepNetwork, scale: float = 0.1) -> None:
    """Change whatever is trained."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p += scale * torch.randn_like(p)


def state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in network.state_dict().items()}


def is_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


@KINDS
def test_it_is_zero_before_the_first_update_and_positive_after(make, parameters):
    stage = make(parameters)
    assert term(stage).item() == 0
    shake(stage.network)
    assert term(stage).item() > 0


@KINDS
def test_value_and_gradient_are_those_of_a_mean_squared_distance(make, tiny_model, parameters):
    """Draws in the order of the code: the prompts, then the noises of all steps."""
    stage, start = make(parameters), make(parameters)
    shake(stage.network)
    source = generator()
    cond = encode_prompts(PROMPTS, load_pipeline(tiny_model)[0]).select(torch.randint(3, (COUNT,), generator=source))
    noises = draw_noises((COUNT, 4, 16, 16), NUM_STEPS, source)
    with torch.no_grad():
        kept = start.network(noises, cond)
    expected = ((stage.network(noises, cond) - kept) ** 2).sum() / kept.numel()
    trained = [p for p in stage.network.parameters() if p.requires_grad]
    by_hand = torch.autograd.grad(expected, trained, allow_unused=True)
    found = term(stage)
    torch.testing.assert_close(found, expected)
    for own, other in zip(torch.autograd.grad(found, trained, allow_unused=True), by_hand, strict=True):
        assert (own is None) == (other is None)
        if own is not None:
            torch.testing.assert_close(own, other)
    assert any(own is not None and own.abs().max() > 0 for own in by_hand)


def test_draws_depend_on_the_generator_alone(make):
    stage = make()
    shake(stage.network)
    first = term(stage, 1)
    torch.manual_seed(7)
    torch.rand(5)
    before = torch.get_rng_state()
    assert torch.equal(term(stage, 1), first) and not torch.equal(term(stage, 2), first)
    assert torch.equal(torch.get_rng_state(), before)


@KINDS
def test_neither_start_nor_average_is_changed_by_an_update(make, parameters):
    stage = make(parameters)
    ema = copy.deepcopy(stage.network).requires_grad_(False)
    average, trained = state(ema), [p.requires_grad for p in stage.network.parameters()]
    shake(stage.network)
    noises, cond = draw_noises((1, 4, 16, 16), NUM_STEPS, generator()), stage._keep._prompts.select(ROWS[:1])
    with stage._keep._as_it_was(stage.network) as start, torch.no_grad():
        before = start(noises, cond)
    optimizer = torch.optim.AdamW([p for p in stage.network.parameters() if p.requires_grad], lr=0.1)
    for seed in range(2):
        stage.loss_terms(stage.network, ema, ROWS, generator(seed))["keep"].backward()
        optimizer.step()
        optimizer.zero_grad()
    with stage._keep._as_it_was(stage.network) as start, torch.no_grad():
        assert torch.equal(start(noises, cond), before)
    with torch.no_grad():
        assert not torch.equal(stage.network(noises, cond), before), "the adapter is on again"
    assert [p.requires_grad for p in stage.network.parameters()] == trained
    assert is_same(state(ema), average) and all(p.grad is None for p in ema.parameters())


@pytest.mark.parametrize("parameters", ["shared", "lora"])
def test_beside_a_learned_grid_the_start_keeps_its_own(make, parameters):
    stage = make(parameters, time_grid="learned")
    assert term(stage).item() == 0
    with torch.no_grad():
        for p in stage.network.time_grids.parameters():
            p += 0.5
    assert term(stage).item() > 0


def test_the_gradient_passes_through_as_many_steps_as_that_of_the_other_terms(make):
    stage = make(num_backprop_steps=1)
    shake(stage.network)
    grads = []
    for num_steps in (1, 2):
        source = generator()
        batch = stage.data.batch(ROWS, source)
        value = stage._keep(stage.network, batch.x0, NUM_STEPS, source, num_backprop_steps=num_steps)
        grads.append(torch.autograd.grad(value, stage.network.transformers[0].pos_embed.proj.weight)[0])
    told = stage.loss_terms(stage.network, stage.network, ROWS, generator())["keep"]
    (found,) = torch.autograd.grad(told, stage.network.transformers[0].pos_embed.proj.weight)
    assert torch.equal(found, grads[0]) and not torch.equal(*grads)


def test_the_prompts_are_those_of_the_recipe_or_the_ones_that_ship(make, prompts, tmp_path):
    def config(**keep):
        objective = {"keep": {"weight": 1, **keep}}
        return build_config({"stage": "e2ed2", "run": {"dir": "x"}, "model": {"path": "y"}, "objective": objective})

    assert kept_prompts(config(prompts=prompts)) == (PROMPTS, [])
    for given, name in (({}, "general"), ({"prompts": "emoji"}, "emoji")):
        shipped = list(read_captions(SHIPPED[name], "keep"))
        kept, left = kept_prompts(config(**given))
        assert left == shipped[4::5] and [prompt for prompt in shipped if prompt not in left] == kept
    with pytest.raises(UserError, match=r"objective\.keep\.prompts"):
        kept_prompts(config(prompts=tmp_path / "none.txt"))


def test_by_default_half_as_many_prompts_as_captions_are_drawn(make, prompts):
    stage = make(objective={"keep": {"weight": 1, "prompts": prompts}})
    seen = []
    stage.network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0].shape))
    term(stage)
    assert seen == [(NUM_STEPS, 2, 4, 16, 16)]
