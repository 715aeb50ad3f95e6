"""What is named as a model and is none: where the model itself is, or how to get one, in one line."""

import os
import shlex
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from e2ed2 import cli
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.recipe.load import load_config
from e2ed2.sampling.finished_images import finished_images
from e2ed2.sampling.model import load_model
from e2ed2.system.errors import UserError
from e2ed2.training.loop import train
from e2ed2.training.stages.teacher_pairs import load_teacher
from tests.models.test_families import quiet
from tests.models.tiny import save_tiny


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """`done` has a model, `begun` a checkpoint alone, `best` one beside the best so far; the hub is not asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda *args, **options: pytest.fail("asked the hub"))
    for name in ("done/model", "done/checkpoints/step-2", "begun/checkpoints/step-2", "best/best"):
        (Path("runs") / name).mkdir(parents=True)
    for run in Path("runs").iterdir():
        (run / "config.yaml").touch()
        (run / "environment.json").touch()
    (Path("runs") / "best/best/model_index.json").touch()
    for run in ("done", "begun"):
        (Path("runs") / run / "checkpoints/step-2/optimizer.pt").write_bytes(b"a pickle")
    return Path("runs")


UNFINISHED = "is not finished and has no model yet: `e2ed2 train runs/begun/config.yaml` goes on to runs/begun/model$"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("runs", "a folder of runs; their models are runs/done/model$"),
        ("runs/done", "a run folder; its model is runs/done/model$"),
        ("./runs/done/", "a run folder; its model is runs/done/model$"),
        ("runs/done/checkpoints", "what a run resumes from; its model is runs/done/model$"),
        ("runs/done/checkpoints/step-2", "what a run resumes from; its model is runs/done/model$"),
        ("runs/done/config.yaml", "a file of a training run; its model is runs/done/model$"),
        ("runs/done/checkpoints/step-2/optimizer.pt", "a file of a training run; its model is runs/done/model$"),
        ("runs/begun", f"a run folder; runs/begun {UNFINISHED}"),
        ("runs/begun/checkpoints/step-2", f"what a run resumes from; runs/begun {UNFINISHED}"),
        ("runs/best", "no model yet: .* goes on to runs/best/model; the best so far is runs/best/best$"),
        ("runs/none", None),
    ],
)
def test_a_run_says_where_its_model_is(runs, named, message):
    if message is None:  # does not exist, so that it may be a hub id
        with pytest.raises(pytest.fail.Exception, match="asked the hub"):
            resolve_model(named)
        return
    for at in (named, str(Path(named).absolute())):
        with pytest.raises(UserError, match=message.replace("runs/", "(.*/)?runs/")) as told:
            resolve_model(at)
        assert "\n" not in str(told.value)
        if Path(at).is_dir():
            with pytest.raises(UserError, match="run"):  # its previews are no samples
                finished_images(at)


def test_a_checkpoint_is_known_from_within(runs, monkeypatch):
    monkeypatch.chdir(runs / "done" / "checkpoints")
    for named in ("step-2", "."):
        with pytest.raises(UserError, match="what a run resumes from; its model is /.*runs/done/model$"):
            resolve_model(named)


@pytest.mark.slow
def test_every_way_to_name_a_model_goes_through_one_place(runs, recipe, tmp_path, monkeypatch, capfd):
    message = "a run folder; its model is runs/done/model"
    with pytest.raises(UserError, match=message):
        train(recipe(tmp_path / "new", Path("runs/done")), quiet)
    Path("baseline.yaml").write_text("model: runs/done\n")
    with pytest.raises(UserError, match=message):
        load_model("baseline.yaml")
    with pytest.raises(UserError, match="a file of a training run; its model is runs/done/model"):
        load_model("runs/done/config.yaml")
    with pytest.raises(UserError, match=f"trajectory.teacher: .*{message}"):
        load_teacher("trajectory.teacher", "runs/done")
    for verb in (["sample", "runs/done", "a cat"], ["evaluate", "runs/done"]):
        monkeypatch.setattr(sys, "argv", ["e2ed2", *verb])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 2 and message in capfd.readouterr().err


def test_the_command_that_is_named_leads_to_the_model(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def interrupt(step, steps, row):
        raise KeyboardInterrupt

    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    with pytest.raises(KeyboardInterrupt):
        train(recipe(Path("runs/x"), start), quiet, interrupt)
    with pytest.raises(UserError, match="`e2ed2 train (.*)` goes on to runs/x/model") as told:
        resolve_model("runs/x")
    config = shlex.split(str(told.value).split("`")[1])[2]
    assert train(load_config(Path(config), []), quiet) == Path("runs/x/model")
    with pytest.raises(UserError, match="its model is runs/x/model$"):
        resolve_model("runs/x")
    assert resolve_model("runs/x/model") == Path("runs/x/model")


@pytest.mark.parametrize("named", ["one.ckpt", "a/one.pt", "a/one.ckpt", "it's $HOME/one.ckpt"])
def test_a_pickle_of_a_model_is_named_with_the_way_to_a_folder(runs, named):
    Path(named).parent.mkdir(exist_ok=True)
    Path(named).touch()
    for at in (named, str(Path(named).absolute())):
        with pytest.raises(UserError, match="a file, not a model folder, and not safetensors") as told:
            resolve_model(at)
        words = shlex.split(str(told.value).partition("`")[2].partition("` with")[0])
        assert words[:2] == ["python", "-c"]
        made = []

        class Pipeline:
            @classmethod
            def from_single_file(cls, path, made=made):
                made.append(path)
                return cls()

            def save_pretrained(self, folder, made=made):
                made.append(folder)

        code = words[2].replace("from diffusers import StableDiffusionPipeline as P; ", "")
        exec(code, {"P": Pipeline})
        assert made == [at, at.rpartition(".")[0]]
        assert "may run code" in str(told.value)
    if named == "a/one.ckpt":
        with pytest.raises(UserError, match=f"no model_index.json, but {Path(named).name}: a file, not a model folder"):
            load_pipeline(resolve_model(str(Path(named).parent)))


def test_a_file_of_weights_is_named_with_where_it_goes(runs):
    Path("one.gguf").touch()
    with pytest.raises(UserError, match="'one.gguf': a network alone: .* model.path, and this as model.network"):
        resolve_model("one.gguf")
    Path("a").mkdir()
    Path("a/one.safetensors").touch()
    with pytest.raises(UserError, match="no model_index.json, but one.safetensors: give that file, if a whole"):
        load_pipeline(resolve_model("a"))


def test_what_exists_is_no_hub_id(runs):
    start = save_tiny("StableDiffusionPipeline", Path("x"))
    for named in ("x/model_index.json", "x/unet/config.json"):
        with pytest.raises(UserError, match=f"'{named}': a file of the model folder x: give that folder"):
            resolve_model(named)
    with pytest.raises(UserError, match="x/unet: not a loadable model folder: a part of the model folder x: give that"):
        load_pipeline(resolve_model("x/unet"))
    assert finished_images("x/unet") is None  # a network, no folder of images
    Path("org").mkdir()
    os.symlink("nowhere", "org/name")
    with pytest.raises(UserError, match="model 'org/name': no such folder"):
        resolve_model("org/name")
    Path("org/notes").touch()
    with pytest.raises(UserError, match="model 'org/notes': a file; give a model folder, its model_index.json in it"):
        resolve_model("org/notes")
    with pytest.raises(UserError, match="model 'y/model_index.json': no such file"):
        resolve_model("y/model_index.json")
    with pytest.raises(UserError, match="model_index.json; give one of a pipeline, such as org/model$"):
        start.rename("org/model")
        load_pipeline(resolve_model("org"))
    for odd in ("", "a\0b"):
        with pytest.raises(UserError, match="no such folder"):
            resolve_model(odd)


def test_a_part_s_own_weights_are_not_looked_for_on_the_hub(runs, recipe, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **options: pytest.fail("asked the hub"))
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *args, **options: pytest.fail("asked the hub"))
    start = save_tiny("StableDiffusionPipeline", Path("start"))
    unet = load_file(start / "unet" / "diffusion_pytorch_model.safetensors")
    Path("a/b/c").mkdir(parents=True)
    save_file(unet, "a/b/c/unet.safetensors")
    with pytest.raises(UserError, match="weights a/b/c: not a file; give the safetensors file itself"):
        train(recipe(Path("r1"), start, model={"network": "a/b/c"}), quiet)
    Path("a/lora.ckpt").touch()
    with pytest.raises(UserError, match="model.lora: a/lora.ckpt cannot be added .*only safetensors are read"):
        train(recipe(Path("r2"), start, model={"lora": ["a/lora.ckpt"]}), quiet)
