"""The card: an exact call, no path of this machine, the licence of the start."""

import re

import pytest

from e2ed2.models.families import FAMILIES
from e2ed2.models.folders.card import add_measured, licence_of, model_card
from e2ed2.models.folders.inference import Inference
from e2ed2.training.about import about_run
from tests.models.tiny import save_tiny


def test_the_call_is_the_family_s_own():
    sdxl = model_card(Inference("lcm", 4, 1.0, 1024, 768), FAMILIES["StableDiffusionXLPipeline"], "any", {})
    assert re.search(r"num_inference_steps=4,\n    guidance_scale=1.0,\n    height=1024,\n    width=768,\n\)", sdxl)
    sd3 = model_card(Inference("euler", 2, 1.0, 512, 512), FAMILIES["StableDiffusion3Pipeline"], "any", {})
    assert "sigmas=[1.0, 0.5]" in sd3 and "max_sequence_length=" in sd3 and "num_inference_steps" not in sd3


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("---\nlicense: openrail++\ntags:\n- any\n---\n# A model", {"license": "openrail++"}),
        (
            "---\nlicense: other\nlicense_name: community\nlicense_link: LICENSE.md\n---\n",
            {"license": "other", "license_name": "community", "license_link": "LICENSE.md"},
        ),
        ("# license: none\n", {}),
        (None, {}),
    ],
)
def test_the_licence_is_read_from_the_start_s_card(tmp_path, head, licence):
    if head is not None:
        (tmp_path / "README.md").write_text(head)
    assert licence_of(tmp_path) == licence


def test_nothing_in_a_card_stops_a_run(tmp_path):
    """Another encoding, a licence that cannot be printed, a folder of its name."""
    card = tmp_path / "README.md"
    card.write_bytes(b"\xef\xbb\xbf---\r\nlicense: mit\r\nlicense_name: caf\xe9\r\n---\r\n\xff\xfe\0")
    assert licence_of(tmp_path) == {"license": "mit", "license_name": "caf\ufffd"}
    add_measured(tmp_path, "| FID | 10 |\n")
    assert card.read_text().endswith("\n\n## Measured\n\n| FID | 10 |\n")
    card.write_text("---\nlicense: a\x85b\n---\n")
    assert licence_of(tmp_path) == {}
    card.unlink()
    card.mkdir()
    assert licence_of(tmp_path) == {}


def test_a_run_is_described_without_paths(recipe, tmp_path):
    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    (start / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    about = about_run(recipe(tmp_path / "run", start))
    assert about["license"] == "apache-2.0" and about["objective"] == "1 l2" and "base_model" not in about
    card = model_card(Inference("lcm", 2, 1.0, 32, 32), FAMILIES["StableDiffusionPipeline"], "any", about)
    assert card.startswith("---\nlibrary_name: diffusers\npipeline_tag: text-to-image\nlicense: apache-2.0\n---\n")
    assert str(tmp_path) not in card and "| trajectory | 2 steps, start pure_noise, shared |" in card


def test_what_was_measured_is_said_once(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# A model\n")
    add_measured(tmp_path, "| FID | 10 |\n")
    add_measured(tmp_path, "| FID | 9 |\n")
    assert (tmp_path / "README.md").read_text() == (
        "---\nlicense: mit\n---\n\n# A model\n\n## Measured\n\n| FID | 9 |\n"
    )
