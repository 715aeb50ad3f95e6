"""What a run folder is taken to say, by known answers; mangled ones are in test_mangled.py."""

import json

import pytest
import yaml

from e2ed2.system.errors import UserError
from e2ed2.training.bundle import card
from e2ed2.training.run_folder import exported_step, find_start, recorded_config
from tests.training.conftest import tiny_config


@pytest.mark.parametrize(
    "broken",
    [
        b"", b"\xff", b"[1]", b"train: 3", b"train: {}", b"train: {mixed_precision: [bf16]}", b"1: 2",
        b"train: {mixed_precision: fp8}", b"train: &a {mixed_precision: no, self: *a}", b"train: !!bool banana",
    ],
)  # fmt: skip
def test_a_broken_record_is_as_good_as_none(tmp_path, broken):
    (tmp_path / "config.yaml").write_bytes(broken)
    assert recorded_config(tmp_path) == {}


def test_a_record_of_another_version_is_taken_as_it_is(tmp_path):
    assert recorded_config(tmp_path) == {}
    record = yaml.safe_load(tiny_config(tmp_path, mixed_precision="bf16").to_yaml())
    record["train"]["momentum"] = 0.9
    del record["train"]["max_grad_norm"], record["evaluation"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(record))
    assert recorded_config(tmp_path) == record


def test_what_was_recorded_is_quoted_on_one_short_line(tmp_path):
    config = tiny_config(tmp_path)
    record = yaml.safe_load(config.to_yaml())
    record["data"]["path"] = "a\nb" * 1000
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(record))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "training.json").write_text('{"global_step": 12}')
    with pytest.raises(UserError, match=r"^data\.path: None, but .* was begun with a ba ba b.*; resuming") as caught:
        find_start(config, 1, pytest.fail)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "step"),
    [('{"stage": "lcm", "global_step": 12, "images_seen": 96}', 12), ('{"global_step": "12"}', None), ("12", None)]
    + [('{"global_step": true}', None), ('{"global_step": -1}', None), ("{", None), ("[" * 5000, None)],
)
def test_the_step_of_a_model(tmp_path, content, step):
    assert exported_step(tmp_path) is None
    (tmp_path / "training.json").write_text(content)
    assert exported_step(tmp_path) == step


def test_a_bundled_model_s_card_says_what_the_run_folder_does(tmp_path):
    config = tiny_config(tmp_path, seed=3)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    row = {"images_per_second": 2.0, "peak_memory_bytes": 1, "denoising": 0.5, "total": 0.5}
    rows = [{"global_step": step, "images_seen": 3600 * step, **row} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"environment .*environment\.json: No such file .* a finished run$"):
        card(tmp_path, "emoji-base", "a CPU")
    (tmp_path / "environment.json").write_text('{"torch": "2.13.0", "diffusers": "0.42.1"}')
    lines = card(tmp_path, "emoji-base", "a CPU").splitlines()
    assert "| made by | `e2ed2 train recipes/emoji/base.yaml` |" in lines and "| seed | 3 |" in lines
    assert "| updates | 3 (10,800 captions) |" in lines and "| hardware | a CPU, about 1.00 hours |" in lines
    assert "| losses, mean of the last tenth | denoising 0.5000 |" in lines
    (tmp_path / "metrics.jsonl").write_text("torn")
    with pytest.raises(UserError, match=r"metrics\.jsonl: no rows; name the folder of a finished run"):
        card(tmp_path, "emoji-base", "a CPU")
