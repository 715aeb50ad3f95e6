"""Class-conditional models under `imagenet256`: its figures against guided-diffusion's definitions, and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from e2ed2.data.image_set import FileImages
from e2ed2.data.sources.folder import list_images
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.evaluation.features import extractors
from e2ed2.evaluation.features.extractors import InceptionFeatures
from e2ed2.evaluation.features.inception import Inception
from e2ed2.evaluation.metrics.distribution import frechet_distance, frechet_to_gaussian, inception_score
from e2ed2.evaluation.protocols import read_protocol
from e2ed2.sampling.folder import read_manifest
from e2ed2.system.errors import UserError
from tests.evaluation.tiny import StubInception
from tests.models.tiny import SIDE, save_tiny

NUM_CLASSES, EACH = 6, 4


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_distance_to_statistics_is_that_to_the_set_that_they_are_of():
    x, y = drawn(0, 60, 5), 1.3 * drawn(1, 200, 5) + 0.2
    known = frechet_to_gaussian(x, y.mean(0), torch.cov(y.double().T))
    both = frechet_distance(x, y)
    assert known.value == pytest.approx(both.value, rel=1e-6)
    assert known.low < known.value < known.high and known.high - known.low < both.high - both.low
    with pytest.raises(UserError, match="reference statistics are of 4 features, the samples' are 5"):
        frechet_to_gaussian(x, torch.zeros(4), torch.eye(4))


def test_the_inception_score_by_hand():
    """Sure of every image and of C classes alike: C. Unsure of all: 1. Over splits of 5,000, their mean."""
    sure = torch.eye(8).repeat_interleave(500, 0)  # class by class
    assert inception_score(sure).value == pytest.approx(8, rel=1e-3)
    assert inception_score(torch.full((100, 8), 1 / 8)).value == pytest.approx(1)
    p = drawn(0, 12_000, 8).mul(3).softmax(1)
    shuffled = p[torch.randperm(len(p), generator=torch.Generator().manual_seed(0))].double().numpy()
    scores = []  # as guided-diffusion's evaluator computes it
    for i in range(0, len(shuffled), 5000):
        part = shuffled[i : i + 5000]
        kl = part * (np.log(part) - np.log(np.expand_dims(np.mean(part, 0), 0)))
        scores.append(np.exp(np.mean(np.sum(kl, 1))))
    found = inception_score(p)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-9)
    assert found.low < found.value < found.high


def test_spatial_features_are_the_first_seven_maps_of_a_middle_layer(monkeypatch):
    """TensorFlow's `mixed_6/conv`, row by row, column by column, channel by channel."""
    torch.manual_seed(0)
    network = Inception().eval().requires_grad_(False)
    monkeypatch.setattr(extractors, "load_inception", lambda weights: network)
    seen = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, out: seen.append(out))
    image = torch.randint(256, (3, 40, 40), dtype=torch.uint8)
    features = InceptionFeatures("", clean=False, spatial=True)([image])
    maps = seen[0]
    assert maps.shape == (1, 192, 17, 17) and features.shape == (1, 17 * 17 * 7)
    assert features[0, (3 * 17 + 5) * 7 + 2] == maps[0, 2, 3, 5]
    pooled = InceptionFeatures("", clean=False)
    assert pooled([image]).shape == (1, 2048)
    weights = network.fc.weight
    with torch.inference_mode():
        expected = torch.softmax(pooled([image]) @ weights.T, 1)
        torch.testing.assert_close(pooled.probabilities(pooled([image])), expected)


