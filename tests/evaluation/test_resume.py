"""A run of two processes, killed and gone on with by any number, ends with the bytes of one never touched."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from e2ed2.evaluation.evaluate import evaluate
from e2ed2.provenance.label import metadata_label


def untouched(model: Path, protocol: Path, out: Path, num_images: int) -> dict:
    """The same in this process."""
    asked = {"steps": 1, "num_images": num_images, "batch_size": 4, "label": metadata_label()}
    result = evaluate(str(model), str(protocol), out=out, **asked)
    assert result is not None
    return result


def start(model: Path, protocol: Path, out: Path, num_images: int, launch: bool, world: int = 2) -> list:
    """`e2ed2 evaluate` in several processes, by `torchrun` or by the variables that it sets."""
    evaluate = ["-m", "e2ed2.cli", "evaluate", str(model), "--protocol", str(protocol), "--out", str(out)]
    evaluate += ["--num-images", str(num_images), "--steps", "1", "--batch-size", "4", "--json"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared["ACCELERATE_USE_CPU"] = "true"
    if launch:
        how = ["-m", "torch.distributed.run", "--nproc-per-node", str(world), "--master-port", port]
        commands = [([sys.executable, *how, *evaluate], shared)]
    else:
        ranks = [{"RANK": str(k), "LOCAL_RANK": str(k), "WORLD_SIZE": str(world)} for k in range(world)]
        commands = [([sys.executable, *evaluate], shared | rank) for rank in ranks]
    return [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for command, env in commands
    ]


def images(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (out / "images").glob("*.png")}


def finish(processes: list) -> dict:
    """The result that the first process prints; the others print nothing."""
    ends = [process.communicate(timeout=3000) for process in processes]
    assert all(process.returncode == 0 for process in processes), ends[-1][1].decode()[-2000:]
    printed = [line for out, _ in ends for line in out.decode().splitlines() if line.startswith("{")]
    assert len(printed) == 1
    return json.loads(printed[0])


def kill_at(processes: list, out: Path, count: int) -> None:
    """SIGKILL to every process as soon as so many images are there."""
    deadline = time.monotonic() + 3000
    while len(list((out / "images").glob("*.png"))) < count and time.monotonic() < deadline:
        assert any(process.poll() is None for process in processes), "ended before it was killed"
        time.sleep(0.02)
    for process in processes:  # torchrun's workers have process groups of their own
        for each in (*psutil.Process(process.pid).children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_images", "launch", "world"), [(200, False, 3), (200, False, 1), (2000, True, 2)], ids=["200", "alone", "2000"]
)
def test_killed_and_run_again(num_images, launch, world, tiny_model, networks, protocol, tmp_path, one_thread):
    captions = tmp_path / "captions.txt"
    captions.write_text("".join(f"picture {i}\n" for i in range(num_images)))
    path = protocol(prompts={"path": "captions.txt", "num": num_images}, metrics=["clip_score", "fd_dinov2"])
    whole = untouched(tiny_model, path, tmp_path / "whole", num_images)
    killed = tmp_path / "killed"
    kill_at(start(tiny_model, path, killed, num_images, launch), killed, num_images // 4)
    before = images(killed)
    assert num_images // 4 <= len(before) < num_images
    again = finish(start(tiny_model, path, killed, num_images, launch, world))
    after, expected = images(killed), images(tmp_path / "whole")
    assert len(expected) == num_images and after == expected, "none repeated, none missing, the same bytes"
    assert all(after[name] == content for name, content in before.items())
    own = {"images_per_second", "command", "environment"}
    assert {k: v for k, v in again.items() if k not in own} == {k: v for k, v in whole.items() if k not in own}
