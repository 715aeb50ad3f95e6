"""Measuring while training: when, what is kept, when the run ends, and the same through any interruption."""

import json
import shutil
import signal

import pytest
from safetensors.torch import load_file

from e2ed2.evaluation.results import EVALUATION_FILE
from e2ed2.recipe.load import build_config, check_config
from e2ed2.system.errors import UserError
from e2ed2.system.files import replace_folder
from e2ed2.training import validation
from e2ed2.training.loop import train
from e2ed2.training.validation import best_so_far, create_validation, read_evaluations, stopped_at

DISTANCES = {0: 0.9, 3: 0.5, 6: 0.4, 9: 0.6, 10: 0.8, 12: 0.4, 15: 0.7, 18: 0.1}


def quiet(line):
    pass


def measured(folder, step, **values):
    """What `evaluate` leaves for a step, with made-up figures."""
    metrics = {name: {"value": v, "low": v - 0.01, "high": v + 0.01} for name, v in values.items()}
    about = {"protocol": "emoji", "nfe": 4, "num_images": 8, "reference": "r", "notes": ["few images"]}
    about["protocol_sha256"] = "a" * 64
    result = {"model": f"step {step}", **about, "metrics": metrics}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVALUATION_FILE).write_text(json.dumps(result))
    return result


@pytest.fixture
def scripted(monkeypatch):
    """`evaluate` that reads the step from the model and the distance from `DISTANCES`; returns the calls."""
    calls = []

    def evaluate(model, protocol, *, out, **options):
        step = int(out.name.partition("-")[2])
        (out / "images").mkdir(parents=True)
        calls.append((step, load_file(f"{model}/part/weights.safetensors"), {"protocol": protocol, **options}))
        return measured(out, step, spread=0.1, kernel_distance=DISTANCES[step])

    monkeypatch.setattr(validation, "evaluate", evaluate)
    monkeypatch.setattr(validation, "check_protocol", lambda *args: ["spread", "kernel_distance"])
    return calls


def with_evaluation(config, **evaluation):
    values = config.model_dump()
    return build_config({**values, "evaluation": {"protocol": "emoji", "every": 3, **evaluation}})


def test_a_protocol_that_never_says_what_is_better_is_refused_before_training(tiny, monkeypatch):
    monkeypatch.setattr(validation, "check_protocol", lambda *args: ["spread"])
    with pytest.raises(UserError, match="evaluation.protocol: emoji measures spread, of which more is not better or"):
        train(with_evaluation(tiny()), quiet)


def test_the_average_is_measured_as_often_as_asked_and_at_both_ends(tiny, scripted):
    config, said = with_evaluation(tiny(max_train_steps=10), num_images=8), []
    model = train(config, said.append)
    assert [step for step, *_ in scripted] == [0, 3, 6, 9, 10]
    last = load_file(model / "part" / "weights.safetensors")
    assert all(scripted[-1][1][name].equal(tensor) for name, tensor in last.items())
    assert scripted[0][2]["num_images"] == 8 and scripted[0][2]["protocol"] == "emoji"
    run_dir = config.run.dir
    assert sorted(path.name for path in (run_dir / "evaluation" / "step-000003").iterdir()) == [EVALUATION_FILE]
    best = load_file(run_dir / "best" / "part" / "weights.safetensors")
    assert all(scripted[2][1][name].equal(tensor) for name, tensor in best.items())
    assert json.loads((run_dir / "best" / "training.json").read_text())["global_step"] == 6
    assert said[1] == "step 0: kernel distance 0.900 ±0.010, the best so far; few images"
    assert said[4] == "step 9: kernel distance 0.600 ±0.010"


