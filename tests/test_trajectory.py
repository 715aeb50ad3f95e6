"""The unrolled sampler: gradients against hand-derived ones, Gaussian data with a known answer, contracts."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from e2ed2.prediction import training_target
from e2ed2.schedule import NoiseSchedule, lcm_timesteps, trailing_timesteps, variance_preserving
from e2ed2.trajectory import draw_noises, unroll

# As linear_schedule and flow_schedule, but exact in float64.
VP = variance_preserving(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0))
LEVELS = torch.arange(1, 1001, dtype=torch.float64) / 1000
FLOW = NoiseSchedule(1 - LEVELS, LEVELS)
BATCH, CHANNELS = 3, 2

# (solver, prediction type, schedule)
SAMPLERS = [
    ("lcm", "sample", VP),
    ("lcm", "epsilon", VP),
    ("lcm", "v_prediction", VP),
    ("ancestral", "sample", VP),
    ("ancestral", "v_prediction", VP),
    ("ddim", "sample", VP),
    ("ddim", "epsilon", VP),
    ("euler", "flow_prediction", FLOW),
]
LCM = SAMPLERS[0]


def name(sampler) -> str:
    return f"{sampler[0]}-{sampler[1]}"


def run(sampler, denoise, x: Tensor, timesteps: Tensor, noises: Tensor | None = None, **options):
    solver, prediction_type, schedule = sampler
    options |= {"schedule": schedule, "prediction_type": prediction_type, "solver": solver, "noises": noises}
    return unroll(denoise, x, timesteps, None, **options)


def draw(num_steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x [B, C, 1, 1], noises, target y, weights [C, C]) in float64."""
    generator = torch.Generator().manual_seed(num_steps)
    x, y = torch.randn(2, BATCH, CHANNELS, 1, 1, generator=generator, dtype=torch.float64)
    noises = torch.randn(num_steps - 1, *x.shape, generator=generator, dtype=torch.float64)
    weights = 0.5 * torch.randn(CHANNELS, CHANNELS, generator=generator, dtype=torch.float64)
    return x, noises, y, weights


def linear(x_t: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", weights, x_t)


def affine_step(solver: str, prediction_type: str, schedule: NoiseSchedule, t: int, t_prev: int):
    """The step for the prediction W x as (a, b, c): x' = a x + b W x + c noise, derived by hand.

    First x0 = p x + q W x from the prediction type, then x' = a x + b x0 + c noise from the solver's rule.
    """
    alpha, sigma = schedule.alphas[t].item(), schedule.sigmas[t].item()
    alpha_prev, sigma_prev = 1.0, 0.0
    if t_prev >= 0:
        alpha_prev, sigma_prev = schedule.alphas[t_prev].item(), schedule.sigmas[t_prev].item()
    p, q = {
        "sample": (0, 1),
        "epsilon": (1 / max(alpha, 1e-9), -sigma / max(alpha, 1e-9)),
        "v_prediction": (alpha, -sigma),
        "flow_prediction": (1, -sigma),
    }[prediction_type]
    c_skip, c_out = 0.25 / ((10 * t) ** 2 + 0.25), 10 * t / ((10 * t) ** 2 + 0.25) ** 0.5
    a, b, c = {
        "lcm": (alpha_prev * c_skip, alpha_prev * c_out, sigma_prev),
        "ancestral": (
            alpha / alpha_prev * sigma_prev**2 / sigma**2,  # Eq. 7 of arXiv:2006.11239
            alpha_prev * (1 - alpha**2 / alpha_prev**2) / sigma**2,
            sigma_prev / sigma * (1 - alpha**2 / alpha_prev**2) ** 0.5,
        ),
        "ddim": (sigma_prev / sigma, alpha_prev - sigma_prev * alpha / sigma, 0),
        "euler": (sigma_prev / sigma, 1 - sigma_prev / sigma, 0),
    }[solver]
    return a + b * p, b * q, c


def gradient_terms_by_hand(solver, prediction_type, schedule, timesteps, x, noises, y, weights) -> Tensor:
    """What each step adds to the gradient of sum (x_K - y)^2 / 2 with respect to W, [K, C, C].

    Forward x_{k+1} = a x_k + b W x_k + c n_k; backward g_K = x_K - y, g_k = a g_{k+1} + b W^T g_{k+1};
    step k adds b g_{k+1} x_k^T, summed over the batch. In rows: x [B, C], so x W^T and g W.
    """
    pairs = pairwise([*timesteps.tolist(), -1])
    steps = [affine_step(solver, prediction_type, schedule, t, t_prev) for t, t_prev in pairs]
    rows = x.flatten(1)
    visited = []
    for k, (a, b, c) in enumerate(steps):
        visited.append(rows)
        noise = noises[k].flatten(1) if k < len(noises) else 0
        rows = a * rows + b * rows @ weights.T + c * noise
    g = rows - y.flatten(1)
    terms = []
    for (a, b, _), state in zip(reversed(steps), reversed(visited), strict=True):
        terms.insert(0, b * g.T @ state)
        g = a * g + b * g @ weights
    return torch.stack(terms)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_gradient_of_a_linear_denoiser_is_the_one_derived_by_hand(num_steps, sampler, gradient_checkpointing):
    x, noises, y, weights = draw(num_steps)
    timesteps = lcm_timesteps(num_steps)
    expected = gradient_terms_by_hand(*sampler, timesteps, x, noises, y, weights).sum(0)
    parameter = nn.Parameter(weights.clone())
    options = {"gradient_checkpointing": gradient_checkpointing}
    x0 = run(sampler, lambda x_t, t, _: linear(x_t, parameter), x, timesteps, noises, **options)
    (x0 - y).square().sum().div(2).backward()
    torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item())


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_every_step_contributes_its_own_term(sampler):
    """With a weight matrix per step, each one's gradient is its term of the hand-derived sum, and not 0.

    So a gradient that misses any step's share differs from the right one.
    """
    x, noises, y, weights = draw(4)
    timesteps = lcm_timesteps(4)
    terms = gradient_terms_by_hand(*sampler, timesteps, x, noises, y, weights)
    per_step = nn.Parameter(weights.repeat(4, 1, 1))

    def denoise(x_t: Tensor, t: Tensor, _: None) -> Tensor:
        return linear(x_t, per_step[timesteps.tolist().index(int(t[0]))])

    (run(sampler, denoise, x, timesteps, noises) - y).square().sum().div(2).backward()
    torch.testing.assert_close(per_step.grad, terms, rtol=1e-8, atol=1e-8 * terms.abs().max().item())
    assert all(term.abs().max() > 1e-6 * terms.abs().max() for term in terms)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("num_steps", [1, 2, 4])
