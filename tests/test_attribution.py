"""What earns the gain: every setting gets the same evaluations, and the table says what the runs do."""

import json
import math
from pathlib import Path

import pytest

import benchmarks.attribution.__main__ as attribution
from benchmarks.attribution.measure import called
from benchmarks.attribution.page import _headline, _tables, collected, over_runs
from benchmarks.attribution.settings import SETTINGS
from benchmarks.cost import evaluations_per_update


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # K is drawn as 12 : 6 : 4 : 3; a random start leaves (K + 1) / 2 steps
        ("recommended", 32 * 3 * 36.5 / 25),
        ("recommended_last", 32 * (36.5 / 25 + 2)),
        ("recommended_two", 32 * (12 * 3 + 6 * 4.5 + 4 * (3 + 6 + 7) / 3 + 3 * (3 + 6 + 7 + 8) / 4) / 25),
        ("noise4", 32 * 12),
        ("noise4_last", 32 * 6),
        ("base_longer", 32 * 3),
    ],
)
def test_evaluations_of_an_update(name, expected, tmp_path):
    config = attribution._config(SETTINGS[name], 5, tmp_path, 7)
    assert evaluations_per_update(config) == pytest.approx(expected)
    assert (config.train.seed, config.train.max_train_steps) == (5, 7)


def test_terms_of_a_setting_are_its_own(tmp_path):
    loss = attribution._config(SETTINGS["l2"], 0, tmp_path, 1).objective
    assert (loss.l2.weight, loss.lpips.weight, loss.mmd.weight, loss.patch_energy.weight) == (1, 0, 0, 0)
    assert attribution._config(SETTINGS["recommended"], 0, tmp_path, 1).objective.patch_energy.weight == 1


def test_a_mean_of_runs_adds_what_seeds_share_in_squares():
    """Student's t of 2 degrees is 4.303; values 1, 2, 3 have standard deviation 1."""
    runs = [{"value": value, "low": value - 0.5, "high": value + 0.5} for value in (1.0, 2.0, 3.0)]
    found = over_runs(runs)
    assert found["value"] == 2 and found["high"] - 2 == pytest.approx(math.hypot(0.5, 4.3027 / math.sqrt(3)), rel=1e-4)
    alone = over_runs(runs[:1])
    assert alone == {"value": 1.0, "low": 0.5, "high": 1.5}


def test_rows_are_means_over_seeds(tmp_path):
    figure = {"value": 0.1, "low": 0.09, "high": 0.11}
    for seed, updates in ((0, 100.0), (1, 300.0)):
        row = {"nfe": 4, "captions": "unseen", "network": "ResNet-50", "num_images": 8, "kernel_distance": figure}
        run = {"setting": "l2", "seed": seed, "length": "eighth", "network_evaluations": 10, "wall_seconds": updates}
        (tmp_path / "eighth").mkdir(exist_ok=True)
        (tmp_path / "eighth" / f"l2-seed-{seed}.json").write_text(json.dumps(run | {"rows": [row]}))
    (found,) = collected(tmp_path)
    assert (found["setting"], found["seeds"], found["wall_seconds"], found["num_images"]) == ("l2", 2, 200.0, 8)
    assert found["kernel_distance"]["value"] == pytest.approx(0.1) and "alignment" not in found
    assert found["command"] == "python -m benchmarks.attribution --only l2 --seeds 0 1"


def test_pages_are_those_of_the_runs():
    """`python -m benchmarks.attribution --table` after new runs."""
    rows = collected(attribution.RESULTS)
    assert json.loads(attribution.RESULTS.with_suffix(".json").read_text()) == rows
    assert _headline(rows) in Path("README.md").read_text()
    assert _tables(rows) in Path("docs/attribution.md").read_text()


def test_a_model_sampled_in_another_way_is_a_copy(tmp_path):
    folder = called("emoji-lcm", {"num_inference_steps": 2, "timesteps": [999, 49]}, tmp_path / "model")
    call = json.loads((folder / "inference.json").read_text())
    assert (call["num_inference_steps"], call["timesteps"], call["solver"]) == (2, [999, 49], "lcm")
    assert not (folder / "evaluation").exists() and (folder / "model_index.json").is_file()
