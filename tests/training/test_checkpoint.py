"""Checkpoints, folders and files: complete, atomic, and clear about a full disk."""

import errno
import json
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from e2ed2.system.errors import UserError
from e2ed2.training import checkpoint
from e2ed2.training.checkpoint import (
    TrainState,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    read_data_state,
    read_state,
    save_checkpoint,
)
from e2ed2.training.log import read_metrics

FULL = OSError(errno.ENOSPC, "No space left on device")


def parts(width=4, updates=2):
    """A network, its average and an optimizer that have been through `updates` updates."""
    torch.manual_seed(width)
    network = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    for _ in range(updates):
        network(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update_parameters(network)
    return network, ema, optimizer


def state_at(step, **others):
    fields = {"images_seen": 8 * step, "seed": 0, "global_batch_size": 8, "num_items": 23}
    return TrainState(global_step=step, **{**fields, **others})


def save(folder, step, width=4):
    return save_checkpoint(folder, state_at(step), *parts(width))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_everything_comes_back(tmp_path):
    network, ema, optimizer = parts()
    scaler = torch.amp.GradScaler("cpu", init_scale=32.0)
    state = state_at(7, seed=3)
    path = save_checkpoint(tmp_path, state, network, ema, optimizer, scaler)
    fresh, fresh_ema, fresh_optimizer = parts(updates=0)
    fresh_scaler = torch.amp.GradScaler("cpu")
    load_checkpoint(path, fresh, fresh_ema, fresh_optimizer, fresh_scaler)
    assert same(fresh.state_dict(), network.state_dict()) and same(fresh_ema.state_dict(), ema.state_dict())
    assert fresh_ema.n_averaged == 2 and fresh_scaler.get_scale() == 32.0
    moments, fresh_moments = optimizer.state_dict()["state"], fresh_optimizer.state_dict()["state"]
    assert moments.keys() == fresh_moments.keys() and all(same(moments[k], fresh_moments[k]) for k in moments)
    assert optimizer.state_dict()["param_groups"] == fresh_optimizer.state_dict()["param_groups"]
    assert read_state(path) == state and path.name == "step-7"
    assert [p.name for p in tmp_path.iterdir()] == ["step-7"]


def test_every_process_finds_its_place_in_the_stream_again(tmp_path):
    path = save_checkpoint(tmp_path, state_at(7, num_items=0), *parts(), data_states=[{"batch": 1}, {"batch": 2}])
    assert [read_data_state(path, rank, 2) for rank in range(2)] == [{"batch": 1}, {"batch": 2}]
    with pytest.raises(UserError, match="saved by 2 processes, which share the stream; resume with as many, not 3"):
        read_data_state(path, 0, 3)
    assert read_data_state(save(tmp_path, 8), 0, 3) is None


def test_the_newest_is_found_by_number(tmp_path):
    for step in (5, 100, 20):
        save(tmp_path, step)
    (tmp_path / "step-by-step").mkdir()
    (tmp_path / "step-300-copy").mkdir()
    assert latest_checkpoint(tmp_path, pytest.fail) == tmp_path / "step-100"
    assert latest_checkpoint(tmp_path / "nowhere", pytest.fail) is None


def remove_state(path):
    (path / "state.json").unlink()


def remove_weights(path):
    (path / "ema.safetensors").unlink()


def cut_weights(path):
    os.truncate(path / "model.safetensors", 100)


def flip_bit(path):
    data = bytearray((path / "optimizer.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "optimizer.pt").write_bytes(data)


def cut_state(path):
    os.truncate(path / "state.json", 40)


def empty_state(path):
    (path / "state.json").write_text("[]")


def foreign_state(path):
    values = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**values, "epoch": 3}))


def escaping_name(path):
    values = json.loads((path / "state.json").read_text())
    values["sha256"] = {f"../{path.name}/{name}": digest for name, digest in values["sha256"].items()}
    (path / "state.json").write_text(json.dumps(values))


def unhashed_optimizer(path):
    values = json.loads((path / "state.json").read_text())
    del values["sha256"]["optimizer.pt"]
    (path / "state.json").write_text(json.dumps(values))


def another_step(path):
    values = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**values, "global_step": 9}))


DAMAGES = [remove_state, remove_weights, cut_weights, flip_bit, cut_state, empty_state, foreign_state]
DAMAGES += [escaping_name, unhashed_optimizer, another_step]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda function: function.__name__)
def test_a_damaged_newest_is_passed_over_for_the_one_before_and_named(tmp_path, damage):
    older, newer = save(tmp_path, 5), save(tmp_path, 10)
    damage(newer)
    said = []
    assert latest_checkpoint(tmp_path, said.append) == older
    assert len(said) == 1 and str(newer) in said[0] and "passed over" in said[0]


def test_a_half_written_one_is_ignored_and_named(tmp_path):
    save(tmp_path, 5)
    save(tmp_path, 10).rename(tmp_path / "step-10.tmp")
    said = []
    assert latest_checkpoint(tmp_path, said.append) == tmp_path / "step-5"
    assert said == [f"{tmp_path / 'step-10.tmp'}: half-written, ignored"]


def test_another_architecture_is_refused_by_name_and_shape(tmp_path):
    path = save(tmp_path, 5, width=4)
    with pytest.raises(UserError, match=r"another architecture \(0\.bias: \[4\] float32 in the file, \[6\] float32"):
        load_checkpoint(path, *parts(width=6))
    with pytest.raises(UserError, match=r"another architecture \(0\.bias: \[4\] float32 in the file, absent in the"):
        load_checkpoint(path, nn.Flatten(), *parts()[1:])