@pytest.mark.parametrize("sampler", SAMPLERS[::2], ids=name)
def test_gradcheck_of_a_nonlinear_denoiser(sampler, num_steps, gradient_checkpointing):
    """Gradients with respect to the weights, the start and the noises, against finite differences."""
    x, noises, _, weights = draw(num_steps)
    timesteps, options = trailing_timesteps(num_steps), {"gradient_checkpointing": gradient_checkpointing}

    def sample(w: Tensor, start: Tensor, fresh: Tensor) -> Tensor:
        return run(sampler, lambda x_t, t, _: torch.tanh(linear(x_t, w)), start, timesteps, fresh, **options)

    assert torch.autograd.gradcheck(sample, [v.clone().requires_grad_() for v in (weights, x, noises)])


class CountingNetwork(nn.Module):
    """A small network with dropout that counts its evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Tanh(), nn.Dropout(0.3), nn.ConvTranspose2d(8, 2, 3))
        self.calls = 0

    def forward(self, x_t: Tensor, t: Tensor, cond: None) -> Tensor:
        self.calls += 1
        return self.net(x_t)


def network_run(gradient_checkpointing: bool) -> tuple[Tensor, list[Tensor], int]:
    torch.manual_seed(0)
    network = CountingNetwork()
    noises = draw_noises((2, 2, 6, 6), 4, torch.Generator().manual_seed(1))
    x0 = run(
        LCM, network, noises[0], lcm_timesteps(4), noises[1:], gradient_checkpointing=gradient_checkpointing
    )
    x0.square().sum().backward()
    return x0.detach(), [p.grad for p in network.parameters()], network.calls


def test_checkpointing_changes_the_cost_and_nothing_else():
    """Each step but the last runs twice, and dropout draws the same mask both times."""
    x0, gradients, calls = network_run(gradient_checkpointing=False)
    x0_again, gradients_again, calls_again = network_run(gradient_checkpointing=True)
    assert (calls, calls_again) == (4, 7)
    assert torch.equal(x0, x0_again)
    for gradient, again in zip(gradients, gradients_again, strict=True):
        torch.testing.assert_close(gradient, again, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_nothing_is_attached_under_no_grad(gradient_checkpointing):
    x, noises, _, weights = draw(3)
    parameter = nn.Parameter(weights)
    arguments = (LCM, lambda x_t, t, _: linear(x_t, parameter), x, lcm_timesteps(3), noises)
    options = {"gradient_checkpointing": gradient_checkpointing, "return_intermediates": True}
    with torch.no_grad():
        x0, states, estimates = run(*arguments, **options)
    assert not any(s.requires_grad or s.grad_fn is not None for s in [x0, *states, *estimates])
    x0, states, estimates = run(*arguments, **options)
    assert all(s.grad_fn is not None for s in [x0, *states, *estimates])


def test_intermediate_states_are_the_chain_cut_short():
    """A run from the k-th state with the later timesteps and noises ends where the whole run ends."""
    x, noises, _, weights = draw(4)
    timesteps = lcm_timesteps(4)

    def denoise(x_t: Tensor, t: Tensor, _: None) -> Tensor:
        return torch.tanh(linear(x_t, weights) + t[0] / 1000)

    x0, states, estimates = run(LCM, denoise, x, timesteps, noises, return_intermediates=True)
    assert len(states) == 4 and states[-1] is x0
    for k in range(1, 4):
        rest = run(LCM, denoise, states[k - 1], timesteps[k:], noises[k:])
        torch.testing.assert_close(rest, x0, rtol=1e-12, atol=1e-12)
    assert all((a - b).abs().min() > 1e-6 for a, b in pairwise(states))


def test_denoiser_is_told_the_timestep_of_every_row_and_the_condition():
    heard = []

    def denoise(x_t: Tensor, t: Tensor, cond: str) -> Tensor:
        heard.append((t.tolist(), cond))
        return x_t

    options = {"schedule": VP, "prediction_type": "sample", "solver": "ddim"}
    unroll(denoise, torch.zeros(2, 1, 1, 1), torch.tensor([999, 10]), "red apple", **options)
    assert heard == [([999, 999], "red apple"), ([10, 10], "red apple")]


def test_noise_beyond_the_last_step_is_not_used():
    x, noises, _, weights = draw(3)
    arguments = (LCM, lambda x_t, t, _: linear(x_t, weights), x, lcm_timesteps(2))
    needed, more, other = (run(*arguments, fed) for fed in (noises[:1], noises, -noises))
    assert torch.equal(needed, more) and not torch.equal(needed, other)


MEAN, STD = 0.4, 0.3


def gaussian_denoiser(schedule: NoiseSchedule, prediction_type: str):
    """The exact denoiser of data N(MEAN, STD^2): E[x0 | x_t] and E[noise | x_t] are linear in x_t."""

    def denoise(x_t: Tensor, t: Tensor, _: None) -> Tensor:
        alpha, sigma = schedule.levels(t, x_t)
        residual = (x_t - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        x0, noise = MEAN + alpha * STD**2 * residual, sigma * residual
        return training_target(x0, noise, alpha, sigma, prediction_type)

    return denoise


@pytest.mark.parametrize("sampler", [*SAMPLERS[5:], ("ddim", "v_prediction", VP)], ids=name)
def test_chain_on_gaussian_data_approaches_the_true_distribution(sampler):
    """The chain is affine, x0 = gain x + offset: two starts give its mean and standard deviation exactly."""
    _, prediction_type, schedule = sampler
    denoise = gaussian_denoiser(schedule, prediction_type)
    start_mean = schedule.alphas[-1] * MEAN
    start_std = (schedule.alphas[-1] ** 2 * STD**2 + schedule.sigmas[-1] ** 2).sqrt()
    start = torch.stack([start_mean - start_std, start_mean + start_std]).reshape(2, 1, 1, 1)
    errors = []
    for num_steps in (1, 2, 4, 8, 40, 200, 1000):
        low, high = run(sampler, denoise, start, trailing_timesteps(num_steps)).flatten()
        assert ((low + high) / 2).item() == pytest.approx(MEAN, abs=1e-9)
        errors.append(STD - ((high - low) / 2).item())
    assert errors == sorted(errors, reverse=True)  # too narrow at first: one step gives the mean, std near 0
    assert errors[0] > 0.99 * STD and 0 < errors[-1] < 0.01 * STD


def test_draw_noises_is_reproducible_and_never_repeats_a_step():
    first, again = (draw_noises((2, 3, 4, 4), 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.shape == (3, 2, 3, 4, 4) and torch.equal(first, again)
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "heun"}, "solver 'heun' is unknown: choose lcm, ddim, ancestral, euler"),
        ({"timesteps": torch.tensor([], dtype=torch.int64)}, "timesteps is empty"),
        ({"noises": None}, "noises: 0, but 3 steps of lcm need 2"),
        ({"noises": torch.zeros(1, 2, 1, 4, 4)}, "noises: 1, but 3 steps of lcm need 2"),
        ({"noises": None, "solver": "ancestral"}, "noises: 0, but 3 steps of ancestral need 2"),
        ({"noises": torch.zeros(2, 1, 1, 4, 4)}, r"noises \(2, 1, 1, 4, 4\): expected \[steps, ...\]"),
        ({"noises": torch.zeros(2, 1, 4, 4)}, r"noises \(2, 1, 4, 4\): expected \[steps, ...\]"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"x": torch.zeros(2, 1, 4, 4), "noises": torch.zeros(2, 2, 1, 4, 4), "cond": None}
    arguments |= {"timesteps": lcm_timesteps(3), "schedule": VP, "prediction_type": "sample"} | change
    with pytest.raises(ValueError, match=message):
        unroll(lambda x_t, t, cond: x_t, **arguments)


def test_the_core_imports_torch_and_nothing_else():
    """In a process of its own: the package imports nothing, the core nothing that torch does not bring."""
    program = """
