"""A folder of finished images: what is refused before it is measured."""

import pytest
from PIL import Image

from e2ed2.provenance.label import full_label
from e2ed2.provenance.watermark import LEAST_SIDE
from e2ed2.sampling.finished_images import images_of_prompts
from e2ed2.sampling.folder import Manifest, ManifestRow, write_manifest
from e2ed2.system.errors import UserError


@pytest.mark.parametrize("side", [64, LEAST_SIDE])
def test_images_with_a_mark_in_their_pixels_are_not_measured(side, tmp_path, monkeypatch):
    monkeypatch.setenv("E2ED2_CONFIG", str(tmp_path / "config"))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (side, 300)).save(tmp_path / "images" / "a.png")
    rows = [ManifestRow(file="images/a.png", prompt="a cat")]

    def found(labels):
        write_manifest(tmp_path, Manifest(made_by="e2ed2 0", labels=labels, images=rows))
        return images_of_prompts("m", tmp_path / "images", ["a cat"])

    assert found(None) == found([]) == found(["metadata", "c2pa"]) == [tmp_path / "images" / "a.png"]
    if side < LEAST_SIDE:
        assert len(found(list(full_label().kinds))) == 1, "too small for one"
    else:
        with pytest.raises(UserError, match="m: a watermark is in its images.*; make them with --no-label$"):
            found(list(full_label().kinds))
