"""Suites run: what a second run skips, and the mean and interval over seeds."""

import json
import random
from contextlib import ExitStack
from xml.etree import ElementTree

import pytest
import torch
import yaml

from e2ed2.ablation import run as ablation
from e2ed2.ablation.run import _config, run_suite
from e2ed2.ablation.suite import load_suite
from e2ed2.ablation.table import over_seeds
from e2ed2.system.errors import UserError
from e2ed2.system.processes import Share
from e2ed2.training.precision import resolve_precision
from tests.ablation.conftest import SUITE
from tests.mangle import mangled_bytes, mangled_json, mangled_values, read_or_refuse, times

CPU = torch.device("cpu")


def test_every_row_is_trained_and_measured_for_every_seed_and_nothing_twice(suite_file, calls, tmp_path):
    suite = load_suite(suite_file)
    table = run_suite(suite, tmp_path / "out", say=lambda line: None)
    assert [(c.train.seed, c.objective.l1.weight, c.objective.l2.weight) for c in calls["train"]] == [
        (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1),
    ]  # fmt: skip
    assert all(config.train.max_train_steps == 3 for config in calls["train"])
    assert len(calls["evaluate"]) == 3 * 2 * 2 and ("emoji-lcm", 1, 1) in calls["evaluate"]
    again = run_suite(suite, tmp_path / "out", say=lambda line: None)
    assert again == table == (tmp_path / "out" / "table.md").read_text()
    assert len(calls["evaluate"]) == 12
    figure = ElementTree.parse(tmp_path / "out" / "figure.svg").getroot()
    labels = [text.text for text in figure.iter() if text.tag.endswith("text") and "NFE" in text.text]
    assert labels == [f"{row}, {k} NFE" for k in (4, 1) for row in ("start", "L1", "L2")]
    lines = [line.split(" | ") for line in table.splitlines()]
    assert [line[0].strip("| ") for line in lines[2:]] == ["start", "L1", "L2"] * 2
    assert lines[3][-2:] == ["2.00", "1.00 |"] and lines[4][-2:] == ["1.00", "1.00 |"] and lines[2][-1] == "- |"


def test_a_model_of_its_own_steps_is_measured_at_no_others(suite_file, calls, tmp_path):
    rows = {"L2": SUITE["rows"]["L2"], "own": {**SUITE["rows"]["L2"], "trajectory.parameters": "per_step"}}
    suite = load_suite(suite_file).model_copy(update={"rows": rows, "seeds": [0]})
    table = run_suite(suite, tmp_path / "out", say=lambda line: None)
    assert [line.split(" | ")[:2] for line in table.splitlines()[2:]] == [["| L2", "4"], ["| own", "4"], ["| L2", "1"]]
    (tmp_path / "out" / "own" / "seed-0" / "model").rmdir()
    assert run_suite(suite, tmp_path / "out", say=lambda line: None) == table and len(calls["evaluate"]) == 3
    own = suite.model_copy(update={"rows": {**rows, "L2": rows["own"]}})  # what L2 had at one step is another model's
    assert "| 1 |" not in run_suite(own, tmp_path / "out", say=lambda line: None)
    calls["train"].clear()
    with pytest.raises(UserError, match="row own: .* 4 steps and no other: add 4 to steps"):
        run_suite(suite.model_copy(update={"steps": [2, 1]}), tmp_path / "other", say=lambda line: None)
    assert calls["train"] == []


def test_figures_outlive_the_models_they_were_measured_on(suite_file, calls, tmp_path):
    """Until the recipe changes: then the row is trained again."""
    suite = load_suite(suite_file)
    table = run_suite(suite, tmp_path / "out", say=lambda line: None)
    for model in (tmp_path / "out").glob("*/seed-*/model"):
        model.rmdir()
    calls["train"].clear()
    assert run_suite(suite, tmp_path / "out", say=lambda line: None) == table and calls["train"] == []
    for change in ({"train.max_train_steps": 4}, {"train.max_train_steps": 3, "train.lr": 1e-4}):
        run_suite(suite.model_copy(update={"fields": change}), tmp_path / "out", say=lambda line: None)
        assert len(calls["train"]) == 4
        calls["train"].clear()


