"""A folder of runs as trainings leave them, and its page."""

import json
import os
import socket
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("fastapi", reason="pip install 'e2ed2[web]'")

from fastapi.testclient import TestClient

from e2ed2.recipe.load import build_config
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.training.journal.state import RunState, write_state
from e2ed2.training.log import write_preview
from e2ed2.web.app.build import create_app

TOKEN, KEY, ADDRESS = "the-token", b"k" * 32, "http://127.0.0.1:8765"
HTML = {"accept": "text/html"}
MARKUP = '<script>alert("é")</script>'


def write_run(folder: Path, doing="finished", steps=40, shade=0, captions=("a red fox", MARKUP), **fields) -> Path:
    """A run folder: rows, three previews, a state."""
    folder.mkdir(parents=True)
    train = {"max_train_steps": 40, "lr": fields.pop("lr", 1e-4)}
    sections = {"model": {"path": "emoji-lcm"}, "objective": {"l2": {"weight": 1}}, "train": train}
    (folder / "config.yaml").write_text(build_config({"stage": "e2ed2", "run": {"dir": folder}, **sections}).to_yaml())
    about = {"images_per_second": 32.0, "peak_memory_bytes": 2**30, "lr": 1e-4, "grad_norm": 1.0}
    rows = [{"global_step": i, "images_seen": 8 * i, "l2": 5 / i, "total": 5 / i, **about} for i in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (0, 20, 40):
        pictures = {
            name: torch.full((len(captions), 3, 32, 32), 60 + shade + step, dtype=torch.uint8)
            for name in ("real", "sample")
        }
        write_preview(folder / "samples" / f"step-{step:06d}.png", Sheet(list(captions), pictures))
    now = time.time()
    own = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "began": now - 9,
        "now": now,
        "step": steps,
        "max_steps": 40,
    }
    about = {"stage": "e2ed2", "model": "emoji-lcm", "data": "my_images"}
    write_state(folder, RunState(**{"doing": doing, **own, **about, **fields}))
    return folder


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two finished runs in a folder, one of them within another."""
    folder = tmp_path / "runs"
    write_run(folder / "one")
    write_run(folder / "suite" / "row" / "seed-0", shade=90, lr=5e-5)
    return folder


@pytest.fixture
def stranger(runs, monkeypatch) -> TestClient:
    """A browser that was not let in; what changes is seen at once."""
    monkeypatch.setattr("e2ed2.web.runs.FRESH", 0.0)
    monkeypatch.setattr("e2ed2.web.runs.SHARE", 0.0)
    monkeypatch.setattr("e2ed2.web.app.pages.LEAST", 0.0)
    monkeypatch.setattr("e2ed2.web.app.pages.SHARE", 0.0)
    monkeypatch.setattr("e2ed2.web.painter.Painter.warm", lambda self, name: None)  # the bundled models take seconds
    return TestClient(create_app(runs, TOKEN, KEY), base_url=ADDRESS, headers=HTML)


@pytest.fixture
def client(stranger) -> TestClient:
    """A browser that was let in."""
    assert stranger.get(f"/?token={TOKEN}").status_code == 200
    return stranger
