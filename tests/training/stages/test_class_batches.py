"""Class batches and minibatch optimal transport as the end-to-end stage uses them."""

import pytest
import torch

from e2ed2.coupling import optimal_transport
from e2ed2.data.batch import ImageTextSet
from e2ed2.data.cache import CachedSet
from e2ed2.objectives.scoring import energy_score, euclidean
from e2ed2.recipe.load import build_config
from e2ed2.system.errors import UserError
from e2ed2.training.latents import precompute
from e2ed2.training.stages import end_to_end
from e2ed2.training.stages.create import create_stage

ROWS = torch.arange(12)
ALL = {"plain_caption_fraction": 1.0}
quiet = lambda line: None  # noqa: E731


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(
    path, images, n=2, coupling="independent", start="pure_noise", data=None, say=quiet, solver="lcm", **objective
):
    torch.manual_seed(0)
    objective = objective or {"energy": {"weight": 1}}
    trajectory = {"start": start, "coupling": coupling, "solver": solver}
    sections = {"data": {"images_per_caption": n, **(data or ALL)}, "trajectory": trajectory}
    values = {"stage": "e2ed2", "run": {"dir": "unused"}, "model": {"path": str(path)}, "objective": objective}
    return create_stage(build_config(values | sections), images, torch.device("cpu"), say)


@pytest.fixture
def folder(tiny_emoji):
    """Captions with 1, 2, 3 and 4 images, as a folder might have them."""
    captions = [caption for n, caption in enumerate(["ant", "bee", "cow", "doe"], start=1) for _ in range(n)]
    order = torch.randperm(10, generator=generator()).tolist()
    captions = [captions[i] for i in order]
    return ImageTextSet(tiny_emoji.images[:10], captions, [str(i) for i in range(10)])


def test_a_group_is_different_images_of_one_plain_caption(tiny_model, tiny_emoji):
    stage = make(tiny_model, tiny_emoji)
    rows = stage.data.grouped(ROWS, generator())
    for anchor, group in zip(ROWS[::2].tolist(), rows.view(-1, 2).tolist(), strict=True):
        names, styles = ({values[row] for row in group} for values in (tiny_emoji.names, tiny_emoji.styles))
        assert names == {tiny_emoji.names[anchor]} and styles == {"twemoji", "openmoji"}
    batch = stage.data.batch(ROWS, generator())
    assert torch.equal(batch.rows, rows) and torch.equal(batch.x0, stage.data.latents[rows])
    assert (batch.cond.mask.sum(1) == 3).all()  # `apple`; with its style it would be longer


def test_groups_are_a_function_of_the_generator(tiny_model, tiny_emoji):
    stage = make(tiny_model, tiny_emoji)
    assert torch.equal(stage.data.grouped(ROWS, generator(1)), stage.data.grouped(ROWS, generator(1)))
    assert not torch.equal(stage.data.grouped(ROWS, generator(1)), stage.data.grouped(ROWS, generator(2)))


def test_every_image_of_a_caption_with_enough_is_reached_and_no_other(tiny_model, folder):
    stage = make(tiny_model, folder, n=3)
    drawn = torch.stack([stage.data.grouped(torch.randperm(10)[:6], generator(seed)) for seed in range(200)])
    groups = {frozenset(group) for group in drawn.view(-1, 3).tolist()}
    cows, does = ({row for row in range(10) if folder.captions[row] == caption} for caption in ("cow", "doe"))
    assert groups == {frozenset(cows), *(frozenset(does - {row}) for row in does)}
    share = sum(set(group) <= does for group in drawn.view(-1, 3).tolist()) / 400
    assert share == pytest.approx(4 / 7, abs=0.08)  # a caption as often as it has images


def test_without_class_batches_nothing_is_drawn_or_changed(tiny_model, tiny_emoji):
    stage = make(tiny_model, tiny_emoji, n=1, l2={"weight": 1})
    source, only_captions = generator(), generator()
    batch = stage.data.batch(ROWS, source)
    torch.rand(len(ROWS), 2, generator=only_captions)
    assert batch.rows is ROWS and batch.num_grouped == 0
    assert torch.equal(source.get_state(), only_captions.get_state())


def test_more_images_than_any_caption_has_are_refused(tiny_model, folder):
    with pytest.raises(UserError, match="data.images_per_caption: 5, but no caption .* 'doe' has the most, 4: give 4"):
        make(tiny_model, folder, n=5)


