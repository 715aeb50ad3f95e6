"""Feature distances against values by hand, the shared random view, and the shipped network's first layer."""

import pytest
import torch

from e2ed2.models.losses.squeezenet import MEAN, load_squeezenet
from e2ed2.objectives.perceptual import MIN_SIDE, feature_distance, random_views, unit_maps
from e2ed2.objectives.scoring import energy_score


def maps(*places: tuple[float, float]) -> tuple[torch.Tensor]:
    """One feature map of two channels, one place per pair, batch 1."""
    return (torch.tensor(places).T.reshape(1, 2, 1, len(places)),)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_distance_by_hand():
    """Differences (3, 4) and (0, 0): squares 25 and 0, mean 12.5; lengths 5 and 0, mean 2.5."""
    a, b = maps((3, 4), (1, 1)), maps((0, 0), (1, 1))
    assert feature_distance(2)(a, b).tolist() == [12.5]
    assert feature_distance(beta=1)(a, b).tolist() == [2.5]
    assert feature_distance(2)(a + a, b + b).tolist() == [25]  # maps add up


def test_the_energy_score_of_features_by_hand():
    """One place: samples (0, 0) and (3, 4), data (0, 0): (0 + 5) / 2 - 5 / 2."""
    samples = [maps((0.0, 0.0)), maps((3.0, 4.0))]
    assert energy_score(samples, samples[0], feature_distance(1)).item() == pytest.approx(0)


def test_equal_features_have_no_gradient():
    a = maps((1.0, 2.0))[0].requires_grad_()
    feature_distance(1)((a,), (a.detach().clone(),)).backward()
    assert a.grad.tolist() == torch.zeros_like(a).tolist()


def test_features_have_unit_length_and_ignore_contrast():
    found = unit_maps(lambda images: [images, 5 * images], torch.rand(2, 3, 4, 4) + 0.1)
    assert torch.allclose(found[0].square().sum(1), torch.ones(2, 4, 4))
    assert torch.allclose(found[0], found[1])


def test_images_of_a_caption_share_their_view_and_captions_do_not():
    """Two captions with the same picture, two images each: equal down, different across."""
    picture = torch.rand(1, 1, 3, 32, 32, generator=generator())
    views = random_views(picture.expand(2, 2, -1, -1, -1), generator(1))
    assert views.shape == (2, 2, 3, MIN_SIDE, MIN_SIDE)
    assert torch.equal(views[0], views[1])
    assert not torch.allclose(views[0, 0], views[0, 1])
    assert torch.equal(views, random_views(picture.expand(2, 2, -1, -1, -1), generator(1)))


def test_a_view_is_the_same_in_mixed_precision():
    """In bf16 the places of 512 pixels have 256 values."""
    picture = torch.rand(1, 2, 3, 512, 512, generator=generator())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = random_views(picture, generator(1))
    assert torch.equal(mixed, random_views(picture, generator(1)))


def test_rows_of_a_caption_share_their_view():
    picture = torch.rand(1, 1, 3, 32, 32, generator=generator()).expand(1, 4, -1, -1, -1)
    (views,) = random_views(picture, generator(1), rows_per_caption=2)
    assert torch.equal(views[0], views[1]) and torch.equal(views[2], views[3])
    assert not torch.allclose(views[1], views[2])


def test_a_view_moves_a_picture_by_an_eighth_of_its_side_at_most():
    """The middle of 64 views of a centred disc stays inside it; colours are only mixed, never made."""
    axis = torch.linspace(-1, 1, 64)
    disc = ((axis[:, None] ** 2 + axis**2) < 0.5).float().expand(1, 64, 3, 64, 64)
    views = random_views(disc, generator())
    assert (views[..., 40:56, 40:56] > 0.999).all()
    assert views.min() >= 0 and views.max() <= 1 + 1e-6
    area = views.mean((2, 3, 4))
    assert area.std() > 0.02  # it zooms


