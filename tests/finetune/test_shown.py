"""A small model moved to a few images: what is sampled, measured and said, and what a second run does again."""

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml

from e2ed2 import cli
from e2ed2.evaluation.features.extractors import EXTRACTORS
from e2ed2.finetune import shown
from e2ed2.finetune.run import choose_finetune, finetune
from e2ed2.sampling.folder import read_images
from e2ed2.training.log import read_metrics
from e2ed2.training.stages.end_to_end import EndToEndStage
from tests.emoji.test_protocols import Features
from tests.evaluation.tiny import draw_images
from tests.models.tiny import save_tiny

WORDS = ["apple", "bus", "cat", "dog", "egg", "fish", "gem", "hat", "ice", "jar", "key", "leaf"]
QUICK = ["train.max_train_steps=1", "train.micro_batch_size=2", "train.gradient_accumulation_steps=1"]
QUICK += ["train.lr=1e-2", "train.ema_decay=0", "train.mixed_precision=no"]


@pytest.fixture
def quick(monkeypatch, tmp_path) -> list[str]:
    """Overrides for a training of one update, 30 prompts to keep, of which six are left to measure; free features."""
    (tmp_path / "prompts.txt").write_text("".join(f"{n} of {word}\n" for n in range(5) for word in WORDS[:6]))
    monkeypatch.setitem(EXTRACTORS, "efficientnet", lambda networks, device: Features())
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))
    return [*QUICK, f"objective.keep.prompts={tmp_path / 'prompts.txt'}", "objective.keep.batch_size=2"]


def photos(folder: Path, count: int) -> Path:
    """Captioned pictures."""
    draw_images(folder, count, 64)
    for i in range(count):
        (folder / f"{i:04d}.txt").write_text(f"a {WORDS[i]}")
    return folder


def move(model: Path, data: Path, out: Path, overrides: list[str], **options: object) -> str:
    """A whole run; its page."""
    finetune(choose_finetune(str(model), str(data), out, overrides=overrides, **options).config, say=lambda line: None)
    return (out / "report.html").read_text()


@pytest.mark.slow
def test_start_and_result_are_measured_on_new_and_old_prompts(tiny_model, tmp_path, quick, num_sampled):
    """A sampler of two steps alone: four rows."""
    out, fixed = tmp_path / "run", ["trajectory.random_num_steps=false", "trajectory.num_steps_weights=[]"]
    page = move(tiny_model, photos(tmp_path / "photos", 10), out, [*quick, *fixed], steps=2)
    rows = json.loads((out / "metrics.json").read_text())
    expected = [(model, 2, num) for num in (20, 12) for model in ("start", "finetuned")]
    assert [(r["model"], r["nfe"], r["num_images"]) for r in rows] == expected
    assert all(r["metrics"].keys() == {"kernel_distance", "recall", "sharpness"} for r in rows)
    assert rows[0]["metrics"] != rows[1]["metrics"], "training changed the samples"
    assert sum(num_sampled) == 12 + 2 * (20 + 12)
    protocol = yaml.safe_load((out / "evaluation" / "old.yaml").read_text())
    assert protocol["prompts"] == {"path": "old.txt", "num": 6, "samples_per_prompt": 2}
    prompts = (tmp_path / "prompts.txt").read_text().splitlines()
    assert (out / "evaluation" / "old.txt").read_text().splitlines() == prompts[4::5]
    for name in ("On your captions", "On prompts outside your data", "Side by side", "of 20 samples are near copies"):
        assert name in page
    assert "finetuned, 2 steps" in page and "start, 1 step" not in page

    before = torch.stack([image for _, image in read_images(out / "evaluation" / "old" / "start-2")])
    again = torch.stack([image for _, image in read_images(out / "evaluation" / "again")])
    assert before.shape == again.shape and not torch.equal(before, again), "from other noise"

    assert move(tiny_model, tmp_path / "photos", out, [*quick, *fixed]) == page
    assert sum(num_sampled) == 12 + 2 * (20 + 12), "what is finished is not sampled again"


def test_what_is_too_few_to_measure_is_shown_in_pictures(tiny_model, tmp_path, quick):
    out, prompt = tmp_path / "run", "a photo of sks dog"
    (tmp_path / "prompts.txt").write_text("1\n2\n3\n4\na cat\n6\n7\n8\n9\na tree\n")
    page = move(tiny_model, draw_images(tmp_path / "photos", 10, 64), out, quick, steps=1, prompt=prompt)
    assert json.loads((out / "metrics.json").read_text()) == []
    assert "Side by side: on your captions" in page and "of 2 samples are near copies" in page
    for kind, prompts in (("new", {prompt}), ("old", {"a cat", "a tree"})):
        assert {row.prompt for row, _ in read_images(out / "evaluation" / kind / "finetuned-1")} == prompts