def test_figures_of_an_older_recipe_do_not_outlive_an_interrupted_new_one(suite_file, calls, tmp_path, monkeypatch):
    suite = load_suite(suite_file)
    run_suite(suite, tmp_path / "out", say=lambda line: None)
    for model in (tmp_path / "out").glob("*/seed-*/model"):
        model.rmdir()
    calls["train"].clear()
    changed, finish = suite.model_copy(update={"fields": {"train.max_train_steps": 4}}), ablation.train

    def interrupted(config, *rest):
        (config.run.dir / "config.yaml").write_text(config.to_yaml())
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_suite(changed, tmp_path / "out", say=lambda line: None)
    monkeypatch.setattr(ablation, "train", finish)
    run_suite(changed, tmp_path / "out", say=lambda line: None)
    assert len(calls["train"]) == 4


def test_two_processes_share_the_rows(suite_file, calls, tmp_path, monkeypatch):
    """While another process is at a row the rest is done; then it is waited for, and not done twice."""
    suite, said = load_suite(suite_file), []
    other = ExitStack()
    other.enter_context(ablation._claimed(tmp_path / "out" / "L1" / "seed-0", wait=False))

    def say(line):
        said.append(line)
        if line.startswith("waiting"):
            assert len(calls["train"]) == 3
            other.close()

    run_suite(suite, tmp_path / "out", say=say)
    assert len(calls["train"]) == 4 and any("another process is at it" in line for line in said)
    assert calls["train"][-1].run.dir == tmp_path / "out" / "L1" / "seed-0"


@pytest.mark.parametrize("change", [{"protocol": "emoji-heldout"}, {"num_images": 16}, {"weights": "second"}])
def test_figures_of_something_else_are_not_taken_for_these(suite_file, calls, tmp_path, change):
    suite = load_suite(suite_file)
    run_suite(suite, tmp_path / "out", say=lambda line: None)
    calls["weights"] = change.pop("weights", "first")
    run_suite(suite.model_copy(update=change), tmp_path / "out", say=lambda line: None)
    assert len(calls["evaluate"]) == 24


def test_mean_and_interval_over_seeds_by_hand():
    """1, 2, 3: mean 2, deviation 1, t = 4.303 for two degrees of freedom."""
    found = over_seeds([{"value": v, "low": 0.0, "high": 9.0} for v in (1.0, 2.0, 3.0)])
    assert found["value"] == 2 and found["high"] - 2 == pytest.approx(4.30265 / 3**0.5)
    alone = {"value": 1.0, "low": 0.5, "high": 1.5}
    assert over_seeds([alone]) == alone


@pytest.mark.slow
@pytest.mark.parametrize("torn", [b"", b"{", b"\xff", b"null", b"[1]", b'{"metrics": {}}'])
def test_figures_that_cannot_be_read_are_made_again(suite_file, calls, tmp_path, torn):
    suite = load_suite(suite_file)
    table = run_suite(suite, tmp_path / "out", say=lambda line: None)
    (tmp_path / "out" / "L1" / "seed-1" / "evaluation-4" / "evaluation.json").write_bytes(torn)
    assert run_suite(suite, tmp_path / "out", say=lambda line: None) == table and len(calls["evaluate"]) == 13


def test_auto_is_the_precision_of_the_rows_that_are_there(suite_file, calls, tmp_path):
    """Begun on a machine that trains in float32, gone on with on one that has bf16, or the other way round."""
    suite, out = load_suite(suite_file), tmp_path / "out"
    other = {"bf16": "no", "no": "bf16"}[resolve_precision(_config(suite, "L1", 0, out), {}, CPU).train.mixed_precision]
    begun = _config(suite, "L1", 1, out)
    begun = begun.model_copy(update={"train": begun.train.model_copy(update={"mixed_precision": other})})
    ablation.train(begun, print, None, None)
    run_suite(suite, out, say=lambda line: None)
    assert {config.train.mixed_precision for config in calls["train"]} == {other}


