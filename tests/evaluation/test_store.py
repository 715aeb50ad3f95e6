"""Image folders: the size they are measured at, what is refused, and features that are measured once."""

import numpy as np
import pytest
import torch
from PIL import Image

from e2ed2.data import image_set
from e2ed2.data.image_set import FileImages, TensorImages
from e2ed2.data.sources.folder import list_images
from e2ed2.evaluation.features import store
from e2ed2.evaluation.features.store import store_segments, stored_features
from e2ed2.system.errors import UserError
from e2ed2.system.processes import Share
from tests.evaluation.tiny import StubInception, draw_images


def silent(done, total):
    pass


def test_the_central_square_is_resized(tmp_path):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 10:50] = np.linspace(0, 255, 40, dtype=np.uint8)[None, :, None]
    pixels[:, :10] = pixels[:, 50:] = 77  # cut off
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = FileImages([tmp_path / "wide.png"], "reference", 20).read(0)
    expected = Image.fromarray(pixels[:, 10:50]).resize((20, 20), Image.Resampling.LANCZOS)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(expected))
    assert FileImages([tmp_path / "wide.png"], "reference").read(0).shape == (3, 40, 60)


def test_small_images_are_enlarged_only_when_the_protocol_says_so(tmp_path):
    paths = list_images(draw_images(tmp_path, 1, side=16), "reference")
    with pytest.raises(UserError, match="0000.png: 16x16 pixels, but the protocol measures at 20"):
        FileImages(paths, "reference", 20).read(0)
    assert FileImages(paths, "reference", 20, may_enlarge=True).read(0).shape == (3, 20, 20)


def test_what_a_folder_must_not_hold(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        list_images(tmp_path / "none", "reference")
    with pytest.raises(UserError, match="holds no images"):
        list_images(tmp_path, "reference")
    draw_images(tmp_path, 2)
    (tmp_path / "captions.txt").write_text("x")
    assert [p.name for p in list_images(tmp_path, "reference")] == ["0000.png", "0001.png"]
    (tmp_path / "film.mp4").write_text("x")
    with pytest.raises(UserError, match="film.mp4 is no image; remove it"):
        list_images(tmp_path, "reference")
    (tmp_path / "0001.png").write_bytes(b"half a fi")
    with pytest.raises(UserError, match="reference image .*0001.png: cannot be decoded"):
        FileImages([tmp_path / "0001.png"], "reference").read(0)


def test_features_are_measured_once_and_whatever_the_chunks(tmp_path, monkeypatch):
    images = FileImages(list_images(draw_images(tmp_path / "real", 10), "reference"), "reference", 16)
    calls = []
    first = stored_features(images, images.sha256(), StubInception(), tmp_path, lambda done, total: calls.append(done))
    assert calls == [10] and first.shape == (10, 12)
    monkeypatch.setattr(image_set, "CHUNK", 3)
    again = stored_features(images, images.sha256(), StubInception(), tmp_path, lambda done, total: calls.append(done))
    assert torch.equal(first, again) and calls == [10]
    chunked = stored_features(images, "other", StubInception(), tmp_path, silent)
    assert torch.allclose(first, chunked, atol=1e-6)
    (tmp_path / "real" / "0003.png").write_bytes((tmp_path / "real" / "0004.png").read_bytes())
    changed = stored_features(images, images.sha256(), StubInception(), tmp_path, silent)
    assert torch.equal(changed[3], changed[4]), "other contents, other entry"


def test_processes_share_features_and_a_kill_loses_only_a_segment(tmp_path, monkeypatch):
    class Counting(StubInception):
        def __init__(self, stop_at):
            super().__init__()
            self.seen, self.stop_at = 0, stop_at

        def __call__(self, images):
            if self.seen >= self.stop_at:
                raise KeyboardInterrupt
            self.seen += len(images)
            return super().__call__(images)

    monkeypatch.setattr(image_set, "CHUNK", 2)
    images = FileImages(list_images(draw_images(tmp_path / "real", 22), "reference"), "reference", 16)
    expected = stored_features(images, "x", StubInception(), tmp_path / "alone", silent)
    monkeypatch.setattr(store, "SEGMENT", 4)  # six: the first process has 0, 2 and 4, the second 1, 3 and 5
    first, killed, last = Counting(99), Counting(6), Counting(99)
    store_segments(images, "x", first, tmp_path, silent, Share(0, 2))
    assert first.seen == 12
    with pytest.raises(KeyboardInterrupt):
        store_segments(images, "x", killed, tmp_path, silent, Share(1, 2))
    found = stored_features(images, "x", last, tmp_path, silent)
    assert last.seen == 6, "segment 3, whose second chunk was never reached, and segment 5"
    assert torch.equal(found, expected)
    assert [p.suffix for p in tmp_path.glob("features-*")] == [".npy"], "segments go once they are joined"


def test_two_evaluations_may_measure_the_same_images_at_once(tmp_path, monkeypatch):
    """The other one joins the segments, and removes them, while this one measures its last."""
    monkeypatch.setattr(image_set, "CHUNK", 2)
    monkeypatch.setattr(store, "SEGMENT", 4)
    images = FileImages(list_images(draw_images(tmp_path / "real", 10), "reference"), "reference", 16)

    class Overtaken(StubInception):
        calls = 0

        def __call__(self, images_of_chunk):
            self.calls += 1
            if self.calls == 5:
                stored_features(images, "x", StubInception(), tmp_path, silent)
            return super().__call__(images_of_chunk)

    found = stored_features(images, "x", Overtaken(), tmp_path, silent)
    assert torch.equal(found, stored_features(images, "y", StubInception(), tmp_path, silent))
    assert sorted(p.suffix for p in tmp_path.glob("features-*")) == [".npy", ".npy"], "no segment is left behind"


def test_features_that_are_not_finite_name_the_image(tmp_path):
    class Broken(StubInception):
        def __call__(self, images):
            return super().__call__(images) * torch.tensor([1.0] * (len(images) - 1) + [torch.nan])[:, None]

    images = FileImages(list_images(draw_images(tmp_path, 4), "samples"), "samples")
    with pytest.raises(UserError, match="samples image .*0003.png: features of stub inception are not finite"):
        stored_features(images, "x", Broken(), tmp_path, silent)
    assert not list(tmp_path.glob("*.npy"))


def test_features_of_images_in_memory_and_damaged_ones_measured_anew(tmp_path):
    pixels = torch.randint(256, (10, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images, calls = TensorImages(pixels, "reference"), []
    note = lambda done, total: calls.append(done)  # noqa: E731
    first = stored_features(images, images.sha256(), StubInception(), tmp_path, note).clone()
    assert torch.equal(first, StubInception()([*pixels])) and calls == [10]
    [file] = tmp_path.glob("*.npy")
    whole = file.read_bytes()
    for damaged in (whole[:50], whole[:-4], b"", whole.replace(b"<f4", b"<f8")):
        file.write_bytes(damaged)
        again = stored_features(images, images.sha256(), StubInception(), tmp_path, note)
        assert torch.equal(first, again) and file.read_bytes() == whole
    assert calls == [10] * 5
    assert TensorImages(255 - pixels, "reference").sha256() != images.sha256()
