"""One update: batches, learning rate, accumulation, average, and what stops it; golden losses of ten updates."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from e2ed2.recipe.config import TrainConfig
from e2ed2.system.errors import NonFiniteError
from e2ed2.training.step import Trained, _by_start, learning_rate, update
from tests.training.conftest import order

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_stage.json"
NUM_ITEMS = 23


class ExactStage:
    """Least squares without randomness, in float64."""

    adversary = began_at = None

    weights = {"l2": 1.0}

    def __init__(self):
        torch.manual_seed(0)
        self.network = nn.Linear(3, 1).double()
        self.table = torch.randn(NUM_ITEMS, 4, dtype=torch.float64)

    def loss_terms(self, network, ema, rows, generator):
        return {"l2": (network(self.table[rows, :3]) - self.table[rows, 3:]).square().mean()}


def trained(network, config):
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
    return Trained(network, ema, torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=0.1))


def run(stage, config, num_updates, accelerator=None):
    accelerator = accelerator or Accelerator(mixed_precision="no")
    state = trained(stage.network, config)
    rows = [update(stage, state, config, order(config), step, accelerator) for step in range(num_updates)]
    return state, rows


def test_warmup_is_linear_and_then_constant():
    config = TrainConfig(lr=8.0, lr_warmup_steps=3)
    assert [learning_rate(config, step) for step in range(5)] == [2.0, 4.0, 6.0, 8.0, 8.0]


def test_cosine_falls_from_the_whole_rate_to_zero():
    config = TrainConfig(lr=2.0, lr_schedule="cosine", max_train_steps=4)
    expected = [2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0]
    assert [learning_rate(config, step) for step in range(5)] == pytest.approx(expected)


def test_cosine_and_warmup_multiply():
    config = TrainConfig(lr=2.0, lr_schedule="cosine", max_train_steps=4, lr_warmup_steps=1)
    assert [learning_rate(config, step) for step in (0, 2)] == pytest.approx([1.0, 1.0])


def test_two_accumulated_halves_are_one_whole_batch():
    config = TrainConfig(micro_batch_size=8, lr=1e-2)
    halves = config.model_copy(update={"micro_batch_size": 4, "gradient_accumulation_steps": 2})
    whole, whole_rows = run(ExactStage(), config, 6)
    accumulated, rows = run(ExactStage(), halves, 6)
    assert [row["l2"] for row in rows] == pytest.approx([row["l2"] for row in whole_rows], rel=1e-12)
    for a, b in zip(accumulated.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_the_first_update_is_adamw_by_hand():
    stage, config = ExactStage(), TrainConfig(micro_batch_size=8, lr=1e-2, max_grad_norm=1e9)
    before = stage.network.weight.detach().clone()
    rows = order(config).rows(0)
    loss = stage.loss_terms(stage.network, None, rows, None)["l2"]
    grads = torch.autograd.grad(loss, list(stage.network.parameters()))
    _, (row,) = run(stage, config, 1)
    expected = before * (1 - 1e-2 * 0.1) - 1e-2 * grads[0] / (grads[0].abs() + 1e-8)  # the first step is a sign
    torch.testing.assert_close(stage.network.weight.detach(), expected)
    norm = math.sqrt(sum(g.square().sum().item() for g in grads))
    assert row == {"l2": loss.item(), "total": loss.item(), "lr": 1e-2, "grad_norm": pytest.approx(norm)}


def test_the_average_is_its_closed_form():
    config, stage = TrainConfig(micro_batch_size=8, lr=1e-2, ema_decay=0.9), ExactStage()
    state, weights = trained(stage.network, config), []
    for step in range(5):
        update(stage, state, config, order(config), step, Accelerator(mixed_precision="no"))
        weights.append(stage.network.weight.detach().clone())
    later = sum(0.1 * 0.9 ** (4 - k) * weights[k] for k in range(1, 5))
    torch.testing.assert_close(state.ema.module.weight.detach(), 0.9**4 * weights[0] + later)


def test_clipping_bounds_the_gradient_that_is_applied():
    stage, config = ExactStage(), TrainConfig(micro_batch_size=8, max_grad_norm=1e-3)
    state = Trained(stage.network, trained(stage.network, config).ema, torch.optim.SGD(stage.network.parameters()))
    before = nn.utils.parameters_to_vector(stage.network.parameters()).detach()
    row = update(stage, state, config, order(config), 0, Accelerator(mixed_precision="no"))
    moved = nn.utils.parameters_to_vector(stage.network.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(config.lr * 1e-3, rel=1e-5) and row["grad_norm"] > 0.1


def test_an_update_depends_on_its_number_alone(tiny_stage):
    config = TrainConfig(micro_batch_size=4, lr=1e-2)
    results = []
    for noise in (1, 2):  # what was drawn before must not matter, for dropout neither
        torch.manual_seed(0)
        stage = tiny_stage()
        torch.manual_seed(noise)
        state = trained(stage.network, config)
        results.append(update(stage, state, config, order(config), 5, Accelerator(mixed_precision="no")))
    assert results[0] == results[1]


class Chains(ExactStage):
    """A chain of two steps from its second, of three from noise, and so on in turn."""

    def loss_terms(self, network, ema, rows, generator):
        self.began_at = {None: (2, 1), (2, 1): (3, 0), (3, 0): (2, 1)}[self.began_at]
        return super().loss_terms(network, ema, rows, generator)


def test_a_row_says_where_the_chains_of_its_update_began_and_what_each_start_lost():
    config = TrainConfig(micro_batch_size=4, gradient_accumulation_steps=3, lr=1e-2)
    plain, (expected, _) = run(ExactStage(), config, 2)
    stage, singles = ExactStage(), order(config)
    losses = [stage.loss_terms(stage.network, None, singles.rows(i), None)["l2"].item() for i in range(3)]
    state, (row, last) = run(Chains(), config, 2)
    by_start = {name: value for name, value in row.items() if "/" in name}
    assert {name: value for name, value in row.items() if name not in by_start} == expected
    one, two = losses[1], (losses[0] + losses[2]) / 2
    assert by_start == {
        "chains/from_2_of_2": 2, "l2/from_2_of_2": pytest.approx(two), "total/from_2_of_2": pytest.approx(two),
        "chains/from_1_of_3": 1, "l2/from_1_of_3": pytest.approx(one), "total/from_1_of_3": pytest.approx(one),
    }  # fmt: skip
    assert last["chains/from_1_of_3"] == 2, "the turn went on"
    assert torch.equal(state.network.weight, plain.network.weight)


def test_the_starts_of_all_processes_are_in_one_row():
    """Another process's table is gathered below this one's: its chain from noise lost 3, one like ours 5."""

    class Two:
        device = torch.device("cpu")

        def gather(self, table):
            return torch.cat([table, torch.tensor([[4.0, 0.0, 3.0], [4.0, 2.0, 5.0]])])

    assert _by_start([((4, 2), {"l2": 1.0})], Two()) == {
        "chains/from_1_of_4": 1, "l2/from_1_of_4": 3, "chains/from_3_of_4": 2, "l2/from_3_of_4": 3,
    }  # fmt: skip
    assert _by_start([], Two()) == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_term_stops_with_its_name_and_step_and_changes_nothing(tiny_stage, bad):
    class Diverging(tiny_stage):
        def loss_terms(self, network, ema, rows, generator):
            terms = super().loss_terms(network, ema, rows, generator)
            return {**terms, "smooth": terms["smooth"] * bad}

    stage, config = Diverging(), TrainConfig(micro_batch_size=4)
    before = {name: tensor.clone() for name, tensor in stage.network.state_dict().items()}
    with pytest.raises(NonFiniteError, match=rf"smooth is {bad} at global_step 4"):
        update(stage, trained(stage.network, config), config, order(config), 3, Accelerator(mixed_precision="no"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in stage.network.state_dict().items())


def test_a_bad_gradient_of_a_good_loss_stops_too(tiny_stage):
    class Diverging(tiny_stage):
        def loss_terms(self, network, ema, rows, generator):
            zero = (network[0].weight * 0).sum()
            return {"fit": zero.sqrt(), "smooth": zero}  # the derivative of a root at 0

    stage, config = Diverging(), TrainConfig(micro_batch_size=4)
    with pytest.raises(NonFiniteError, match="grad_norm is nan at global_step 1"):
        update(stage, trained(stage.network, config), config, order(config), 0, Accelerator(mixed_precision="no"))


@pytest.fixture
def scaled():
    """An accelerator with fp16's loss scaling, which accelerate itself gives on GPUs only."""
    accelerator = Accelerator(mixed_precision="no")
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    return accelerator