def test_costs_of_another_precision_are_left_out(suite_file, calls, tmp_path):
    rows = {**SUITE["rows"], "L2": {"objective.l2.weight": 1, "train.mixed_precision": "no"}}
    fields = SUITE["fields"] | {"train.mixed_precision": "bf16"}
    suite = load_suite(suite_file).model_copy(update={"rows": rows, "fields": fields})
    text = run_suite(suite, tmp_path / "out", say=lambda line: None)
    lines = [line.split(" | ") for line in text.splitlines()]
    assert lines[3][0] == "| L1" and lines[3][-2:] == ["-", "- |"] and lines[4][-2:] == ["1.00", "1.00 |"]
    assert lines[-1] == ["No time and memory of L1: trained in another precision than L2."]


def test_processes_of_one_command_do_not_train_rows_as_one(suite_file, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "join_processes", lambda: Share(0, 2))
    with pytest.raises(UserError, match="ablate: 2 processes"):
        run_suite(load_suite(suite_file), tmp_path / "out", say=lambda line: None)
    assert calls["train"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 8}, "num.images 8: protocol emoji .* a multiple of 2 from 10 to "),
        ({"protocol": "coco"}, "protocol .coco. is unknown: choose .*emoji"),
    ],
)
def test_what_cannot_be_measured_stops_before_anything_is_trained(suite_file, calls, tmp_path, change, message):
    suite = load_suite(suite_file).model_copy(update=change)
    with pytest.raises(UserError, match=message):
        run_suite(suite, tmp_path / "out")
    assert calls["train"] == []


def test_what_goes_wrong_in_a_row_is_said_of_it(suite_file, calls, tmp_path, monkeypatch):
    def train(config, *rest):
        raise UserError("data.path: missing")

    monkeypatch.setattr(ablation, "train", train)
    with pytest.raises(UserError, match="row L1, seed 0, in .*out/L1/seed-0: data.path: missing"):
        run_suite(load_suite(suite_file), tmp_path / "out", say=lambda line: None)


def test_a_wrong_row_stops_before_anything_is_trained(suite_file, calls, tmp_path):
    suite_file.write_text(yaml.safe_dump(SUITE | {"rows": {**SUITE["rows"], "L3": {"objective.l3.weight": 1}}}))
    suite = load_suite(suite_file)
    with pytest.raises(UserError, match="row L3: objective.l3: unknown field"):
        run_suite(suite, tmp_path / "out")
    assert calls["train"] == []


def test_rows_whose_files_are_mangled_are_of_another_recipe_or_cost_what_is_left(suite_file, calls, tmp_path):
    suite, out = load_suite(suite_file), tmp_path / "out"
    for row in ("L1", "L2"):
        ablation.train(_config(suite, row, 0, out), print, None, None)
    folder, config = out / "L2" / "seed-0", _config(suite, "L2", 0, out)
    record, row = yaml.safe_load(config.to_yaml()), json.loads((folder / "metrics.jsonl").read_text())
    for seed in times(15):
        rng = random.Random(seed)
        text = yaml.safe_dump(mangled_values(record, rng), sort_keys=False).encode()
        (folder / "config.yaml").write_bytes(text if rng.random() < 0.7 else mangled_bytes(text, rng))
        (folder / "metrics.jsonl").write_bytes(mangled_json(row, rng) + b"\n")
        assert read_or_refuse(lambda: (ablation._is_of(config, folder), ablation._costs(suite, out)), seed)
        assert read_or_refuse(lambda: ablation._in_one_precision({("L2", 0): config}), seed)
