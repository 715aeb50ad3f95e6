"""Files and folders: whole or not at all, whoever else writes there."""

import os
import platform
import signal
import threading

import pytest

from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, atomic_folder, locked, sweep, write_file


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    (tmp_path / "model.tmp").mkdir()
    (tmp_path / "model.tmp" / "left over").touch()
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "model") as folder:
            (folder / content).touch()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), UserError("a bad field"), TypeError()])
def test_what_is_not_the_disks_fault_passes_and_leaves_the_old_folder(tmp_path, error):
    (tmp_path / "model").mkdir()
    with pytest.raises(type(error)) as caught, atomic_folder(tmp_path / "model") as folder:
        (folder / "half").touch()
        raise error
    assert caught.value is error and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_file_is_replaced_whole(tmp_path):
    write_file(tmp_path / "new" / "file", b"old")
    write_file(tmp_path / "new" / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "new").iterdir()] == [("file", b"new")]


def test_a_file_survives_a_full_disk(small_disk):
    write_file(small_disk / "file", b"old")
    with pytest.raises(UserError, match=r"file: cannot be written \(No space left on device\)"):
        write_file(small_disk / "file", b"x" * 200_000)
    assert [(path.name, path.read_bytes()) for path in small_disk.iterdir()] == [("file", b"old")]


def test_two_writers_of_one_file_do_not_meet(tmp_path, monkeypatch):
    with atomic_file(tmp_path / "file") as first:
        monkeypatch.setattr("os.getpid", lambda: 1)
        with atomic_file(tmp_path / "file") as second:
            second.write_bytes(b"second")
        first.write_bytes(b"first")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"first")]


def test_a_lock_waits_for_the_other(tmp_path):
    order = []

    def other():
        with locked(tmp_path):
            order.append("other")

    with locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_a_lock_that_does_not_wait_says_so_and_is_free_again_afterwards(tmp_path):
    with locked(tmp_path, wait=False), pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
        pytest.fail("two in one folder")
    with locked(tmp_path, wait=False):
        pass


def test_what_a_killed_process_had_begun_is_swept_away_and_nothing_else(tmp_path):
    (tmp_path / "shards").mkdir()
    pid = os.fork()
    if pid == 0:
        with atomic_file(tmp_path / "shards" / "a.safetensors") as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    (left,) = (tmp_path / "shards").iterdir()
    elsewhere = left.with_name(left.name.replace(platform.node(), "another-machine"))
    own = tmp_path / ".notes.tmp"
    for path in (elsewhere, own):
        path.touch()
    with atomic_file(tmp_path / "b.safetensors") as temporary:
        temporary.touch()
        sweep(tmp_path)
        assert temporary.exists(), "this process writes it now"
    sweep(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"shards", elsewhere.name, own.name, "b.safetensors"}
