"""The energy score: values by hand, its closed form on Gaussians, what it and L2 learn of a distribution."""

import math

import pytest
import torch
from torch import Tensor

from e2ed2.objectives.reconstruction import l2
from e2ed2.objectives.scoring import energy_score, euclidean, patch_euclidean, per_caption


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1)


def test_two_samples_by_hand():
    """X = 0 and 3, y = 1: (1 + 2) / 2 - 3 / 2 = 0. X = 5 and 5, y = 1: 4."""
    samples = torch.stack([column(0, 5), column(3, 5)])
    assert energy_score(samples[:, :1], column(1), euclidean()).item() == pytest.approx(0.0)
    assert energy_score(samples[:, 1:], column(1), euclidean()).item() == pytest.approx(4.0)
    assert energy_score(samples, column(1, 1), euclidean()).item() == pytest.approx(2.0)


def test_three_samples_by_hand():
    """X = 0, 1, 3, y = 2: (2 + 1 + 1) / 3 - 2 (1 + 3 + 2) / (2 * 3 * 2) = 4/3 - 1."""
    samples = torch.stack([column(0), column(1), column(3)])
    assert energy_score(samples, column(2), euclidean()).item() == pytest.approx(1 / 3)


def test_gradient_by_hand():
    """X = 0 and 3, y = 1: from the data -1/2 and 1/2, from the other sample +1/2 and -1/2."""
    samples = torch.stack([column(0), column(3)]).requires_grad_()
    energy_score(samples, column(1), euclidean()).backward()
    assert samples.grad.flatten().tolist() == pytest.approx([0.0, 0.0])
    samples = torch.stack([column(2), column(3)]).requires_grad_()
    energy_score(samples, column(1), euclidean()).backward()
    assert samples.grad.flatten().tolist() == pytest.approx([1.0, 0.0])


def test_several_images_by_hand():
    """X = 0 and 3, Y = 1 and 5: (1 + 5 + 2 + 2) / 4 - 3 / 2 = 1."""
    samples = torch.stack([column(0), column(3)]).requires_grad_()
    score = energy_score(samples, [column(1), column(5)], euclidean())
    score.backward()
    assert score.item() == pytest.approx(1)
    # by the data: -(1 + 1) / 4 and (1 - 1) / 4; by each other: 1/2 and -1/2
    assert samples.grad.flatten().tolist() == pytest.approx([-0.5 + 0.5, 0 - 0.5])


@pytest.mark.parametrize("distance", [euclidean(0.7), patch_euclidean()])
def test_one_image_in_a_list_is_the_image(distance):
    samples = torch.randn(3, 5, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    x0 = torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(energy_score(samples, [x0], distance), energy_score(samples, x0, distance))
    alone = per_caption(lambda x, y: energy_score(x, y, distance), 1)
    assert torch.equal(alone(samples, x0), energy_score(samples, x0, distance))


def tuple_distance(a, b):
    return euclidean()(a[0], b[0]) + 3 * euclidean(0.5)(a[1], b[1])


def test_a_class_batch_is_scored_caption_by_caption():
    """2 captions with 3 rows each, 2 samples per row: 6 samples and 3 images of a caption; also of feature maps."""
    generator = torch.Generator().manual_seed(0)
    samples, other = torch.randn(2, 2, 6, 4, 5, generator=generator)
    x0, other_x0 = torch.randn(2, 6, 4, 5, generator=generator)

    def score_of_caption(rows, distance, samples, x0):
        return energy_score([s for sample in samples for s in sample[rows][:, None]], list(x0[rows][:, None]), distance)

    expected = sum(score_of_caption(r, euclidean(), samples, x0) for r in (slice(0, 3), slice(3, 6))) / 2
    score = per_caption(lambda x, y: energy_score(x, y, euclidean()), 3)
    torch.testing.assert_close(score(samples, x0), expected)
    maps = per_caption(lambda x, y: energy_score(x, y, tuple_distance), 3)
    both = score(samples, x0) + 3 * per_caption(lambda x, y: energy_score(x, y, euclidean(0.5)), 3)(other, other_x0)
    torch.testing.assert_close(maps(list(zip(samples, other, strict=True)), (x0, other_x0)), both)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
def test_euclidean_by_hand(beta):
    """(3, 4) and the origin: norm 5, over sqrt(2) elements."""
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64).reshape(2, 2, 1, 1)
    distance = euclidean(beta)(a, torch.zeros_like(a))
    assert distance.tolist() == pytest.approx([(5 / 2**0.5) ** beta, 0.0])


