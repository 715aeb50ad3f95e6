"""A whole run of the tiny stage: what it writes, what it refuses, what it leaves alone."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from e2ed2.system.drawing.sheets import read_sheet
from e2ed2.system.errors import NonFiniteError, UserError
from e2ed2.training import loop
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import train


def quiet(line):
    pass


def files(folder):
    """path -> (content, inode): equal only when nothing was written."""
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_ino) for path in found}


def test_a_run_leaves_the_folder_of_the_contract(tiny):
    config, ticks = tiny(keep_checkpoints=2), []
    model = train(config, quiet, lambda *args: ticks.append(args))
    run_dir = config.run.dir
    assert model == run_dir / "model"
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "model", "samples", "state.json",
    ]  # fmt: skip
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["step-10", "step-12"]
    assert sorted(path.name for path in (run_dir / "samples").iterdir()) == [
        "step-000000.png", "step-000006.png", "step-000012.png",
    ]  # fmt: skip
    sheet = read_sheet(run_dir / "samples" / "step-000012.png")
    assert [caption for caption, _ in sheet] == [f"item {i}" for i in range(10)]
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["train"]["lr"] == config.train.lr
    assert json.loads((run_dir / "environment.json").read_text())["torch"]
    assert json.loads((model / "training.json").read_text()) == {
        "stage": "base", "global_step": 12, "images_seen": 96,
    }  # fmt: skip
    ema = load_file(run_dir / "checkpoints" / "step-12" / "ema.safetensors")
    exported = load_file(model / "part" / "weights.safetensors")
    assert all(ema[f"module.{name}"].equal(tensor) for name, tensor in exported.items())
    assert [(step, steps) for step, steps, _ in ticks] == [(step, 12) for step in range(1, 13)]


def test_every_row_has_the_contracts_columns(tiny):
    config = tiny(log_every=5)
    train(config, quiet)
    rows = read_metrics(config.run.dir / "metrics.jsonl")
    assert [row["global_step"] for row in rows] == [1, 5, 10]
    assert [row["images_seen"] for row in rows] == [8, 40, 80]
    assert list(rows[0]) == [
        "global_step", "images_seen", "fit", "smooth", "watched", "total", "lr", "grad_norm",
        "images_per_second", "peak_memory_bytes",
    ]  # fmt: skip
    assert all(row["total"] == pytest.approx(row["fit"] + 0.5 * row["smooth"]) for row in rows)
    assert all(row["images_per_second"] > 0 and row["peak_memory_bytes"] > 1e7 for row in rows)


def test_a_finished_run_does_nothing_again(tiny, monkeypatch):
    config = tiny()
    model = train(config, quiet)
    before, said = files(config.run.dir), []
    monkeypatch.setattr(loop, "load_training_set", pytest.fail)
    assert train(config, said.append, pytest.fail) == model
    assert said[0].startswith("1 process, ") and said[0].endswith("precision float32")
    assert files(config.run.dir) == before and "finished at step 12" in said[1]


def test_a_finished_run_writes_a_missing_model_again(tiny):
    config = tiny()
    weights = train(config, quiet) / "part" / "weights.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    (weights.parents[1] / "training.json").unlink()
    train(config, quiet, pytest.fail)
    assert weights.read_bytes() == before


def test_a_longer_run_replaces_the_model(tiny):
    train(tiny(), quiet)
    config = tiny(max_train_steps=14)
    model = train(config, quiet)
    assert json.loads((model / "training.json").read_text())["global_step"] == 14
    assert [row["global_step"] for row in read_metrics(config.run.dir / "metrics.jsonl")] == list(range(1, 15))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"train\.seed: 1, but .*run was begun with 0; .* another run\.dir"),
        ({"lr": 1.0}, r"train\.lr: 1\.0, but .* begun with 0\.01"),
        ({"micro_batch_size": 8}, r"train\.micro_batch_size: 8, but .* begun with 4"),
        ({"lr_schedule": "cosine"}, r"train\.lr_schedule: cosine, but .* begun with constant"),
        ({"max_train_steps": 3}, r"train\.max_train_steps: 3, but .* already at step 12"),
    ],
)
def test_resuming_with_another_meaning_is_refused_and_overwrites_nothing(tiny, change, message):
    config = tiny()
    train(config, quiet)
    before = files(config.run.dir)
    with pytest.raises(UserError, match=message):
        train(tiny(**change), quiet)
    assert files(config.run.dir) == before


def test_seed_and_batch_are_guarded_without_the_recorded_config(tiny):
    config = tiny()
    train(config, quiet)
    (config.run.dir / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"train\.seed: 1, but .* begun with 0"):
        train(tiny(seed=1), quiet)
    with pytest.raises(UserError, match="global batch size: 12, but .* begun with 8"):
        train(tiny(gradient_accumulation_steps=3), quiet)


def test_a_model_without_checkpoints_is_not_begun_anew(tiny):
    config = tiny()
    train(config, quiet)
    shutil.rmtree(config.run.dir / "checkpoints")
    before, said = files(config.run.dir), []
    train(config, said.append, pytest.fail)
    assert "finished at step 12" in said[1]
    with pytest.raises(UserError, match=r"train\.lr: 1\.0, but .* begun with 0\.01"):
        train(tiny(lr=1.0), quiet)
    with pytest.raises(UserError, match="holds a model of step 12 but no complete checkpoint to go on from"):
        train(tiny(max_train_steps=20), quiet)
    assert files(config.run.dir) == before


def test_a_set_that_grew_is_refused(tiny, monkeypatch):
    train(tiny(), quiet)
    monkeypatch.setattr(loop, "load_training_set", lambda config, say, progress: range(24))
    with pytest.raises(UserError, match="data: 24 items, but .* begun with 23, and their order would be another"):
        train(tiny(max_train_steps=20), quiet)


def test_a_checkpoint_of_another_architecture_is_refused(tiny, tiny_stage, monkeypatch):
    config = tiny()
    train(config, quiet)

    class Wider(tiny_stage):
        def __init__(self, *args):
            super().__init__(*args)
            self.network.append(nn.Linear(1, 1))

    monkeypatch.setattr(loop, "create_stage", Wider)
    with pytest.raises(UserError, match=r"model\.safetensors: checkpoint of another architecture \(4\.bias: absent"):
        train(tiny(max_train_steps=20), quiet)


def test_a_damaged_newest_checkpoint_is_passed_over_aloud(tiny, without_time):
    config = tiny()
    train(config, quiet)
    rows, said = read_metrics(config.run.dir / "metrics.jsonl"), []
    (config.run.dir / "checkpoints" / "step-12" / "ema.safetensors").write_bytes(b"torn")
    train(config, said.append)
    assert "step-12: ema.safetensors is damaged; step 12 is passed over" in said[1] and "at step 10" in said[2]
    assert without_time(read_metrics(config.run.dir / "metrics.jsonl")) == without_time(rows)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again(tiny):
    config = tiny()
    train(config, quiet)
    shutil.rmtree(config.run.dir / "model")
    for path in (config.run.dir / "checkpoints").glob("step-*/ema.safetensors"):
        path.write_bytes(b"torn")
    before = (config.run.dir / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="none of its checkpoints can be read, .* or name another run.dir"):
        train(config, quiet)
    assert (config.run.dir / "metrics.jsonl").read_bytes() == before


def test_a_diverging_run_names_term_step_and_log(tiny, tiny_stage, monkeypatch):
    class Diverging(tiny_stage):
        updates = 0

        def loss_terms(self, network, ema, rows, generator):
            self.updates += 1
            terms = super().loss_terms(network, ema, rows, generator)
            return {**terms, "fit": terms["fit"] / (0.0 if self.updates == 13 else 1.0)}

    monkeypatch.setattr(loop, "create_stage", Diverging)
    config = tiny()
    with pytest.raises(NonFiniteError, match=r"fit is inf at global_step 7; the log is .*run/metrics\.jsonl"):
        train(config, quiet)
    assert [row["global_step"] for row in read_metrics(config.run.dir / "metrics.jsonl")] == list(range(1, 7))
    assert not (config.run.dir / "model").exists()


def test_half_precision_without_a_gpu_is_refused(tiny, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(UserError, match=r"train\.mixed_precision: fp16 needs a GPU.*; use bf16 or no"):
        train(tiny(mixed_precision="fp16"), quiet)
    train(tiny(max_train_steps=1), quiet)  # the refusal leaves nothing behind


def test_bfloat16_trains_on_a_cpu(tiny):
    config = tiny(mixed_precision="bf16", max_train_steps=2)
    train(config, quiet)
    assert len(read_metrics(config.run.dir / "metrics.jsonl")) == 2


def test_another_precision_in_one_process_is_a_readable_error(tiny):
    train(tiny(max_train_steps=1), quiet)
    with pytest.raises(UserError, match=r"train\.mixed_precision: bf16 is not possible here \(.*restart"):
        train(tiny(mixed_precision="bf16"), quiet)


def test_a_run_folder_that_is_a_file_is_refused(tiny):
    config = tiny()
    config.run.dir.write_text("mine")
    with pytest.raises(UserError, match=r"run\.dir .*run: not a folder .* \(File exists\)"):
        train(config, quiet)
    assert config.run.dir.read_text() == "mine"


@pytest.fixture
def read_only(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        yield tmp_path
        tmp_path.chmod(0o700)
        return
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system is not allowed")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_read_only_disk_is_refused_before_the_data_are_read(tiny, read_only, monkeypatch):
    monkeypatch.setattr(loop, "load_training_set", pytest.fail)
    with pytest.raises(UserError, match=r"run\.dir .*: not a folder that can be written \(.*\); name another"):
        train(tiny(), quiet)
    assert list(read_only.iterdir()) == []


def test_two_trainings_in_one_folder_are_refused(tiny):
    config, seen = tiny(), []

    def again(step, steps, row):
        with pytest.raises(UserError, match=r"run\.dir .*run: another training is running there"):
            train(config, quiet)
        seen.append(step)

    train(config, quiet, again)
    assert len(seen) == 12


PLACES = [("config.yaml", 0), ("metrics.jsonl", 7), ("step-000006.png", 6), ("step-10", 10), ("run/model", 12)]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "step"), PLACES)
def test_a_full_disk_anywhere_is_named_and_the_run_goes_on_afterwards(
    tiny, tmp_path, monkeypatch, without_time, place, step
):
    """`os.fsync` fails from the first write of `place` on."""
    config = tiny()
    fsync = os.fsync

    def fail_at_place(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        current = len(read_metrics(config.run.dir / "metrics.jsonl"))
        if place in path and current >= step:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail_at_place)
        with pytest.raises(UserError, match=rf"{place}: cannot be written \(No space left on device\)"):
            train(config, quiet)
    assert not list(config.run.dir.rglob("*.tmp"))
    train(config, quiet)
    reference = tiny().model_copy(update={"run": config.run.model_copy(update={"dir": tmp_path / "reference"})})
    train(reference, quiet)
    assert without_time(read_metrics(config.run.dir / "metrics.jsonl")) == without_time(
        read_metrics(reference.run.dir / "metrics.jsonl")
    )


def test_a_run_in_another_thread_works(tiny):
    result = []
    thread = threading.Thread(target=lambda: result.append(train(tiny(max_train_steps=2), quiet)))
    thread.start()
    thread.join()
    assert result[0].is_dir()


def test_the_signal_handler_is_put_back(tiny):
    before = signal.getsignal(signal.SIGINT)
    train(tiny(max_train_steps=1), quiet)
    assert signal.getsignal(signal.SIGINT) is before


def test_importing_the_config_does_not_import_torch():
    code = "import sys, e2ed2.recipe.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tracker_gets_every_logged_row(tiny, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny(log_every=5, trackers=["tensorboard"])
    train(config, quiet)
    [folder] = {path.parent for path in config.run.dir.rglob("events.out.tfevents*") if path.parent.name == "run"}
    events = EventAccumulator(str(folder)).Reload()
    rows = read_metrics(config.run.dir / "metrics.jsonl")
    assert [(event.step, event.value) for event in events.Scalars("total")] == [
        (row["global_step"], pytest.approx(row["total"])) for row in rows
    ]
    assert [event.step for event in events.Images("previews")] == [0, 6, 12], "and every preview"
    with Image.open(config.run.dir / "samples" / "step-000012.png") as preview:
        found = Image.open(io.BytesIO(events.Images("previews")[-1].encoded_image_string))
        assert found.size == preview.size and found.convert("RGB").tobytes() == preview.convert("RGB").tobytes()
    monkeypatch.setattr("e2ed2.training.inputs.get_available_trackers", lambda: [])
    with pytest.raises(UserError, match="train.trackers: tensorboard is not installed; run `pip install tensorboard`"):
        train(config, quiet)