def test_loss_scaling_does_not_change_the_update(scaled):
    config = TrainConfig(micro_batch_size=8, lr=1e-2)
    plain, _ = run(ExactStage(), config, 3)
    stage = ExactStage()
    state = trained(stage.network, config)
    state = Trained(stage.network, state.ema, scaled.prepare(state.optimizer))
    for step in range(3):
        update(stage, state, config, order(config), step, scaled)
    torch.testing.assert_close(stage.network.weight, plain.network.weight)


def test_an_overflow_under_loss_scaling_skips_the_update_until_scaling_cannot_help(scaled):
    class Overflowing(ExactStage):
        def loss_terms(self, network, ema, rows, generator):
            return {"l2": (network.weight * 0).sum().sqrt()}

    stage, config = Overflowing(), TrainConfig(micro_batch_size=8)
    state = trained(stage.network, config)
    state = Trained(stage.network, state.ema, scaled.prepare(state.optimizer))
    before = stage.network.weight.detach().clone()
    for step in range(3):  # scale 8 -> 4 -> 2 -> 1
        update(stage, state, config, order(config), step, scaled)
    assert torch.equal(stage.network.weight, before)
    with pytest.raises(NonFiniteError, match="grad_norm is nan at global_step 4"):
        update(stage, state, config, order(config), 3, scaled)