@pytest.mark.parametrize("num_alike", [0, 2])
def test_where_few_captions_have_several_images_the_other_terms_judge_everything(tiny_model, tiny_emoji, num_alike):
    """A recipe with class batches moved to a folder of captions of their own, or of nearly so."""
    images, captions = tiny_emoji.images[:12], [f"number {i}" for i in range(12)]
    captions[:num_alike] = ["alike"] * num_alike  # a sixth of the items, which would fill a quarter of the rows
    unique, said = ImageTextSet(images, captions, captions), []
    both = {"energy": {"weight": 1}, "l2": {"weight": 1}}
    stage = make(tiny_model, unique, data={"plain_caption_fraction": 0.25}, say=said.append, **both)
    assert f"{num_alike} items have a caption of 2 images, which are to fill 25% of all rows" in said[-1]
    assert "energy, for which one sample is too few, are left out" in said[-1]
    values = stage.loss_terms(stage.network, stage.network, ROWS, generator())
    alone = make(tiny_model, unique, n=1, data={"plain_caption_fraction": 0.25}, l2={"weight": 1})
    expected = alone.loss_terms(alone.network, alone.network, ROWS, generator())
    assert stage.weights == {"l2": 1} and values.keys() == {"l2"}
    assert values["l2"].item() == pytest.approx(expected["l2"].item(), rel=1e-5)
    two = make(tiny_model, unique, data={"plain_caption_fraction": 0.25}, num_samples=2, **both)
    assert two.weights == {"energy": 1, "l2": 1}, "two samples of a row are enough"
    assert two.loss_terms(two.network, two.network, ROWS, generator())["energy"].item() > 0


def test_where_the_last_term_on_images_is_left_out_nothing_is_decoded(tiny_model, tiny_emoji, monkeypatch):
    unique = ImageTextSet(tiny_emoji.images[:12], [f"number {i}" for i in range(12)], [str(i) for i in range(12)])
    data = {"plain_caption_fraction": 0.25}
    stage = make(tiny_model, unique, data=data, lpips_energy={"weight": 1}, l2={"weight": 1})
    with_lpips = make(tiny_model, unique, data=data, lpips_energy={"weight": 1}, lpips={"weight": 1})
    monkeypatch.setattr(end_to_end, "decode", None)
    monkeypatch.setattr(end_to_end, "unit_maps", None)
    assert stage.loss_terms(stage.network, stage.network, ROWS, generator()).keys() == {"l2"}
    with pytest.raises(TypeError):  # LPIPS is left
        with_lpips.loss_terms(with_lpips.network, with_lpips.network, ROWS, generator())


def test_without_the_class_batches_asked_for_samples_that_are_one_and_the_same_are_refused(tiny_model, tiny_emoji):
    """At a later start of a solver that draws no noise."""
    unique = ImageTextSet(tiny_emoji.images[:12], [f"number {i}" for i in range(12)], [str(i) for i in range(12)])
    both = {"energy": {"weight": 1}, "l2": {"weight": 1}, "num_samples": 2}
    options = {"data": {"plain_caption_fraction": 0.25}, "start": "random_step", "solver": "ddim"}
    make(tiny_model, tiny_emoji, **options, **both)
    with pytest.raises(UserError, match="trajectory.solver=ddim draws no noise"):
        make(tiny_model, unique, **options, **both)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "cache"])
