"""An emoji protocol on the one path of evaluations: the figures by hand, floors, folders, what is refused first."""

import math

import pytest
import torch
from PIL import Image

from e2ed2.emoji import metrics as emoji_metrics
from e2ed2.emoji.protocols import BUNDLED_METRICS
from e2ed2.evaluation import evaluate as module
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.evaluation.features.extractors import EXTRACTORS
from e2ed2.evaluation.metrics import distribution as dist
from e2ed2.evaluation.metrics import neighbourhoods as near
from e2ed2.evaluation.metrics import pixels
from e2ed2.evaluation.metrics.intervals import mean_estimate
from e2ed2.evaluation.protocols import read_protocol
from e2ed2.sampling.folder import read_images
from e2ed2.system.errors import UserError
from e2ed2.system.watch import silent


class Features:
    """The interface of `EfficientNetFeatures`: the image at 4 px, repeated to its width."""

    name, weights_sha256 = "stub", "0" * 64

    def __call__(self, images):
        small = torch.stack([torch.nn.functional.interpolate(x[None].float() / 255, 4, mode="area")[0] for x in images])
        return small.flatten(1).repeat(1, 27)[:, :1280]


@pytest.fixture(autouse=True)
def small_cache(monkeypatch, tmp_path, tiny_emoji):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setitem(EXTRACTORS, "efficientnet", lambda networks, device: Features())
    monkeypatch.setattr(emoji_metrics, "alignment", lambda x, prompts: mean_estimate(x[:, 0], prompts))


def test_the_figures_are_those_of_the_functions_on_the_kept_images(stub, tiny_model, tiny_emoji, tmp_path):
    found = evaluate(str(tiny_model), steps=1, num_images=16, out=tmp_path / "out")
    rows = read_images(tmp_path / "out")
    images, prompts = torch.stack([image for _, image in rows]), [row.prompt for row, _ in rows]
    drawn = {prompt.partition(",")[0] for prompt in prompts}
    others = [i for i, name in enumerate(tiny_emoji.names) if name not in drawn]
    real, groups = tiny_emoji.images[others], [tiny_emoji.names[i] for i in others]
    x, y = Features()(images), Features()(real)
    expected = {
        "kernel_distance": dist.kernel_distance(x, y, prompts, groups),
        "frechet_distance": dist.frechet_distance(x, y, prompts, groups),
        "alignment": mean_estimate(x[:, 0], prompts),
        "precision": near.precision(x, y, prompts, groups),
        "recall": near.recall(x, y, prompts, groups),
        "coverage": near.coverage(x, y, prompts, groups),
        "spread": pixels.spread([images], 2),
        "sharpness": pixels.sharpness([images], [real], prompts, groups),
    }
    assert list(found["metrics"]) == list(expected) == BUNDLED_METRICS
    for name, estimate in expected.items():
        assert found["metrics"][name] == pytest.approx(estimate.to_json(), rel=1e-6), name
    assert found["reference"] == f"emoji train, {len(others)} images, prompts' emoji left out"
    assert found["protocol_facts"] == {
        "protocol": "emoji", "num_prompts": 8, "reference": found["reference"], "features_sha256": "0" * 64,
    }  # fmt: skip


def test_the_result_says_how_it_was_sampled(stub, tiny_model, tmp_path):
    found = evaluate(str(tiny_model), steps=1, num_images=16, batch_size=5, out=tmp_path / "out")["environment"]
    assert (found["dtype"], found["batch_size"], found["num_processes"]) == ("float32", 5, 1)
    assert found["torch"] == torch.__version__ and {"e2ed2", "diffusers", "transformers"} <= set(found)


def test_missing_features_are_refused_before_an_image_is_made(tiny_model, monkeypatch, tmp_path):
    def missing(networks, device):
        raise UserError("image features need the package x")

    monkeypatch.setitem(EXTRACTORS, "efficientnet", missing)
    monkeypatch.setattr(module, "make_files", lambda *args, **options: pytest.fail("sampled"))
    with pytest.raises(UserError, match="image features need the package x"):
        evaluate(str(tiny_model), steps=1, num_images=16, out=tmp_path / "out")