import sys
import e2ed2
assert "torch" not in sys.modules
import torch, torch.utils.checkpoint
before = {name.partition(".")[0] for name in sys.modules}
import e2ed2.trajectory, e2ed2.objectives.scoring, e2ed2.objectives.reconstruction, e2ed2.objectives.total
print(sorted({name.partition(".")[0] for name in sys.modules} - before))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_each_step_can_have_a_denoiser_of_its_own():
    x, noises, _, weights = draw(3)
    timesteps, sets = lcm_timesteps(3), [weights, 2 * weights, weights.T.contiguous()]
    denoisers = [lambda x_t, t, _, w=w: linear(x_t, w) for w in sets]
    by_hand = x
    for k, (t, t_prev) in enumerate(pairwise([*timesteps.tolist(), -1])):
        a, b, c = affine_step(*LCM, t, t_prev)
        by_hand = a * by_hand + b * linear(by_hand, sets[k]) + (c * noises[k] if k < 2 else 0)
    torch.testing.assert_close(run(LCM, denoisers, x, timesteps, noises), by_hand, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="denoise: 3 denoisers, but 2 steps"):
        run(LCM, denoisers, x, timesteps[1:], noises)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_truncated_back_propagation_is_that_of_the_last_steps_alone(kept, gradient_checkpointing):
    """The same sample; its gradient is that of a chain begun at a state that nothing can change."""
    x, noises, y, weights = draw(3)
    timesteps, parameter = lcm_timesteps(3), nn.Parameter(weights)

    def gradient(x: Tensor, first: int, **options) -> tuple[Tensor, Tensor]:
        x0 = run(LCM, lambda x_t, t, _: linear(x_t, parameter), x, timesteps[first:], noises[first:], **options)
        return x0, torch.autograd.grad((x0 - y).square().sum(), parameter)[0]

    options = {"num_backprop_steps": kept, "gradient_checkpointing": gradient_checkpointing}
    sample, truncated = gradient(x, 0, **options)
    with torch.no_grad():
        _, states, _ = run(
            LCM, lambda x_t, t, _: linear(x_t, parameter), x, timesteps, noises, return_intermediates=True
        )
    again, expected = gradient([x, *states][3 - kept], 3 - kept)
    torch.testing.assert_close(sample, again, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(truncated, expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(truncated, gradient(x, 0)[1]) == (kept == 3)


def test_no_step_to_back_propagate_through_is_refused():
    with pytest.raises(ValueError, match="num_backprop_steps: 0"):
        run(LCM, lambda x_t, t, _: x_t, torch.zeros(1, 1, 1, 1), lcm_timesteps(1), num_backprop_steps=0)


def test_estimates_are_what_the_network_said_of_x0():
    x, noises, _, weights = draw(3)
    said = []

    def denoise(x_t: Tensor, t: Tensor, _: None) -> Tensor:
        said.append(linear(x_t, weights))
        return said[-1]

    _, _, estimates = run(LCM, denoise, x, lcm_timesteps(3), noises, return_intermediates=True)  # predicts x0
    assert all(torch.equal(a, b) for a, b in zip(estimates, said, strict=True))