def test_a_plain_caption_that_is_the_item_s_own_is_a_full_one(tiny_model, tiny_emoji, tmp_path, monkeypatch, kind):
    """Of unique captions in a folder MMD sees all rows but the empty ones; groups of a shared caption it does not."""
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "kept"))

    def latents(images, n=1, **data):
        data, terms = {"plain_caption_fraction": 0.5, **data}, {"mmd": {"weight": 1}, "energy": {"weight": 1}}
        if kind == "cache":
            monkeypatch.setattr(precompute, "load_training_set", lambda *args: images)
            folder = tmp_path / f"cache-{len(images)}-{len(set(images.captions))}"
            values = {"stage": "e2ed2", "run": {"dir": "unused"}, "model": {"path": str(tiny_model)}}
            values |= {"objective": {"mmd": {"weight": 1}}, "data": {"source": "folder", "path": "unused"}}
            values |= {"train": {"mixed_precision": "no"}}  # as `make` below, whatever this machine has
            precompute.precompute(build_config(values), folder, lambda line: None)
            images, data = CachedSet(folder), {**data, "source": "cache", "path": str(folder)}
        return make(tiny_model, images, n, data=data, l2={"weight": 1}, num_samples=2, **terms).data

    unique = ImageTextSet(tiny_emoji.images[:12], [f"number {i}" for i in range(12)], [str(i) for i in range(12)])
    assert latents(unique).batch(ROWS, generator()).is_full.all()
    batch = latents(unique, caption_dropout=0.5).batch(ROWS, generator())
    is_empty = batch.cond.mask.sum(1) == 2
    assert 0 < is_empty.sum() < 12 and torch.equal(batch.is_full, ~is_empty)
    emoji = latents(tiny_emoji).batch(ROWS, generator())  # plain without its style: 3 tokens
    assert torch.equal(emoji.is_full, emoji.cond.mask.sum(1) > 3) and 0 < emoji.is_full.sum() < 12
    shared = ImageTextSet(tiny_emoji.images[:12], [f"number {i // 2}" for i in range(12)], unique.keys)
    assert latents(shared).batch(ROWS, generator()).is_full.all()
    assert latents(shared, 2).batch(ROWS, generator()).is_full.tolist() == [True] * 6 + [False] * 6


@pytest.mark.parametrize("num_samples", [1, 2])
def test_a_scoring_rule_compares_all_samples_of_a_caption_with_all_its_images(
    tiny_model, tiny_emoji, monkeypatch, num_samples
):
    stage = make(tiny_model, tiny_emoji, energy={"weight": 1}, num_samples=num_samples)
    samples = torch.randn(1, num_samples, 12, 4, 16, 16, generator=generator(5))
    monkeypatch.setattr(stage, "_samples", lambda *args: samples)
    values = stage.loss_terms(stage.network, stage.network, ROWS, generator())
    x0 = stage.data.batch(ROWS, generator()).x0
    by_hand = []
    for first in range(0, 12, 2):
        ours = samples[0, :, first : first + 2].flatten(0, 1)[:, None]
        by_hand.append(energy_score(ours, list(x0[first : first + 2][:, None]), euclidean()))
    torch.testing.assert_close(values["energy"], torch.stack(by_hand).mean())


@pytest.mark.parametrize("start", [0, 1])
def test_groups_stand_beside_rows_with_captions_of_their_own(tiny_model, tiny_emoji, monkeypatch, start):
    """A third of twelve rows: the energy score judges two groups of two, L2 the other eight, by their shares.

    From a later step on x_t tells the groups' images apart, and L2 judges all twelve.
    """
    data, both = {"plain_caption_fraction": 1 / 3}, {"energy": {"weight": 1}, "l2": {"weight": 1}}
    stage = make(tiny_model, tiny_emoji, data=data, **both)
    batch = stage.data.batch(ROWS, generator())
    assert batch.num_grouped == 4 and batch.is_full.tolist() == [True] * 8 + [False] * 4
    assert torch.equal(batch.rows[:8], ROWS[:8])
    assert all(tiny_emoji.names[a] == tiny_emoji.names[b] for a, b in batch.rows[8:].view(2, 2).tolist())
    lengths = batch.cond.mask.sum(1)  # a name, or a name with its style
    assert (lengths[:8] > 3).all() and (lengths[8:] == 3).all()
    samples = torch.randn(1, 1, 12, 4, 16, 16, generator=generator(5))
    monkeypatch.setattr(stage, "_samples", lambda *args: samples)
    monkeypatch.setattr(stage, "_draw_start", lambda generator: (2, start))
    values = stage.loss_terms(stage.network, stage.network, ROWS, generator())
    x0, errors = batch.x0, (samples[0, 0] - batch.x0).square().flatten(1).mean(1)
    groups = [(samples[0, 0, i : i + 2], list(x0[i : i + 2][:, None])) for i in (8, 10)]
    by_hand = torch.stack([energy_score(x[:, None], y, euclidean()) for x, y in groups]).mean()
    torch.testing.assert_close(values["energy"], by_hand / 3 if start == 0 else torch.tensor(0.0))
    torch.testing.assert_close(values["l2"], errors[: 12 if start else 8].sum() / 12)