def run(monkeypatch, *arguments: object) -> int:
    """`e2ed2 finetune ...` in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["e2ed2", "finetune", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.slow
def test_a_run_cut_short_twice_ends_as_one_that_was_not(tiny_model, tmp_path, quick, monkeypatch, capsys):
    """In its second of three updates, and between two evaluations; by the same command each time."""
    data = photos(tmp_path / "photos", 8)
    command = [tiny_model, data, *quick, "train.max_train_steps=3", "train.gradient_accumulation_steps=2"]
    assert run(monkeypatch, *command, "--out", tmp_path / "whole") == 0
    said = capsys.readouterr()
    assert said.out == f"model:  {tmp_path}/whole/model\nreport: {tmp_path}/whole/report.html\n"
    assert "sampler: 1 to 4 steps of lcm, from its inference.json" in said.err

    rows = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert [(r["model"], r["nfe"], r["num_images"]) for r in rows] == [
        (model, k, 12) for k in (4, 1) for model in ("start", "finetuned")
    ], "eight images are too few to measure"

    calls, terms, measured_row = [], EndToEndStage.loss_terms, shown.measured_row

    def press(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return terms(self, *arguments)

    def stop(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured_row(*arguments, **options)

    for place, name, cut in ((EndToEndStage, "loss_terms", press), (shown, "measured_row", stop)):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(place, name, cut)
            assert run(monkeypatch, *command, "--out", tmp_path / "cut") == 130
    assert "the same command goes on from what is in" in capsys.readouterr().err
    assert run(monkeypatch, *command, "--out", tmp_path / "cut") == 0

    def outcome(out: Path):
        """Losses, figures without a clock, and every byte of model and samples."""
        losses = [{name: row[name] for name in ("global_step", "total", "keep", "mmd")}
                  for row in read_metrics(out / "metrics.jsonl")]  # fmt: skip
        rows = [(r["model"], r["nfe"], r["metrics"]) for r in json.loads((out / "metrics.json").read_text())]
        paths = [*(out / "model").rglob("*.safetensors"), *(out / "evaluation").rglob("*.png")]
        return losses, rows, {path.relative_to(out): path.read_bytes() for path in paths}

    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["MODEL", "no/such/folder"], ["DATA 'no/such/folder': nothing there"]),
        (["MODEL", "EMPTY"], ["an empty folder"]),
        (["PLAIN", "PHOTOS"], ["give --steps", "e2ed2 train emoji/lcm"]),
        (["nothing/at/all", "PHOTOS"], ["model 'nothing/at/all': no such folder"]),
        (["MODEL", "PHOTOS", "--steps", "0"], ["--steps", "0"]),
        (["MODEL", "PHOTOS", "--steps", "many"], ["--steps", "integer"]),
        (["MODEL", "PHOTOS", "run.dir=elsewhere"], ["run.dir: this command writes to --out"]),
        (["MODEL", "PHOTOS", "train.lrr=1"], ["train.lrr: unknown field"]),
        (["MODEL"], ["DATA"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(tiny_model, tmp_path, monkeypatch, capsys, arguments, named):
    (tmp_path / "empty").mkdir()
    places = {"MODEL": tiny_model, "EMPTY": tmp_path / "empty", "PHOTOS": tmp_path / "photos"}
    photos(tmp_path / "photos", 2)
    if "PLAIN" in arguments:
        places["PLAIN"] = save_tiny("StableDiffusionPipeline", tmp_path / "plain")
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *(places.get(argument, argument) for argument in arguments)) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert all(word in said.err for word in named), said.err
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_prints_the_recipe_and_writes_nothing(tiny_model, tmp_path, monkeypatch, capsys):
    data = photos(tmp_path / "photos", 2)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, tiny_model, "photos", "train.lr=3e-5", "--dry-run") == 0
    said = capsys.readouterr()
    recipe = yaml.safe_load(said.out)
    assert (recipe["train"]["lr"], recipe["data"]["path"]) == (3e-5, data.name)
    assert recipe["run"]["dir"] == f"runs/{tiny_model.name}-photos"
    assert "note: 2 images; with fewer than 8 a model learns these very pictures" in said.err
    assert not (tmp_path / "runs").exists()
