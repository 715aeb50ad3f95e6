"""What a run reads back, damaged: passed over, refused in one line, or taken as it is, and trained on."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from e2ed2.recipe.objective import AdversarialConfig
from e2ed2.system.files import file_sha256
from e2ed2.training.checkpoint import (
    FILES,
    STATE_FILE,
    TrainState,
    latest_checkpoint,
    load_checkpoint,
    read_data_state,
    read_state,
    save_checkpoint,
)
from e2ed2.training.log import MetricsFile, read_metrics
from e2ed2.training.loop import WON_FOR
from e2ed2.training.precision import resolve_precision
from e2ed2.training.run_folder import exported_step, find_start, recorded_config
from e2ed2.training.stages.adversary import Adversary
from tests.mangle import bounded_memory, mangled_bytes, mangled_json, mangled_values, read_or_refuse, share_taken, times
from tests.training.conftest import tiny_config

CPU = torch.device("cpu")
PLACE = {"stream": {"epoch": 0, "shard": 1, "item": 2}, "window": 3, "batch": 1, "seen": 9, "skipped": 0}


class Judge(nn.Conv2d):
    def forward(self, maps):
        return [super(Judge, self).forward(x) for x in maps]


class Parts:
    """A network, all that is trained with it, and an update of them."""

    def __init__(self):
        self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.ema = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.optimizer = torch.optim.AdamW(self.network.parameters())
        self.scaler = torch.amp.GradScaler("cpu", init_scale=32.0)
        settings, look = AdversarialConfig(buffer_size=2), lambda stack, generator: [stack.flatten(0, 1)]
        self.adversary = Adversary(settings, Judge(2, 1, 2), CPU, pytest.fail, look)
        self.adversary.remember(torch.ones(2, 1, 2, 4, 4))

    def update(self):
        self.scaler.scale(self.network(torch.randn(5, 3)).square().sum()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update_parameters(self.network)
        terms = self.adversary.loss_terms(self.network, torch.arange(1), torch.Generator())
        terms["discriminator"].backward()
        self.adversary.optimizer.step()

    def load(self, path):
        load_checkpoint(path, self.network, self.ema, self.optimizer, self.scaler, self.adversary)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """Step 5 and step 10, with every file that there can be."""
    folder, parts = tmp_path_factory.mktemp("checkpoints"), Parts()
    parts.update()
    for step in (5, 10):
        state = TrainState(global_step=step, images_seen=8 * step, seed=0, global_batch_size=8, num_items=0)
        trained = (parts.network, parts.ema, parts.optimizer, parts.scaler, parts.adversary)
        save_checkpoint(folder, state, *trained, [PLACE])
    assert {path.name for path in (folder / "step-10").iterdir()} == {*FILES, STATE_FILE}
    return folder


def mangled_file(path: Path, rng: random.Random) -> None:
    """Its values where it is read as values, its header where it has one, or its bytes."""
    content = path.read_bytes()
    if path.suffix == ".json":
        path.write_bytes(mangled_json(json.loads(content), rng))
    elif rng.random() < 0.4:
        path.write_bytes(mangled_bytes(content, rng))
    elif path.suffix == ".pt":
        torch.save(mangled_values(torch.load(path, weights_only=True), rng), path)
    else:
        size = int.from_bytes(content[:8], "little")
        header = mangled_json(json.loads(content[8 : 8 + size]), rng)
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])


@pytest.fixture
def mangled_checkpoint(checkpoints, tmp_path):
    """`mangled_checkpoint(seed)` -> the newest of two, one of its files mangled, and that file's name."""

    def mangle(seed):
        rng, newest = random.Random(seed), tmp_path / "run" / "step-10"
        shutil.rmtree(newest.parent, ignore_errors=True)
        shutil.copytree(checkpoints, newest.parent)
        name = rng.choice((*FILES, STATE_FILE))
        mangled_file(newest / name, rng)
        return newest, name

    return mangle