def explicit_patches(a: Tensor, b: Tensor, beta: float, sizes: tuple[int, ...]) -> Tensor:
    """The same distance with every patch cut out, [B]."""
    per_size = []
    for size in sizes:
        stride = max(size // 2, 1)
        patches = (a - b).unfold(2, size, stride).unfold(3, size, stride)  # [B, C, rows, columns, size, size]
        norms = patches.square().mean((1, 4, 5)).sqrt()
        per_size.append((norms**beta).mean((1, 2)))
    if a.shape[2] != a.shape[3]:
        per_size.append((a - b).square().mean((1, 2, 3)).sqrt() ** beta)
    return torch.stack(per_size).mean(0)


@pytest.mark.parametrize("beta", [0.7, 1.0, 1.8])
@pytest.mark.parametrize("side", [(16, 16), (12, 20), (17, 16)])
def test_patch_euclidean_is_the_mean_over_explicit_patches(side, beta):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, *side, generator=generator, dtype=torch.float64)
    default = (1, 2, 4, 8, min(16, *side))
    torch.testing.assert_close(patch_euclidean(beta)(a, b), explicit_patches(a, b, beta, default))
    whole = (3, 6, min(side))  # the shorter side is always among them, and of other shapes the whole
    torch.testing.assert_close(patch_euclidean(beta, (3, 6))(a, b), explicit_patches(a, b, beta, whole))


def test_sizes_beyond_the_image_are_cut_to_it_and_count_once():
    a, b = torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(patch_euclidean(sizes=(2, 16, 99, 8))(a, b), patch_euclidean(sizes=(2, 8))(a, b))


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
def test_a_patch_of_the_whole_image_is_the_euclidean_distance(beta):
    a, b = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(patch_euclidean(beta, sizes=(16,))(a, b), euclidean(beta)(a, b))


def test_a_wide_latent_is_judged_as_a_whole():
    """2x6 with differences 3 and 4 at its ends, by hand: places of 1, squares of 2 (stride 1), and all twelve."""
    a = torch.zeros(1, 1, 2, 6, dtype=torch.float64)
    a[..., 0, 0], a[..., 0, 5] = 3, 4
    by_hand = ((3 + 4) / 12 + (3 / 2 + 4 / 2) / 5 + (25 / 12) ** 0.5) / 3
    for x in (a, a.transpose(2, 3)):
        assert patch_euclidean()(x, torch.zeros_like(x)).item() == pytest.approx(by_hand)


def test_the_two_ends_of_a_wide_latent_are_told_to_be_dependent():
    """2x6, ends +-1 and the rest 0, exactly over all cases: samples with independent ends score worse than the data."""
    ends = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 2)
    latents = torch.zeros(4, 1, 2, 6, dtype=torch.float64)
    latents[:, 0, :, 0], latents[:, 0, :, 5] = ends[:, :1], ends[:, 1:]
    distances = torch.stack([patch_euclidean()(latents, x.expand_as(latents)) for x in latents])
    dependent, independent = torch.tensor([[0.5, 0, 0, 0.5], [0.25] * 4], dtype=torch.float64)

    def expected(samples: Tensor) -> float:
        return (samples @ distances @ dependent - 0.5 * samples @ distances @ samples).item()

    assert expected(independent) > expected(dependent) + 0.01


@pytest.mark.parametrize("kind", [euclidean, patch_euclidean])
def test_distances_scale_as_documented(kind):
    """About 1 for unit noise at any resolution, and homogeneous of degree beta."""
    generator = torch.Generator().manual_seed(0)
    for side in (16, 64):
        noise = torch.randn(8, 4, side, side, generator=generator)
        distance = kind()(noise, torch.zeros_like(noise))
        assert distance.shape == (8,) and distance.mean().item() == pytest.approx(1, abs=0.05)
    for beta in (0.5, 1.5):
        scaled = kind(beta)(3 * noise, torch.zeros_like(noise))
        torch.testing.assert_close(scaled, 3**beta * kind(beta)(noise, torch.zeros_like(noise)))


def gaussian_energy_score(mean: float, std: float) -> float:
    """E|X - y| - E|X - X'| / 2 for X ~ N(mean, std^2), y ~ N(0, 1): moments of folded normals."""
    tau = (std**2 + 1) ** 0.5
    attraction = tau * (2 / math.pi) ** 0.5 * math.exp(-(mean**2) / (2 * tau**2)) + mean * math.erf(
        mean / (tau * 2**0.5)
    )
    return attraction - std / math.pi**0.5


@pytest.mark.parametrize("num_samples", [2, 3, 6])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.5), (-1.5, 2.0)])
def test_energy_score_is_unbiased_for_any_number_of_samples(mean, std, num_samples):
    generator = torch.Generator().manual_seed(0)
    batch = 100_000
    x0 = torch.randn(batch, 1, generator=generator, dtype=torch.float64)
    z = torch.randn(num_samples, batch, 1, generator=generator, dtype=torch.float64)
    score = energy_score(mean + std * z, x0, euclidean())
    standard_error = (1 + std) / batch**0.5  # one caption's score varies by less than 1 + std
    assert score.item() == pytest.approx(gaussian_energy_score(mean, std), abs=4 * standard_error)