def test_the_features_of_the_reference_are_kept_whatever_part_is_asked(stub, tiny_model, tmp_path, monkeypatch):
    seen, plain = [], Features.__call__
    monkeypatch.setattr(Features, "__call__", lambda self, images: seen.append(len(images)) or plain(self, images))
    evaluate(str(tiny_model), steps=1, num_images=16, out=tmp_path / "a")
    assert sum(seen) == 48 + 16
    evaluate(str(tiny_model), steps=1, num_images=20, out=tmp_path / "b")
    assert sum(seen) == 48 + 16 + 20


def test_images_that_something_else_made_are_measured_too(stub, tiny_model, tmp_path):
    ours = evaluate(str(tiny_model), steps=1, num_images=16, out=tmp_path / "out")
    theirs = evaluate(str(tmp_path / "out"), num_images=16, out=tmp_path / "again")
    assert theirs["metrics"] == ours["metrics"] and theirs["protocol_sha256"] == ours["protocol_sha256"]
    for file in (tmp_path / "out" / "images").iterdir():
        Image.open(file).resize((32, 32)).save(file)
    with pytest.raises(UserError, match="sharpness needs images of one size, some are 32x32 and 64x64"):
        evaluate(str(tmp_path / "out"), num_images=16, out=tmp_path / "small")


def test_styles_are_shared_out_where_prompts_name_none(stub, tiny_model, tmp_path):
    found = evaluate(str(tiny_model), "emoji-anystyle", steps=1, num_images=16, out=tmp_path / "out")["metrics"]
    shares = [found[f"style_share/{style}"]["value"] for style in ("openmoji", "twemoji")]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 17}, "--num-images 17: protocol emoji makes 2 images per prompt for up to 48 prompts"),
        ({"num_images": 8}, "a multiple of 2 from 10 to 96"),
        ({"data": "x"}, "--data x: protocol emoji brings its own data; leave it out"),
        ({"seed": -1}, "--seed -1: must be 0 to"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        evaluate("emoji-lcm", **options)


def test_a_floor_has_no_sampler_and_its_images_stay(stub, tmp_path):
    with pytest.raises(UserError, match="--steps 4: 'real' has no sampler"):
        evaluate("real", steps=4, num_images=24, out=tmp_path / "out")
    with pytest.raises(UserError, match="--keep nothing: the images of real are not ours to move"):
        evaluate("real", keep="nothing", num_images=24, out=tmp_path / "out")


def test_a_copy_of_the_reference_has_a_kernel_distance_about_zero(stub, tmp_path):
    found = evaluate("real", "emoji-heldout", num_images=96, out=tmp_path / "out")
    assert found["num_images"] == 24 and found["reference"] == "emoji heldout, 24 images of the other half of the emoji"
    assert not math.isnan(found["metrics"]["kernel_distance"]["value"]) and "spread" not in found["metrics"]


def test_style_is_that_of_the_nearest_reference_direction():
    real = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    styles = ["flat", "line", "flat"]
    samples = torch.tensor([[9.0, 1.0], [1.0, 2.0], [-3.0, -1.0], [2.0, 1.0]])
    assert emoji_metrics.nearest_styles(samples, real, styles) == ["flat", "line", "flat", "flat"]
    shares = emoji_metrics.style_shares(samples, real, styles, ["a", "a", "b", "b"])
    assert {name: share.value for name, share in shares.items()} == {"flat": 0.75, "line": 0.25}
    assert shares["flat"].low < 0.75 < shares["flat"].high


def test_a_protocol_of_ones_own_may_choose_among_all_metrics(stub, tiny_model, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "emoji: {split: train, captions: styled}\nnum_images: 20\nsamples_per_prompt: 2\nmetrics: [density, spread]\n"
    )
    asked = read_protocol(str(tmp_path / "mine.yaml")).load("mine", None, None, silent)
    assert asked.metrics == ["density", "spread"] and len(asked.prompts) == 20
    found = evaluate(str(tiny_model), str(tmp_path / "mine.yaml"), steps=1, out=tmp_path / "out")
    assert list(found["metrics"]) == ["density", "spread"] and found["protocol"] == "mine"
    half = tmp_path / "other" / "mine.yaml"
    half.parent.mkdir()
    half.write_text((tmp_path / "mine.yaml").read_text() + "images: {size: 32}\n")
    smaller = evaluate(str(tiny_model), str(half), steps=1, out=tmp_path / "half")
    assert smaller["protocol"] == "mine" and smaller["protocol_sha256"] != found["protocol_sha256"]