def test_another_optimizer_is_refused(tmp_path):
    path, (network, ema, _) = save(tmp_path, 5), parts()
    with pytest.raises(UserError, match=r"optimizer\.pt: not the state of this optimizer"):
        load_checkpoint(path, network, ema, torch.optim.AdamW([network[0].weight]))


def change_moment(path, name, value):
    content = torch.load(path, weights_only=True)
    content["state"][0][name] = value
    torch.save(content, path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("exp_avg", torch.zeros(3, 4)), ("exp_avg_sq", torch.zeros(4, 3, dtype=torch.int64)), ("step", torch.tensor(-3.0))]
    + [("step", 3.0), ("momentum", torch.zeros(4, 3)), ("step", torch.ones(2))],
)
def test_moments_that_do_not_fit_are_refused_before_any_update(tmp_path, name, value):
    path, (network, ema, optimizer) = save(tmp_path, 5), parts(updates=0)
    change_moment(path / "optimizer.pt", name, value)
    with pytest.raises(UserError, match=r"optimizer\.pt: not the state of this optimizer; use another run\.dir"):
        load_checkpoint(path, network, ema, optimizer)
    assert optimizer.state_dict()["state"] == {}


def test_an_optimizer_s_settings_are_the_recipe_s(tmp_path):
    path, (network, ema, optimizer) = save(tmp_path, 5), parts(updates=0)
    content = torch.load(path / "optimizer.pt", weights_only=True)
    content["param_groups"][0] |= {"lr": "fast", "amsgrad": True}
    torch.save(content, path / "optimizer.pt")
    load_checkpoint(path, network, ema, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1 and not optimizer.param_groups[0]["amsgrad"]
    assert optimizer.state_dict()["state"][0]["step"] == 2


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = save(tmp_path, 5)
    torch.save(Evil(), path / "optimizer.pt")
    with pytest.raises(UserError, match="not the state of this optimizer"):
        load_checkpoint(path, *parts())
    assert not (tmp_path / "ran").exists()


def test_pruning_keeps_the_newest_and_removes_what_is_half_written(tmp_path):
    for step in (5, 10, 15):
        save(tmp_path, step)
    (tmp_path / "step-12.tmp").mkdir()
    prune_checkpoints(tmp_path, 15, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-15"]


def test_pruning_never_prefers_a_damaged_later_one_to_the_one_just_saved(tmp_path):
    for step in (5, 7, 10):
        save(tmp_path, step)
    remove_state(tmp_path / "step-10")  # resumed from 5, interrupted at 7
    prune_checkpoints(tmp_path, 7, keep=1)
    assert latest_checkpoint(tmp_path, lambda line: None) == tmp_path / "step-7"


def raises(error):
    def refuse(*args, **kwargs):
        raise error

    return refuse


def torch_save_on_a_full_disk(state, file):
    try:
        raise FULL
    except OSError:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")  # noqa: B904


SAFETENSORS_FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
FAILURES = {
    "weights": (checkpoint, "save_file", raises(SAFETENSORS_FULL)),
    "optimizer": (torch, "save", torch_save_on_a_full_disk),
    "state": (checkpoint, "file_sha256", raises(FULL)),
    "fsync": (os, "fsync", raises(FULL)),
}


@pytest.mark.parametrize("place", FAILURES)
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, place):
    older = save(tmp_path, 5)
    said = r"step-10: cannot be written \(No space left on device.*\); nothing .* lost"
    with monkeypatch.context() as patched, pytest.raises(UserError, match=said):
        patched.setattr(*FAILURES[place])
        save(tmp_path, 10)
    assert list(tmp_path.iterdir()) == [older] and latest_checkpoint(tmp_path, pytest.fail) == older


@pytest.mark.parametrize("free", [4096, 20_480, 36_864, 61_440])  # enough for none, one, two or all but the last file
def test_a_really_full_disk_loses_nothing(small_disk, free):
    older = save(small_disk, 5)
    disk = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(b"\0" * (disk.f_bavail * disk.f_frsize - free))
    with pytest.raises(UserError, match=r"step-10: cannot be written \(No space left on device"):
        save(small_disk, 10, width=450)
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "step-5"]
    assert latest_checkpoint(small_disk, pytest.fail) == older


def test_a_tensor_that_two_names_share_is_saved_once_and_restored_under_both(tmp_path):
    def network(seed):
        torch.manual_seed(seed)
        layer = nn.Linear(2, 2)
        return nn.ModuleList([layer, nn.Sequential(layer, nn.Linear(2, 2))])

    saved, other = network(0), network(1)
    optimizers = [torch.optim.AdamW(n.parameters()) for n in (saved, other)]
    folder = save_checkpoint(tmp_path, state_at(1), saved, saved, optimizers[0])
    assert sorted(load_file(folder / "model.safetensors")) == ["0.bias", "0.weight", "1.1.bias", "1.1.weight"]
    load_checkpoint(folder, other, other, optimizers[1])
    assert all(torch.equal(a, b) for a, b in zip(saved.state_dict().values(), other.state_dict().values(), strict=True))
    assert other[0].weight is other[1][0].weight


@pytest.mark.parametrize("name", ["optimizer.pt", "ema.safetensors", "model.safetensors", "state.json"])
def test_a_pipe_in_a_checkpoint_is_passed_over(tmp_path, name):
    older, newer, said = save(tmp_path, 1), save(tmp_path, 2), []
    (newer / name).unlink()
    os.mkfifo(newer / name)
    assert latest_checkpoint(tmp_path, said.append) == older and len(said) == 1


def test_metrics_that_are_a_pipe_are_none(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert read_metrics(tmp_path / "metrics.jsonl") == []
