"""The demo on tiny models: rows, folders, what a second run does again and what it does not."""

import json
import signal
from pathlib import Path

import pytest

from e2ed2.demo.run import ROWS, run_demo

QUICK = ["train.max_train_steps=4", "train.micro_batch_size=8", "train.preview_every=2", "train.checkpoint_every=2"]


@pytest.mark.slow
def test_the_demo_measures_trains_measures_and_reports(tmp_path, tiny_bundle, num_sampled):
    out = tmp_path / "demo run"
    ticks: list[int] = []
    rows = run_demo(out, QUICK, num_images=16, tick=lambda step, steps, row: ticks.append(step), say=lambda line: None)
    assert [(r["model"], r["nfe"], r["measured"]) for r in rows] == [
        ("teacher", 50, "shipped"), ("lcm", 4, "here"), ("demo", 4, "here"), ("e2ed2", 4, "shipped"),
    ]  # fmt: skip
    assert json.loads((out / "metrics.json").read_text()) == rows
    assert all(r["command"] and r["metrics"]["kernel_distance"] for r in rows)
    assert rows[1]["metrics"] != rows[2]["metrics"], "training changed the samples"
    assert rows[1]["seed"] == rows[2]["seed"]
    before, after = (json.loads((out / "evaluation" / w / "manifest.json").read_text()) for w in ("before", "after"))
    assert [(i["prompt"], i["seed"]) for i in before["images"]] == [(i["prompt"], i["seed"]) for i in after["images"]]
    assert ticks == [1, 2, 3, 4] and sum(num_sampled) == 32
    assert (out / "model" / "model_index.json").is_file()
    page = (out / "report.html").read_text()
    assert "before and after" in page and "real images" in page

    again = run_demo(out, QUICK, num_images=16, say=lambda line: None)
    assert sum(num_sampled) == 32, "a finished demo samples nothing again"
    assert again == rows


@pytest.mark.slow
def test_ctrl_c_while_training_is_taken_up_again(tmp_path, tiny_bundle, num_sampled):
    def press(step: int, steps: int, row: dict[str, float]) -> None:
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="step 3"):
        run_demo(tmp_path / "cut", QUICK, num_images=16, tick=press, say=lambda line: None)
    assert sum(num_sampled) == 16
    ticks: list[int] = []
    note = lambda step, steps, row: ticks.append(step)  # noqa: E731
    rows = run_demo(tmp_path / "cut", QUICK, num_images=16, tick=note, say=lambda line: None)
    assert ticks == [4] and sum(num_sampled) == 32
    whole = run_demo(tmp_path / "whole", QUICK, num_images=16, say=lambda line: None)
    assert [row["metrics"] for row in rows] == [row["metrics"] for row in whole]


@pytest.mark.slow
def test_full_measures_every_row_here(tmp_path, tiny_bundle):
    rows = run_demo(tmp_path / "full", QUICK, num_images=16, full=True, say=lambda line: None)
    assert [(row["model"], row["nfe"]) for row in rows] == ROWS
    assert {row["measured"] for row in rows} == {"here"}


def test_the_recipe_is_found_and_is_what_the_demo_promises():
    from e2ed2.recipe.load import load_config

    config = load_config(Path("demo"))
    assert (config.stage, config.model.path, config.trajectory.num_inference_steps) == ("e2ed2", "emoji-lcm", 4)
    assert config.objective.l2.weight > 0 and config.objective.lpips.weight > 0