def test_golden_losses_of_ten_updates(tiny_stage):
    torch.manual_seed(0)
    config = TrainConfig(
        micro_batch_size=4, gradient_accumulation_steps=2, lr=1e-2, lr_warmup_steps=2, lr_schedule="cosine",
        max_train_steps=10, ema_decay=0.9,
    )  # fmt: skip
    _, rows = run(tiny_stage(), config, 10)
    golden = json.loads(GOLDEN.read_text())
    assert [row.keys() for row in rows] == [row.keys() for row in golden]
    for row, expected in zip(rows, golden, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)


class Adversarial(ExactStage):
    """A sampler beside a discriminator whose loss is not finite from its second update on."""

    def __init__(self):
        super().__init__()
        self.stepped = 0
        settings = SimpleNamespace(num_discriminator_updates=3)
        self.adversary = SimpleNamespace(loss_terms=self._judged, step=self._step, settings=settings)

    def _judged(self, network, rows, generator):
        return {"discriminator": torch.tensor(0.5 if self.stepped == 0 else math.nan)}

    def _step(self, terms, accelerator):
        self.stepped += 1


def test_a_discriminator_that_is_not_finite_stops_before_it_or_the_sampler_moves():
    config, stage = TrainConfig(micro_batch_size=8), Adversarial()
    before = stage.network.weight.detach().clone()
    with pytest.raises(NonFiniteError, match="discriminator is nan at global_step 1"):
        run(stage, config, 1)
    assert stage.stepped == 1 and torch.equal(stage.network.weight, before)


def test_weights_decay_and_biases_and_norms_do_not():
    """With no gradient at all, AdamW shrinks what decays by lr * decay (Loshchilov & Hutter 2019, Algorithm 2)."""
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4, 3), nn.LayerNorm(3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(2.0)
    state = Trained.begin(network, TrainConfig(lr=0.1, weight_decay=0.5))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    left = {name: parameter.unique().item() for name, parameter in network.named_parameters()}
    assert left == {
        "0.weight": pytest.approx(1.9), "0.bias": 2, "1.weight": 2, "1.bias": 2,
        "3.weight": pytest.approx(1.9), "3.bias": 2, "4.weight": 2, "4.bias": 2,
    }  # fmt: skip