@pytest.mark.parametrize(("num_samples", "num_images"), [(2, 4), (4, 2), (5, 5)])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.5)])
def test_energy_score_is_unbiased_for_any_number_of_images(mean, std, num_samples, num_images):
    """Twice the score less the data's own E|Y - Y'| = 2 / sqrt(pi) is the energy distance of two Gaussians."""
    generator = torch.Generator().manual_seed(0)
    batch = 100_000
    y = torch.randn(num_images, batch, 1, generator=generator, dtype=torch.float64)
    z = torch.randn(num_samples, batch, 1, generator=generator, dtype=torch.float64)
    energy_distance = 2 * energy_score(mean + std * z, list(y), euclidean()) - 2 / math.pi**0.5
    expected = 2 * gaussian_energy_score(mean, std) - 2 / math.pi**0.5
    assert energy_distance.item() == pytest.approx(expected, abs=8 * (1 + std) / batch**0.5)
    if (mean, std) == (0.0, 1.0):
        assert expected == pytest.approx(0)


def test_the_expected_score_is_least_for_the_true_distribution():
    """The closed form itself, on a grid of means and standard deviations round the truth N(0, 1)."""
    grid = [(m / 10, s / 10) for m in range(-5, 6) for s in range(2, 21)]
    assert min(grid, key=lambda point: gaussian_energy_score(*point)) == (0.0, 1.0)


TRUE_MEAN = torch.tensor([[-1.0, 0.5], [2.0, 0.0]])  # [2 captions, 2 coordinates]
TRUE_STD = torch.tensor([[0.3, 1.0], [0.6, 0.2]])


def fit(objective) -> tuple[Tensor, Tensor]:
    """Mean and |std| of the sampler mean + std * noise for each caption, trained on the objective."""
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.zeros(2, 2, requires_grad=True), torch.full((2, 2), 0.8, requires_grad=True)
    num_updates = 300
    optimizer = torch.optim.Adam([mean, std], lr=0.05)
    lr_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
    for _ in range(num_updates):
        caption = torch.arange(2).repeat(1024)
        x0 = TRUE_MEAN[caption] + TRUE_STD[caption] * torch.randn(2048, 2, generator=generator)
        samples = mean[caption] + std[caption] * torch.randn(2, 2048, 2, generator=generator)
        optimizer.zero_grad()
        objective(samples, x0).backward()
        optimizer.step()
        lr_schedule.step()
    return mean.detach(), std.detach().abs()


@pytest.mark.parametrize("beta", [0.6, 1.0, 1.6])
def test_minimising_the_energy_score_recovers_the_conditional_distribution(beta):
    mean, std = fit(lambda samples, x0: energy_score(samples, x0, euclidean(beta)))
    torch.testing.assert_close(mean, TRUE_MEAN, rtol=0, atol=0.05)
    torch.testing.assert_close(std, TRUE_STD, rtol=0, atol=0.05)


def test_minimising_l2_finds_the_mean_and_collapses():
    mean, std = fit(l2)
    torch.testing.assert_close(mean, TRUE_MEAN, rtol=0, atol=0.05)
    assert std.max() < 0.01


@pytest.mark.parametrize("distance", [euclidean(0.5), euclidean(), patch_euclidean(0.5), patch_euclidean()])
def test_identical_samples_give_the_gradient_of_the_first_term_alone(distance):
    """As when a random start falls on the last step: samples of a caption share x_t and draw no noise."""
    sample, x0 = torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = sample.repeat(2, 1, 1, 1, 1).requires_grad_()
    energy_score(samples, x0, distance).backward()
    alone = sample.clone().requires_grad_()
    distance(alone, x0).mean().backward()
    torch.testing.assert_close(samples.grad, alone.grad.expand(2, -1, -1, -1, -1) / 2)


@pytest.mark.parametrize("distance", [euclidean(0.5), euclidean(), patch_euclidean(0.5), patch_euclidean()])
def test_samples_equal_to_the_data_have_no_gradient(distance):
    x0 = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = x0.repeat(2, 1, 1, 1, 1).requires_grad_()
    score = energy_score(samples, x0, distance)
    score.backward()
    assert score.item() == 0 and not samples.grad.any()


@pytest.mark.parametrize(
    ("samples", "x0"),
    [
        ((1, 4, 3, 8, 8), (4, 3, 8, 8)),  # one sample has nothing to be compared with
        ((4, 3, 8, 8), (4, 3, 8, 8)),  # no dimension of samples
        ((2, 4, 3, 8, 8), (1, 3, 8, 8)),  # would broadcast over captions
        ((2, 1, 3, 8, 8), (4, 3, 8, 8)),
        ((2, 4, 3, 8, 8), (4, 3, 8, 9)),
    ],
)
def test_one_sample_and_wrong_shapes_are_refused(samples, x0):
    with pytest.raises(ValueError, match=r"energy score: .* expected"):
        energy_score(torch.zeros(samples), torch.zeros(x0), euclidean())


@pytest.mark.parametrize("shapes", [[], [(4, 3), (1, 3)]])
def test_no_image_and_one_of_another_shape_are_refused(shapes):
    with pytest.raises(ValueError, match=r"energy score: .* expected"):
        energy_score(torch.zeros(2, 4, 3), [torch.zeros(shape) for shape in shapes], euclidean())