def test_the_run_ends_when_nothing_gets_better(tiny, scripted):
    config, said = with_evaluation(tiny(max_train_steps=30), patience=3), []
    model = train(config, said.append)
    assert json.loads((model / "training.json").read_text())["global_step"] == 15, "6 was best, 9, 12 and 15 were not"
    assert "step 15: no better for 3 evaluations" in said[-1]
    assert (config.run.dir / "checkpoints" / "step-15").is_dir()
    assert train(config, said.append) == model and "finished at step 15" in said[-1]
    assert len(scripted) == 6
    more = with_evaluation(tiny(max_train_steps=18), patience=4)
    train(more, quiet)
    assert [step for step, *_ in scripted[6:]] == [18], "the same run, with more patience"
    assert json.loads((config.run.dir / "best" / "training.json").read_text())["global_step"] == 18


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 7, 15])
def test_interrupted_it_measures_and_ends_as_uninterrupted(tiny, scripted, tmp_path, stop):
    config = with_evaluation(tiny(max_train_steps=30), patience=3)

    def kill(step, steps, row):
        if step == stop:
            raise SystemExit

    with pytest.raises(SystemExit):
        train(config, quiet, kill)
    evaluation_dir = config.run.dir / "evaluation"
    measured(evaluation_dir / "step-000027", 27, spread=0.1, kernel_distance=0.0)  # of a later, lost update
    (evaluation_dir / "step-000030").mkdir()
    model = train(config, quiet)
    assert json.loads((model / "training.json").read_text())["global_step"] == 15
    weights = load_file(config.run.dir / "best" / "part" / "weights.safetensors")
    other = config.model_copy(update={"run": config.run.model_copy(update={"dir": tmp_path / "whole"})})
    train(other, quiet)
    whole = load_file(tmp_path / "whole" / "best" / "part" / "weights.safetensors")
    assert all(weights[name].equal(tensor) for name, tensor in whole.items())
    assert list(read_evaluations(config.run.dir)) == [0, 3, 6, 9, 12, 15]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_kill_after_an_evaluation_loses_neither_it_nor_the_best_model(tiny, scripted, monkeypatch, replaced):
    """Of the best, at step 6: before or while the one before is replaced."""
    config = with_evaluation(tiny(max_train_steps=9, checkpoint_every=1))

    def kill(folder, final):
        if json.loads((folder / "training.json").read_text())["global_step"] == 6:
            if replaced:
                shutil.rmtree(final)
            raise SystemExit
        replace_folder(folder, final)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(validation, "replace_folder", kill)
        train(config, quiet)
    train(config, quiet)
    assert [step for step, *_ in scripted] == [0, 3, 6, 9]
    best = config.run.dir / "best"
    assert json.loads((best / "training.json").read_text())["global_step"] == 6
    assert "0.400" in (best / "README.md").read_text()
    for folder in (config.run.dir / "evaluation").iterdir():
        assert [path.name for path in folder.iterdir()] == [EVALUATION_FILE]


@pytest.mark.parametrize(("stop", "said"), [(0, "nothing was trained yet"), (6, "step 6 is saved")])
def test_ctrl_c_ends_an_evaluation_and_the_next_run_measures_it(tiny, scripted, monkeypatch, tmp_path, stop, said):
    config = with_evaluation(tiny(max_train_steps=10))
    evaluate = validation.evaluate

    def interrupted(model, protocol, *, out, watch, **options):
        if out.name == f"step-{stop:06d}":
            signal.raise_signal(signal.SIGINT)
            watch("sampling", 1, 2)
            raise AssertionError("measured to its end")
        return evaluate(model, protocol, out=out, watch=watch, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=f"{said}; run the same command"):
        patch.setattr(validation, "evaluate", interrupted)
        train(config, quiet)
    model = train(config, quiet)
    assert [step for step, *_ in scripted] == [0, 3, 6, 9, 10]
    other = config.model_copy(update={"run": config.run.model_copy(update={"dir": tmp_path / "whole"})})
    whole = load_file(train(other, quiet) / "part" / "weights.safetensors")
    assert all(whole[name].equal(tensor) for name, tensor in load_file(model / "part" / "weights.safetensors").items())


def test_which_is_best_depends_on_the_metric(tmp_path):
    values = {0: (0.5, 0.3, 1.4), 2: (0.4, 0.3, 1.2), 4: (0.4, 0.1, 0.7)}
    for step, (distance, recall, sharpness) in values.items():
        folder = tmp_path / "evaluation" / f"step-{step:06d}"
        measured(folder, step, kernel_distance=distance, recall=recall, sharpness=sharpness)
    assert best_so_far(read_evaluations(tmp_path), "kernel_distance") == {0: 0, 2: 2, 4: 2}
    assert best_so_far(read_evaluations(tmp_path), "recall") == {0: 0, 2: 0, 4: 0}
    assert best_so_far(read_evaluations(tmp_path), "sharpness") == {0: 0, 2: 2, 4: 2}, "1.2 is nearer to 1 than 0.7"


def test_what_cannot_be_measured_is_refused_before_training(tiny, tmp_path):
    with pytest.raises(UserError, match="evaluation.metric: spread, but emoji decides by kernel_distance, "):
        create_validation(with_evaluation(tiny(), metric="spread"), lambda *args: None)
    with pytest.raises(UserError, match="protocol 'coco' is unknown: choose coco10k-512, "):
        create_validation(with_evaluation(tiny(), protocol="coco"), lambda *args: None)
    with pytest.raises(UserError, match="needs .*; give the folder that holds it"):
        create_validation(with_evaluation(tiny(), protocol="coco30k"), lambda *args: None)
    with pytest.raises(UserError, match="evaluation.patience: 3, but nothing is measured: add evaluation.protocol"):
        check_config(build_config({**tiny().model_dump(), "evaluation": {"patience": 3}}))
    assert create_validation(tiny(), lambda *args: None) is None and stopped_at(tiny()) is None