def test_a_mangled_checkpoint_is_passed_over_for_the_one_before(checkpoints, mangled_checkpoint):
    for seed in times(40):
        newest, name = mangled_checkpoint(seed)
        said = []
        found = latest_checkpoint(newest.parent, said.append)
        if found == newest:  # what may be another number: images, seed, batch size
            same = (newest / name).read_bytes() == (checkpoints / "step-10" / name).read_bytes()
            assert (same or name == STATE_FILE) and said == [] and read_state(newest).global_step == 10
        else:
            assert found == newest.with_name("step-5") and len(said) == 1 and "passed over" in said[0], f"seed {seed}"


def test_a_mangled_checkpoint_of_the_right_hash_is_refused_in_one_line(mangled_checkpoint):
    def read(path):
        parts = Parts()
        parts.load(path)
        assert type(read_data_state(path, 0, 1)) is dict
        parts.update()

    taken = []
    with bounded_memory():
        for seed in times(60):
            newest, name = mangled_checkpoint(seed)
            if name == STATE_FILE:
                continue
            state = json.loads((newest / STATE_FILE).read_text())
            state["sha256"][name] = file_sha256(newest / name)
            (newest / STATE_FILE).write_text(json.dumps(state))
            assert latest_checkpoint(newest.parent, pytest.fail) == newest
            taken.append(read_or_refuse(lambda newest=newest: read(newest), seed))
    assert 0 < sum(taken) < len(taken) * 0.7, "other hyperparameters, or bits of a tensor, are taken"


ROW = {"global_step": 1, "images_seen": 8, "total": 1 / 3, "grad_norm": None, WON_FOR: 2, "lr": 1e-5}
ROW |= {"images_per_second": 2.5, "peak_memory_bytes": 100}


def test_mangled_metrics_are_read_up_to_the_first_foreign_row(tmp_path):
    path, rows = tmp_path / "metrics.jsonl", [{**ROW, "global_step": step} for step in range(1, 6)]
    lines, lengths = [json.dumps(row).encode() + b"\n" for row in rows], set()
    for seed in times(100):
        rng = random.Random(seed)
        whole = rng.randrange(5)
        if rng.random() < 0.5:
            content = b"".join(lines[:whole]) + mangled_json(rows[whole], rng) + b"\n" + b"".join(lines[whole + 1 :])
        else:
            content = b"".join(lines[:whole]) + mangled_bytes(b"".join(lines[whole:]), rng)
        path.write_bytes(content)
        read = read_metrics(path)
        lengths.add(len(read))
        assert read[:whole] == rows[:whole], f"seed {seed}"
        for row in read:
            assert type(row["global_step"]) is int and row["images_per_second"] > 0 and row["peak_memory_bytes"] > 0
            assert all(value is None or type(value) in (int, float) for value in row.values()), f"seed {seed}"
        int(MetricsFile(path, 5).resumed.get(WON_FOR) or 0)  # what the loop does on resume
        assert read_metrics(path) == [row for row in read if row["global_step"] <= 5]
    assert len(lengths) > 2


def test_a_run_folder_of_mangled_files_is_begun_resumed_or_refused_in_one_line(checkpoints, tmp_path):
    config = tiny_config(tmp_path / "run", mixed_precision="no", micro_batch_size=4)
    shutil.copytree(checkpoints, config.run.dir / "checkpoints")
    (config.run.dir / "model").mkdir()
    record, export = yaml.safe_load(config.to_yaml()), {"stage": "base", "global_step": 12, "images_seen": 96}
    auto = config.model_copy(update={"train": config.train.model_copy(update={"mixed_precision": "auto"})})

    def read():
        recorded = recorded_config(config.run.dir)
        assert recorded == {} or recorded["train"]["mixed_precision"] in ("no", "bf16", "fp16")
        assert resolve_precision(auto, recorded, CPU).train.mixed_precision != "auto"
        assert type(exported_step(config.run.dir / "model")) in (int, type(None))
        assert find_start(config, 1, pytest.fail)[1].global_step in (10, 12)

    def damage(rng):
        text = yaml.safe_dump(mangled_values(record, rng) if rng.random() < 0.7 else record, sort_keys=False).encode()
        (config.run.dir / "config.yaml").write_bytes(text if rng.random() < 0.7 else mangled_bytes(text, rng))
        (config.run.dir / "model" / "training.json").write_bytes(mangled_json(export, rng))

    assert 0 < share_taken(damage, read) < 1