@pytest.fixture
def batch(tmp_path, stub_inception) -> Path:
    """A protocol of six classes over a reference batch of 32 px, whose statistics are of other images too."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (40, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator).numpy()
    means = {"mu": drawn(1, 12).numpy(), "mu_s": drawn(2, 12).numpy()}
    spread = {name: (a @ a.T / 12).numpy() for name, a in (("sigma", drawn(4, 12, 12)), ("sigma_s", drawn(5, 12, 12)))}
    np.savez(tmp_path / "batch.npz", arr_0=images, **means, **spread)
    values = yaml.safe_load(Path("e2ed2/evaluation/assets/imagenet256.yaml").read_text())
    values |= {
        "classes": {"num": NUM_CLASSES, "samples_per_class": EACH}, "images": {"size": SIDE},
        "reference": {"path": "batch.npz", "source": "https://example.org/batch.npz"},
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_plain_dit_is_measured_class_by_class(batch, tmp_path):
    model, out = save_tiny("DiTPipeline", tmp_path / "dit"), tmp_path / "out"
    result = evaluate(str(model), str(batch), steps=2, out=out, batch_size=8)
    assert result["nfe"] == 4 and result["num_images"] == NUM_CLASSES * EACH
    asked = [row.prompt for row in read_manifest(out).images]
    assert asked == [str(i) for i in range(NUM_CLASSES) for _ in range(EACH)]
    images = FileImages(list_images(out / "images", "samples"), "samples", SIDE)
    x = StubInception()([images.read(i) for i in range(len(images))])
    known = np.load(tmp_path / "batch.npz")
    for metric, (mean, covariance) in {"fid_legacy": ("mu", "sigma"), "sfid": ("mu_s", "sigma_s")}.items():
        mu, sigma = known[mean], known[covariance]
        product = torch.from_numpy(np.cov(x.double().numpy(), rowvar=False) @ sigma)
        root = torch.linalg.eigvals(product).sqrt().real.sum().item()
        own = x.double().numpy()
        expected = ((own.mean(0) - mu) ** 2).sum() + np.trace(np.cov(own, rowvar=False)) + np.trace(sigma) - 2 * root
        assert result["metrics"][metric]["value"] == pytest.approx(expected, rel=1e-4)
    y = StubInception()([torch.from_numpy(image).permute(2, 0, 1) for image in known["arr_0"]])
    for name, (a, b) in {"precision": (x, y), "recall": (y, x)}.items():  # k = 3 nearest others, as ADM's
        radii = torch.cdist(b.double(), b.double()).kthvalue(4, 1).values
        held = (torch.cdist(a.double(), b.double()) <= radii).any(1).double().mean().item()
        assert result["metrics"][name]["value"] == pytest.approx(held)
    p = x.softmax(1)
    assert result["metrics"]["inception_score"]["value"] == pytest.approx(inception_score(p).value)
    assert any("fid_legacy: biased at 24 images" in note for note in result["notes"])


def test_a_class_has_its_number_where_its_name_is_not_its_own(tmp_path):
    """Ours and the plain pipeline draw the same class by name and by number."""
    from e2ed2.models.families import family_of
    from e2ed2.models.folders.pipeline import load_pipeline

    pipeline, _ = load_pipeline(save_tiny("DiTPipeline", tmp_path / "dit"))
    family = family_of(pipeline)
    assert family.call_prompts(pipeline, ["a dog", "7", "", "999"]) == {"class_labels": [7, 7, 1000, 999]}
    assert family.encode(pipeline, ["a dog", "7"], 1).embeds.flatten().tolist() == [7, 7]
    for wrong in ("1000", "-1", "a house"):
        with pytest.raises(UserError, match=r"no class of this DiTPipeline; give one of its .* or its number"):
            family.encode(pipeline, [wrong], 1)


def test_what_lacks_or_does_not_fit_is_one_line(batch, tmp_path, tiny_model, monkeypatch):
    def refused(message, **options):
        with pytest.raises(UserError, match=message) as told:
            read_protocol(str(batch)).load(str(batch), options.get("num_images"), None, lambda *args: None)
        assert "\n" not in str(told.value)

    with pytest.raises(UserError, match="asks for classes by their numbers; .* draws from captions"):
        evaluate(str(tiny_model), str(batch), out=tmp_path / "out")
    refused("--num-images 20: give a multiple of 6, as many of each class", num_images=20)
    path = tmp_path / "batch.npz"
    whole = dict(np.load(path))
    np.savez(path, **{name: x for name, x in whole.items() if name != "mu_s"})
    refused("mu_s cannot be read .* fetch the file again")
    np.savez(path, **(whole | {"sigma": whole["sigma"][:3]}))
    refused(r"mu, sigma are \[12\] and \[3, 12\], must be \[D\] and \[D, D\]; fetch https://example.org/batch.npz")
    np.savez(path, **(whole | {"arr_0": whole["arr_0"][:, :16]}))
    refused(r"arr_0 is \[40, 16, 32, 3\], must be images \[N, 32, 32, 3\]")
    np.savez(path, **(whole | {"arr_0": whole["arr_0"].astype(np.float32)}))
    refused("arr_0 is of float32, must be uint8")
    path.write_bytes(path.read_bytes()[:3000])
    refused("no reference batch")
    path.unlink()
    refused("reference .*batch.npz: no such file; fetch https://example.org/batch.npz")
    with pytest.raises(UserError, match="--data: protocol imagenet256 needs VIRTUAL_imagenet256_labeled.npz; give the"):
        read_protocol("imagenet256").load("imagenet256", None, None, lambda *args: None)