@pytest.mark.parametrize("sides", [(128, 256), (256, 128)])
def test_a_disc_in_a_picture_that_is_not_square_stays_a_disc(sides):
    """As many rows as columns, and places that spread alike in all directions: of a sheared disc they correlate."""
    y, x = (torch.arange(side) - (side - 1) / 2 for side in sides)
    disc = ((y[:, None] ** 2 + x**2) < 30**2).float().expand(1, 64, 3, *sides)
    (views,) = random_views(disc, generator())
    assert views.shape[-2:] == sides
    is_disc = views[:, 0] > 0.5
    rows, columns = is_disc.any(2).sum(1), is_disc.any(1).sum(1)
    assert (rows - columns).abs().max() <= 2
    assert rows.min() < 52 and rows.max() > 68, "it zooms"
    for view in is_disc:
        assert torch.corrcoef(view.nonzero().T.float())[0, 1].abs() < 0.02


def test_a_picture_that_is_not_square_is_enlarged_in_proportion():
    views = random_views(torch.rand(1, 2, 3, 32, 80, generator=generator()), generator(1))
    assert views.shape == (1, 2, 3, 96, 240)


def test_the_first_layer_of_squeezenet_by_hand():
    """One place of the first map: kernel times (RGB value - mean) plus bias."""
    network = load_squeezenet()
    images = torch.rand(1, 3, 64, 64, generator=generator()) * 2 - 1
    patch = (images[0, :, 19:22, 29:32] + 1) * 127.5 - torch.tensor(MEAN)[:, None, None]  # place (10, 15), stride 2
    expected = (network.conv1.weight * patch).sum((1, 2, 3)) + network.conv1.bias
    found = network(images)
    assert torch.allclose(found[0][0, :, 10, 15], expected.relu(), atol=1e-2)
    assert [m.shape[1] for m in found] == [64, 128, 256, 384, 384, 512, 512]


def test_squeezenet_knows_an_enlarged_picture_from_noise():
    """Trained weights: an image is nearer to its brighter copy than to noise of the same colours."""
    axis = torch.linspace(-1, 1, 96)
    image = torch.stack([(axis[:, None] ** 2 + axis**2 < 0.5).float() * c for c in (1.0, 0.3, 0.1)])[None]
    shuffled = image.flatten(2)[..., torch.randperm(96 * 96, generator=generator())].reshape(image.shape)
    network = load_squeezenet()
    same, other = [
        feature_distance(2)(unit_maps(network, image), unit_maps(network, x)) for x in (0.9 * image, shuffled)
    ]
    assert same < 0.2 * other


def test_what_a_view_does_by_the_places_it_shows():
    """A picture that holds its own places: turn, zoom, flip and shift are read from the slopes at its middle."""
    axis = (torch.arange(MIN_SIDE) + 0.5) * 2 / MIN_SIDE - 1
    places = torch.stack([axis.expand(MIN_SIDE, -1), axis[:, None].expand(-1, MIN_SIDE), axis.expand(MIN_SIDE, -1)])
    (views,) = random_views(places.expand(1, 400, -1, -1, -1), generator())
    half = MIN_SIDE // 2
    middle = views[:, :2, half - 1 : half + 1, half - 1 : half + 1] * MIN_SIDE / 2
    across, down = middle[..., 0, 1] - middle[..., 0, 0], middle[..., 1, 0] - middle[..., 0, 0]  # [400, 2] each
    flip = torch.sign(across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0])
    zoom = across.norm(dim=1)
    angle = torch.rad2deg(torch.atan2(-down[:, 0], down[:, 1]))
    shift = (middle.mean((2, 3)) * 2 / MIN_SIDE).abs()
    assert 0.4 < (flip < 0).float().mean() < 0.6
    assert 9.5 < angle.max() < 10.01 and -10.01 < angle.min() < -9.5
    assert 0.8 <= zoom.min() < 0.82 and 1.22 < zoom.max() <= 1.2501
    assert 0.24 < shift.max() < 0.2501
    assert torch.allclose(down.norm(dim=1), zoom, atol=1e-3)


def test_outside_a_picture_its_border_goes_on():
    views = random_views(torch.ones(1, 32, 3, 40, 40), generator())
    assert torch.allclose(views, torch.ones(()))


def test_a_view_of_half_precision_is_made_in_float32():
    picture = torch.rand(1, 2, 3, 40, 40, generator=generator()).bfloat16()
    views = random_views(picture, generator(1))
    assert views.dtype == torch.float32 and torch.equal(views, random_views(picture.float(), generator(1)))