@pytest.mark.parametrize("term", ["patch_energy", "lpips_energy"])
def test_one_sample_per_image_trains_every_term(tiny_model, tiny_emoji, term):
    stage = make(tiny_model, tiny_emoji, **{term: {"weight": 1}})
    value = stage.loss_terms(stage.network, stage.network, ROWS[:4], generator())[term]
    value.backward()
    gradients = [p.grad for p in stage.network.parameters() if p.grad is not None]
    assert value.isfinite() and gradients and all(g.isfinite().all() for g in gradients)


def test_images_are_the_grouped_rows_own(tiny_model, tiny_emoji, monkeypatch):
    """A decoder that returns the very pictures of the class batch makes LPIPS zero."""
    terms = {"lpips": {"weight": 1}, "energy": {"weight": 1}}
    stage = make(tiny_model, tiny_emoji, start="random_step", data={"plain_caption_fraction": 0.5}, **terms)
    monkeypatch.setattr(stage, "_draw_start", lambda generator: (2, 1))  # judged by LPIPS, all of them
    rows = stage.data.batch(ROWS, generator()).rows
    monkeypatch.setattr(end_to_end, "decode", lambda vae, latents: stage.data.images(rows))
    assert stage.loss_terms(stage.network, stage.network, ROWS, generator())["lpips"].item() == 0


def test_lpips_sees_all_samples_and_images_of_a_caption_in_one_view(tiny_model, tiny_emoji, monkeypatch):
    stage = make(tiny_model, tiny_emoji, lpips_energy={"weight": 1})
    stage.data._images = tiny_emoji.images[:1].expand(48, -1, -1, -1)
    real, seen = end_to_end.unit_maps, []
    monkeypatch.setattr(end_to_end, "unit_maps", lambda network, view: seen.append(view) or real(network, view))
    stage.loss_terms(stage.network, stage.network, ROWS, generator())
    views = seen[-1].unflatten(0, (-1, 2))  # of the pictures, which come last
    assert torch.equal(views[:, 0], views[:, 1]) and not torch.allclose(views[0], views[1])


def starts(stage, seed=0):
    """The start noise that the chain is given, [m, B, C, h, w], and the batch's x0."""
    given = []

    def chain(noises, cond, **options):
        given.append((noises[0], options["start"]))
        return torch.zeros_like(noises[0])

    source = generator(seed)
    batch = stage.data.batch(ROWS, source)
    stage._samples(chain, batch, *stage._draw_start(source), source)
    return given[0][0].unflatten(0, (-1, len(ROWS))), batch.x0, given[0][1]


@pytest.mark.parametrize(("n", "group_size"), [(1, None), (2, 2)])
def test_optimal_transport_permutes_each_sample_s_start_noise(tiny_model, tiny_emoji, n, group_size):
    objective = {"energy": {"weight": 1}, "num_samples": 2}
    plain, x0, _ = starts(make(tiny_model, tiny_emoji, n, **objective))
    assigned, _, _ = starts(make(tiny_model, tiny_emoji, n, "optimal_transport", **objective))
    assert not torch.equal(plain, assigned)
    for before, after in zip(plain, assigned, strict=True):
        assert torch.equal(after, optimal_transport(before, x0, group_size))


def test_optimal_transport_leaves_a_later_start_alone(tiny_model, tiny_emoji):
    objective = {"start": "random_step", "energy": {"weight": 1}, "num_samples": 2}
    independent = make(tiny_model, tiny_emoji, 1, **objective)
    assigned = make(tiny_model, tiny_emoji, 1, "optimal_transport", **objective)
    changed = {}
    for seed in range(12):
        before, _, start = starts(independent, seed)
        changed.setdefault(start > 0, set()).add(torch.equal(before, starts(assigned, seed)[0]))
    assert changed == {True: {True}, False: {False}}


def test_an_empty_caption_is_drawn_for_a_whole_group(tiny_model, tiny_emoji):
    stage = make(tiny_model, tiny_emoji, data={**ALL, "caption_dropout": 0.5})
    lengths = stage.data.batch(torch.arange(48), generator()).cond.mask.sum(1).view(-1, 2)
    assert torch.equal(lengths[:, 0], lengths[:, 1]) and set(lengths[:, 0].tolist()) == {2, 3}
