"""A user's data in training: every source, exact resumption, caches, buckets."""

import json
import shutil
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from e2ed2.data import source_set
from e2ed2.data.batch import ImageTextSet
from e2ed2.data.decoding import decode_item
from e2ed2.data.order import ShuffledOrder
from e2ed2.data.source_set import SourceSet
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.recipe.load import build_config, check_config, load_config
from e2ed2.system.errors import UserError
from e2ed2.training import loop
from e2ed2.training.latents import training_set
from e2ed2.training.latents.latent_set import MemoryLatents
from e2ed2.training.latents.lazy import CachedLatents, OnlineLatents, collate
from e2ed2.training.latents.precompute import precompute
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.log import read_metrics
from e2ed2.training.stages.create import create_stage
from tests.data.conftest import write_tar
from tests.models.tiny import MAKERS, SIDE, save_tiny

quiet = lambda line: None  # noqa: E731


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def online(monkeypatch):
    """Nothing is small enough to be held in memory."""
    monkeypatch.setattr(training_set, "MAX_BYTES_IN_MEMORY", 0)


def picture(number: int, size: tuple[int, int]) -> Image.Image:
    generator = torch.Generator().manual_seed(number)
    coarse = torch.randint(256, (4, 4, 3), generator=generator).byte().numpy()
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path) -> Path:
    """14 captioned photos, every third one 80 x 128 with two captions, and one that cannot be decoded."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(14):
        picture(i, (128, 80) if i % 3 == 0 else (64, 64)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"photo {i}" + (f"\nanother of {i}" if i % 3 == 0 else ""))
    (folder / "bad.png").write_bytes(b"noise")
    (folder / "bad.txt").write_text("a bad one")
    return folder


@pytest.fixture
def shards(photos, tmp_path) -> Path:
    folder = tmp_path / "shards"
    for shard in range(2):
        items = {p.stem: {"png": p.read_bytes(), "txt": p.with_suffix(".txt").read_bytes()}
                 for p in sorted(photos.glob("*.png"))[shard::2]}  # fmt: skip
        write_tar(folder / f"{shard}.tar", items)
    return folder


def recipe(model, run_dir="unused", data=None, steps=6, objective=None, **train):
    defaults = {"max_bad_fraction": 0.2, "caption_per_line": True, "buckets": {"max_ratio": 2.5, "step": 16}}
    often = {"checkpoint_every": 4, "log_every": 1, "preview_every": 100, "lr": 1e-3, "mixed_precision": "no"}
    return build_config(
        {
            "stage": "e2ed2",
            "run": {"dir": str(run_dir)},
            "model": {"path": str(model)},
            "data": {**defaults, **(data or {})},
            "trajectory": {"num_inference_steps": 1, "start": "pure_noise"},
            "objective": objective or {"l2": {"weight": 1}},
            "train": {"max_train_steps": steps, "micro_batch_size": 3, **often, **train},
        }
    )


def stage_of(config):
    torch.manual_seed(0)
    return create_stage(config, load_training_set(config.data, quiet), torch.device("cpu"), quiet)


def weights_of(run_dir):
    return load_file(run_dir / "checkpoints" / "step-6" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "webdataset", "cache"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    kind, tiny_model, photos, shards, tmp_path, online, without_time
):
    data = {"source": "folder", "path": str(photos), "window_size": 5}
    if kind == "webdataset":
        data |= {"source": "webdataset", "path": str(shards)}
    if kind == "cache":
        path = precompute(recipe(tiny_model, data=data), tmp_path / "cache", quiet)
        data |= {"source": "cache", "path": str(path)}
    runs = {}
    for name, ends in (("whole", [6]), ("parts", [4, 6])):
        for steps, num_workers in zip(ends, (1, 3), strict=False):
            loop.train(recipe(tiny_model, tmp_path / name, {**data, "num_workers": num_workers}, steps), quiet)
        runs[name] = without_time(read_metrics(tmp_path / name / "metrics.jsonl"))
    assert len(runs["whole"]) == 6 and runs["whole"] == runs["parts"]
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (tmp_path / "whole" / "checkpoints" / "step-6" / "data.json").exists() == (kind == "webdataset")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["webdataset", "folder with buckets", "cache with buckets"])
def test_a_recipe_with_class_batches_trains_without_them_where_there_can_be_none(
    kind, tiny_model, photos, shards, tmp_path
):
    data, both = {"source": "folder", "path": str(photos)}, {"l2": {"weight": 1}, "patch_energy": {"weight": 1}}
    if kind == "webdataset":
        data = {"source": "webdataset", "path": str(shards), "buckets": {}}
    if kind == "cache with buckets":
        data |= {"source": "cache", "path": str(precompute(recipe(tiny_model, data=data), tmp_path / "cached", quiet))}
    grouped, said = data | {"images_per_caption": 2, "plain_caption_fraction": 0.5}, []
    asked = {"steps": 2, "micro_batch_size": 4}
    loop.train(recipe(tiny_model, tmp_path / "grouped", grouped, objective=both, **asked), said.append)
    assert any("no class batches" in line and "patch_energy" in line for line in said)
    loop.train(recipe(tiny_model, tmp_path / "plain", data, objective={"l2": {"weight": 1}}, **asked), quiet)
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("grouped", "plain")]
    assert [row["total"] for row in rows[0]] == [row["total"] for row in rows[1]]


def without_groups(model, photos, said=None, coupling="independent", **objective):
    """A stage that is asked for class batches of captions that have an image each."""
    data = {"source": "folder", "path": str(photos), "images_per_caption": 2, "plain_caption_fraction": 0.5}
    config = recipe(model, data=data | {"buckets": {}}, objective=objective, micro_batch_size=4)
    trajectory = config.trajectory.model_copy(update={"coupling": coupling})
    if objective.get("intermediate_weight"):
        trajectory = trajectory.model_copy(update={"num_inference_steps": 2})
    config = config.model_copy(update={"trajectory": trajectory})
    check_config(config)
    data = load_training_set(config.data, quiet)
    return create_stage(config, data, torch.device("cpu"), quiet if said is None else said.append)


def test_what_class_batches_allow_is_checked_again_without_them(tiny_model, photos):
    rule, said = {"energy": {"weight": 1}}, []
    stage = without_groups(tiny_model, photos, said, **rule, l2={"weight": 1}, num_samples=2)
    assert stage.weights == {"l2": 1, "energy": 1}
    assert any("no class batches" in line and line.endswith("energy compare the 2 samples of each image with it")
               for line in said)  # fmt: skip
    with pytest.raises(UserError, match="optimal_transport, but energy would not be proper"):
        without_groups(tiny_model, photos, coupling="optimal_transport", **rule, l2={"weight": 1}, num_samples=2)
    with pytest.raises(UserError, match="intermediate_weight: 0.5 weighs the terms on latents, and none of them"):
        without_groups(tiny_model, photos, **rule, latent_lpips={"weight": 1}, intermediate_weight=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", [{"l2": {"weight": 1}}, {"l2": {"weight": 1}, "lpips": {"weight": 1}}])
def test_a_cache_gives_the_losses_of_encoding_on_the_fly(
    objective, tiny_model, photos, tmp_path, online, monkeypatch
):
    """But for rounding, which depends on how many are encoded together, and which a high rate would amplify."""
    data, low = {"source": "folder", "path": str(photos), "caption_dropout": 0.2}, {"objective": objective, "lr": 1e-6}
    loop.train(recipe(tiny_model, tmp_path / "online", data, **low), quiet)
    path = precompute(recipe(tiny_model, data=data, **low), tmp_path / "cache", quiet)
    monkeypatch.setattr("e2ed2.training.latents.lazy.encode_prompts", pytest.fail)
    monkeypatch.setattr("e2ed2.training.latents.lazy.encode_all", pytest.fail)
    data |= {"source": "cache", "path": str(path)}
    loop.train(recipe(tiny_model, tmp_path / "cached", data, **low), quiet)
    online_rows, cached_rows = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("online", "cached"))
    assert len(online_rows) == 6
    assert [row["total"] for row in cached_rows] == pytest.approx([row["total"] for row in online_rows], rel=1e-5)


def test_memory_and_cache_and_on_the_fly_are_the_same_batches(tiny_model, tmp_path, tiny_emoji, monkeypatch):
    """Emoji too: with their plain captions, and class batches of them."""
    for n in (1, 2):
        data = {"source": "emoji", "buckets": {}, "caption_dropout": 0.2, "images_per_caption": n}
        config = recipe(tiny_model, data=data, micro_batch_size=4)
        memory = stage_of(config).data
        path = precompute(config, tmp_path / f"cache-{n}", quiet)
        cached = stage_of(recipe(tiny_model, data={**data, "source": "cache", "path": str(path)})).data
        assert isinstance(memory, MemoryLatents) and isinstance(cached, CachedLatents)
        for seed in range(4):
            a, b = (s.batch(torch.arange(8), torch.Generator().manual_seed(seed)) for s in (memory, cached))
            assert torch.equal(a.rows, b.rows) and torch.equal(a.cond.mask, b.cond.mask)
            torch.testing.assert_close(a.x0, b.x0)
            torch.testing.assert_close(a.cond.embeds * a.cond.mask[..., None], b.cond.embeds * b.cond.mask[..., None])


def test_small_folders_are_held_in_memory_and_large_or_several_captions_not(photos, monkeypatch):
    data = {"source": "folder", "path": str(photos), "buckets": {}}
    several, single = recipe("x", data=data).data, recipe("x", data={**data, "caption_per_line": False}).data
    assert isinstance(load_training_set(single, quiet), ImageTextSet)
    assert isinstance(load_training_set(several, quiet), SourceSet)
    monkeypatch.setattr(training_set, "MAX_BYTES_IN_MEMORY", 13 * 3 * 64**2)
    assert isinstance(load_training_set(single, quiet), SourceSet)


def test_an_autoencoder_s_images_are_held_in_memory(photos, online):
    data = {"source": "folder", "path": str(photos), "max_bad_fraction": 0.2}
    values = {"stage": "autoencoder", "run": {"dir": "x"}, "model": {"architecture": {}}, "data": data}
    config = build_config(values | {"objective": {"l1": {"weight": 1}}})
    with pytest.raises(UserError, match="data: stage autoencoder holds its images in memory"):
        stage_of(config)


def test_in_memory_and_on_the_fly_train_alike(tiny_model, photos, tmp_path, monkeypatch):
    data = {"source": "folder", "path": str(photos), "buckets": {}, "caption_per_line": False, "caption_dropout": 0.3}
    loop.train(recipe(tiny_model, tmp_path / "memory", data, lr=1e-6), quiet)
    monkeypatch.setattr(training_set, "MAX_BYTES_IN_MEMORY", 0)
    loop.train(recipe(tiny_model, tmp_path / "online", data, lr=1e-6), quiet)
    memory, online = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("memory", "online"))
    assert [row["total"] for row in online] == pytest.approx([row["total"] for row in memory], rel=1e-5)


def test_captions_are_drawn_evenly_and_dropped_as_often_as_told(tiny_model, photos):
    config = recipe(tiny_model, data={"source": "folder", "path": str(photos), "caption_dropout": 0.2})
    stage = stage_of(config)
    assert isinstance(stage.data, OnlineLatents)
    draws = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(torch.tensor([stage.data._choice(draw, 2) + 2 for draw in draws]), minlength=4)
    assert counts[1] == 0  # no plain caption
    assert counts[[0, 2, 3]].tolist() == pytest.approx([800, 1600, 1600], rel=0.1)


def test_micro_conditioning_reaches_a_network_that_takes_it(tiny_model, photos, monkeypatch):
    monkeypatch.setattr("e2ed2.models.families.pixart.PixArt.knows_crop", True)
    stage = stage_of(recipe(tiny_model, data={"source": "folder", "path": str(photos)}))
    wide = stage.data.batch(torch.tensor([0, 3]), torch.Generator())
    assert wide.x0.shape[-2:] == (12, 20)  # 48 x 80 pixels
    assert wide.cond.micro.tolist() == [[80, 128, 1, 0, 48, 80]] * 2  # it covers 48 x 80 as 50 x 80


@pytest.mark.slow
@pytest.mark.parametrize("class_name", [name for name in MAKERS if name != "DiTPipeline"])  # which has one size
def test_a_cache_holds_what_any_family_is_conditioned_on(class_name, photos, tmp_path):
    model, shapes = save_tiny(class_name, tmp_path / "model"), {"max_ratio": 2, "step": 8, "sizes": [2 * SIDE]}
    data = {"source": "folder", "path": str(photos), "size": SIDE, "buckets": shapes}
    config = recipe(model, data=data)
    path = precompute(config, tmp_path / "cache", quiet)
    cached = stage_of(recipe(model, data={**data, "source": "cache", "path": str(path)}))
    stage = stage_of(config)
    batches = [s.data.batch(torch.tensor([0, 3, 6]), torch.Generator().manual_seed(1)) for s in (stage, cached)]
    torch.testing.assert_close(batches[0].x0, batches[1].x0)
    conds, unconds = [batch.cond.tensors() for batch in batches], [s.data.uncond.tensors() for s in (stage, cached)]
    for ours, theirs in (conds, unconds):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"embeds"}:
            torch.testing.assert_close(ours[name], theirs[name])
        mask = ours.get("mask", torch.ones(ours["embeds"].shape[:2]))[..., None]
        torch.testing.assert_close(ours["embeds"] * mask, theirs["embeds"] * mask)
    if class_name == "StableDiffusionXLPipeline":  # of the sizes 32 and 64 it fills both, and covers 48 x 80 as 50 x 80
        assert conds[0]["micro"].tolist() == [[80, 128, 1, 0, 48, 80]] * 3
        stage.loss_terms(stage.network, stage.network, torch.tensor([0, 3, 6]), torch.Generator())["l2"].backward()
    else:
        assert "micro" not in conds[0]


def test_the_two_overrides_alone_move_a_recipe_to_a_folder(tmp_path, photos):
    values = {"stage": "e2ed2", "run": {"dir": "x"}, "model": {"path": "y"}, "objective": {"l2": {"weight": 1}}}
    sources = [{"source": "webdataset", "path": "s3://bucket"}, {"source": "hub", "path": "a/b", "streaming": True}]
    for data in ({"source": "emoji"}, {"sources": sources}, {**sources[1], "revision": "r", "split": "all"}):
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps({**values, "data": data}))
        load_config(path)
        config = load_config(path, [f"data.path={photos}", "data.source=folder"])
        data = config.data.model_copy(update={"max_bad_fraction": 0.5})
        assert len(load_training_set(data, quiet)) == 14


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "folder"}, "data.path: missing; data.source=folder needs"),
        ({"source": "cache"}, "data.path: missing; data.source=cache needs"),
        ({"sources": [{"source": "emoji"}]}, "data.sources.0.source: emoji cannot be mixed"),
        ({"sources": [{"source": "folder"}]}, "data.sources.0.path: missing"),
        (
            {"sources": [{"source": "folder", "path": "a"}, {"source": "webdataset", "path": "b"}]},
            "data.sources.1.streaming: True, unlike the first",
        ),
        ({"sources": [{"source": "folder", "path": "a", "wait": 1}]}, "data.sources.0.wait: unknown field"),
        ({"source": "folder", "path": "a", "streaming": True}, "data.streaming: folder is not read in order"),
        (
            {"source": "webdataset", "path": "a", "images_per_caption": 3, "plain_caption_fraction": 1},
            "data.images_per_caption: 3, but a stream",
        ),
        ({"buckets": {"max_ratio": 2, "step": 48}}, "data.buckets.step: 48 does not divide data.size=64"),
    ],
)
def test_configs_that_are_refused(data, message):
    from e2ed2.recipe.load import check_config

    with pytest.raises(UserError, match=message):
        check_config(recipe("x", data={"buckets": {}, **data}))


def test_a_cache_of_another_encoder_or_transform_is_refused(tiny_model, photos, tmp_path):
    data = {"source": "folder", "path": str(photos)}
    path = precompute(recipe(tiny_model, data=data), tmp_path / "cache", quiet)
    cached = {"source": "cache", "path": str(path)}
    with pytest.raises(UserError, match=r"data.buckets: None, but the cache .* was made with \{'max_ratio': 2.5"):
        stage_of(recipe(tiny_model, data={**cached, "buckets": {}}))
    with pytest.raises(UserError, match="holds no pictures, and this recipe's objective needs them"):
        stage_of(recipe(tiny_model, data=cached, objective={"lpips": {"weight": 1}}))
    stage = stage_of(recipe(tiny_model, data=cached))
    assert stage._pipeline.text_encoder is None, "never loaded"
    for part, field in (("vae", "autoencoder"), ("text_encoder", "text encoder")):
        other = tmp_path / part
        shutil.copytree(tiny_model, other)
        file = next((other / part).glob("*.safetensors"))
        save_file({name: x + 1 for name, x in load_file(file).items()}, file, {"format": "pt"})
        with pytest.raises(UserError, match=f"was made with another {field} than model.path's"):
            stage_of(recipe(other, data=cached))


def test_the_next_batch_is_decoded_meanwhile_and_none_twice(photos, tiny_model, monkeypatch, tmp_path):
    config = recipe(tiny_model, tmp_path / "run", data={"source": "folder", "path": str(photos)})
    data, decoded = load_training_set(config.data, quiet), []
    monkeypatch.setattr(source_set, "decode_item", lambda *args: decoded.append(args[0].key) or decode_item(*args))
    order, plain = training_set.create_order(data, config, 0, 1), ShuffledOrder(0, len(data), 3, data.buckets)
    for position in range(5):
        rows = order.rows(position)
        assert torch.equal(rows, plain.rows(position))
        data.pictures(plain.random_rows(torch.Generator().manual_seed(position)))  # the discriminator's
        expected = [data._sources[0][row].key for _, row in data._places[rows].tolist()]
        assert [picture.key for picture in data.pictures(rows)] == expected
    wait([future for _, decoding in data._ahead for future in decoding])
    assert len(decoded) == 3 * (5 + 1 + 5)  # five batches, one ahead, five others


def test_two_sources_are_drawn_by_weight(photos, tmp_path, tiny_model):
    other = tmp_path / "other"
    other.mkdir()
    for i in range(4):
        picture(100 + i, (64, 64)).save(other / f"{i}.png")
        (other / f"{i}.txt").write_text(f"other {i}")
    sources = [{"source": "folder", "path": str(photos)}, {"source": "folder", "path": str(other), "weight": 3}]
    config = recipe(tiny_model, tmp_path / "run", data={"sources": sources, "buckets": {}}, steps=2)
    data = load_training_set(config.data, quiet)
    order = training_set.create_order(data, config, 0, 1)
    rows = torch.cat([order.rows(position) for position in range(60)])
    assert (rows >= 14).float().mean().item() == pytest.approx(0.75, abs=0.05)
    assert data.pictures(torch.tensor([14]))[0].captions == ("other 0",)
    loop.train(config, quiet)


def test_shorter_embeddings_are_padded_and_masked():
    short, long = ({"embeds": torch.ones(1, n, 2), "mask": torch.ones(1, n)} for n in (1, 3))
    both = collate([short, long])
    assert both.mask.tolist() == [[1, 0, 0], [1, 1, 1]] and both.embeds[0].tolist() == [[1, 1], [0, 0], [0, 0]]
    unmasked = {"embeds": torch.ones(1, 3, 2), "pooled": torch.ones(1, 5)}
    assert collate([unmasked] * 2).pooled.shape == (2, 5)
    assert replace(PromptEmbeds(**unmasked)).mask is None


@pytest.mark.parametrize("in_memory", [True, False])
def test_captions_that_the_text_encoder_sees_only_the_beginning_of_are_counted(
    tiny_model, tmp_path, monkeypatch, in_memory
):
    for i, caption in enumerate(["short", "a word " * 40, "fine"]):
        picture(i, (64, 64)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(caption)
    if not in_memory:
        monkeypatch.setattr(training_set, "MAX_BYTES_IN_MEMORY", 0)
    config, said = recipe(tiny_model, data={"source": "folder", "path": str(tmp_path), "buckets": {}}), []
    create_stage(config, load_training_set(config.data, quiet), torch.device("cpu"), said.append)
    assert said[0].startswith("note: 1 of 3 captions are longer than the 32 tokens that")
    assert "'a word a word" in said[0]
    assert ("text encoders (0.0 GB) stay on the device" in said[1]) == (not in_memory)


def test_a_cache_says_which_captions_were_cut_when_it_was_made(tiny_model, tmp_path):
    for i, caption in enumerate(["short", "a word " * 40]):
        picture(i, (64, 64)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(caption)
    config, said = recipe(tiny_model, data={"source": "folder", "path": str(tmp_path), "buckets": {}}), []
    out = precompute(config, tmp_path / "out", said.append)
    (line,) = [line for line in said if line.startswith("note: 1 of 2 captions are longer than the 32 tokens that")]
    config, said = recipe(tiny_model, data={"source": "cache", "path": str(out), "buckets": {}}), []
    create_stage(config, load_training_set(config.data, quiet), torch.device("cpu"), said.append)
    assert said[0] == line


@pytest.mark.parametrize("kind", ["memory", "online", "cache"])
def test_sdxl_is_told_sizes_exactly_beside_embeddings_in_half_precision(kind, tmp_path, monkeypatch):
    """1,365 pixels are 1,368 in bf16."""
    start = save_tiny("StableDiffusionXLPipeline", tmp_path / "start")
    (tmp_path / "photos").mkdir()
    picture(0, (1365, 1024)).save(tmp_path / "photos" / "0.png")
    (tmp_path / "photos" / "0.txt").write_text("a dog")
    data = {"source": "folder", "path": str(tmp_path / "photos"), "size": SIDE, "buckets": {}}
    if kind != "memory":
        monkeypatch.setattr(training_set, "MAX_BYTES_IN_MEMORY", 0)
    if kind == "cache":
        config = recipe(start, data=data, mixed_precision="bf16")
        data |= {"source": "cache", "path": str(precompute(config, tmp_path / "cached", quiet))}
    stage = stage_of(recipe(start, data=data, mixed_precision="bf16"))
    cond = stage.data.batch(torch.tensor([0]), torch.Generator().manual_seed(0)).cond
    assert cond.embeds.dtype == torch.bfloat16 and cond.micro[0, :2].tolist() == [1024, 1365]


@pytest.mark.slow
def test_5000_images_some_of_them_broken_train_and_every_broken_one_is_named(tmp_path, tiny, online, tiny_stage):
    """Through the real loop and the real data; the network is the tiny stage's."""
    folder, broken = tmp_path / "photos", set(range(50, 5000, 100))
    folder.mkdir()
    whole = [tmp_path / f"{shade}.jpg" for shade in range(20)]
    for shade, path in enumerate(whole):
        Image.new("RGB", (24, 20), (10 * shade, 0, 255)).save(path)
    for i in range(5000):
        data = whole[i % 20].read_bytes()
        (folder / f"{i:04d}.jpg").write_bytes(data[: len(data) // 2] if i in broken else data)
        (folder / f"{i:04d}.txt").write_text(f"photo {i}")
    decoded = []

    class DecodingStage(tiny_stage):
        def __init__(self, config, data, device, say):
            super().__init__()
            self.data = data

        def loss_terms(self, network, ema, rows, generator):
            decoded.extend(picture.key for picture in self.data.pictures(rows))
            return super().loss_terms(network, ema, rows % 23, generator)

    config, lines, ticks = tiny(max_train_steps=30), [], []
    data = {"source": "folder", "path": str(folder), "size": 16}
    config = build_config(json.loads(config.model_dump_json()) | {"data": data})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "create_stage", DecodingStage)
        patch.setattr(loop, "load_training_set", load_training_set)
        loop.train(config, lines.append, watch=lambda what, done, total: ticks.append((done, total)))
    named = {int(line.split(".jpg")[0][-4:]) for line in lines if line.startswith("skipped")}
    assert named == broken and ticks[-1] == (5000, 5000)
    assert len(decoded) == 30 * 8 and not {int(key[:4]) for key in decoded} & broken
