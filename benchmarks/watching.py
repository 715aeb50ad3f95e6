"""What looking at runs costs: the page of a long run, a list of 200, and a run's time while its page is written.

    python -m benchmarks.watching [--folder DIR] [--training]

One JSON object; `docs/watch.md` tells the figures. Chromium opens the page where there is one.
"""

import argparse
import asyncio
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from fastapi.testclient import TestClient

from benchmarks.served import Server
from e2ed2.emoji.styles import load_style, write_style
from e2ed2.recipe.load import build_config, load_config
from e2ed2.reports.previews import _small
from e2ed2.reports.run_page import write_report
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.system.environment import device_name
from e2ed2.training.journal.state import RunState, write_state
from e2ed2.training.log import write_preview
from e2ed2.training.loop import train
from e2ed2.web.app.build import create_app

NUM_ROWS, NUM_PREVIEWS, NUM_RUNS, NUM_CAPTIONS, SIDE = 10_000, 100, 200, 12, 256
UPDATES, PREVIEW_EVERY = 150, 50  # of the run that is watched


def write_run(folder: Path, num_rows: int, num_previews: int) -> Path:
    """A run folder as a long fine-tune leaves it: rows, and previews of twelve pictures with much detail."""
    folder.mkdir(parents=True)
    terms, train = {"l2": {"weight": 1}, "lpips": {"weight": 1}}, {"max_train_steps": num_rows}
    sections = {"model": {"path": "emoji-lcm"}, "objective": terms, "train": train}
    config = build_config({"stage": "e2ed2", "run": {"dir": folder}, **sections})
    (folder / "config.yaml").write_text(config.to_yaml())
    with (folder / "metrics.jsonl").open("w") as file:
        for i in range(1, num_rows + 1):
            loss = 1 / math.sqrt(i) + 0.05 * math.sin(i * 12.9898)
            row = {"global_step": i, "images_seen": 32 * i, "l2": loss, "lpips": 2 * loss, "total": 3 * loss}
            row |= {"lr": 1e-4, "grad_norm": 1 + loss, "images_per_second": 30.0, "peak_memory_bytes": 2**33}
            file.write(json.dumps(row) + "\n")
    now = time.time()
    state = RunState(
        doing="finished", pid=os.getpid(), host=socket.gethostname(), began=now - 60, now=now, step=num_rows,
        max_steps=num_rows, stage="e2ed2", model="emoji-lcm", data="my_images",
    )  # fmt: skip
    write_state(folder, state)
    generator = torch.Generator().manual_seed(0)
    captions = [f"photograph {i} of a thing, in the light of an afternoon" for i in range(NUM_CAPTIONS)]
    real = textured(generator)
    for i in range(num_previews):
        step = round((i + 1) * num_rows / num_previews) if i else 0
        path = folder / "samples" / f"step-{step:06d}.png"
        write_preview(path, Sheet(captions, {"real": real, "sample": textured(generator)}))
    return folder


def textured(generator: torch.Generator) -> torch.Tensor:
    """uint8 [N, 3, S, S] with detail at every scale, as photographs have: no easy pictures to store."""
    images = torch.zeros(NUM_CAPTIONS, 3, SIDE, SIDE)
    for side in (4, 8, 16, 32, 64, 128, 256):
        noise = torch.randn(NUM_CAPTIONS, 3, side, side, generator=generator) / side**0.5
        images += torch.nn.functional.interpolate(noise, SIDE, mode="bicubic")
    return ((images / images.std() * 0.25 + 0.5).clamp(0, 1) * 255).byte()


def seconds(call: Callable[[], object]) -> float:
    """What a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def opened(page: Path) -> float | None:
    """Seconds until Chromium has loaded a page and drawn it, the least of three; None without Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        return None
    from playwright.async_api import async_playwright

    async def open_it() -> float:
        async with async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
            times = []
            for _ in range(3):
                tab = await browser.new_page()
                started = time.perf_counter()
                await tab.goto(page.as_uri())
                await tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
                times.append(time.perf_counter() - started)
                await tab.close()
            await browser.close()
            return min(times)

    return asyncio.run(open_it())


def listed(folder: Path) -> tuple[float, float]:
    """Seconds, and of them a processor's, of a list of runs that a server has not looked at; the least of several."""
    template = write_run(folder / "template", 100, 1)
    for i in range(NUM_RUNS):
        shutil.copytree(template, folder / "runs" / f"suite-{i % 10}" / f"run-{i}")
    times = []
    for _ in range(5):
        client = TestClient(create_app(folder / "runs", "token", b"k" * 32), base_url="http://127.0.0.1")
        of_cpu, started = time.process_time(), time.perf_counter()
        text = client.get("/?token=token").text
        times.append((time.perf_counter() - started, time.process_time() - of_cpu))
        assert text.count("<tr>") == NUM_RUNS + 1
    return min(times)


def measure_watching(folder: Path) -> dict[str, Any]:
    """A run of the bundled model while two pages of it are open: seconds of a processor that the server takes, and of
    the run that writing its own page takes, as shares of the run's time. On a busy machine these are what can be told.
    """
    images, run = folder / "images", folder / "runs" / "watched"
    write_style(load_style("noto", "train"), images)
    fields = [f"train.max_train_steps={UPDATES}", "train.log_every=1", f"train.preview_every={PREVIEW_EVERY}"]
    fields += ["data.source=folder", f"data.path={images}", "model.path=emoji-lcm", f"run.dir={run}"]
    fields += ["train.micro_batch_size=8"]
    config = load_config(Path("emoji/l2"), fields)
    (folder / "runs").mkdir(exist_ok=True)  # else it says first that there is none
    server = Server("watch", str(folder / "runs"), "--port", "0")
    entry = server.said.split()[-1]
    pages = [subprocess.Popen([sys.executable, "-c", LOOK, entry, run.name]) for _ in range(2)]
    written: list[float] = []
    before, started = cpu_seconds(server.process.pid), time.perf_counter()
    train(config, lambda line: None, show=lambda path: written.append(seconds(lambda: write_report(path))))
    took, used = time.perf_counter() - started, cpu_seconds(server.process.pid) - before
    server.kill()
    for process in pages:
        process.kill()
    return {
        "updates": UPDATES,
        "pages_written": len(written),
        "run_seconds": took,
        "server_cpu_seconds": used,
        "server_share": used / took,
        "writing_seconds": sum(written),
        "writing_share": sum(written) / took,
    }


def cpu_seconds(pid: int) -> float:
    """Seconds of a processor that a process has had."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


LOOK = """
import sys, time, urllib.request as r
opener = r.build_opener(r.HTTPCookieProcessor())
entry, name = sys.argv[1:]
opener.open(entry)
address, due = entry.partition("/?")[0], {"state": 0, "body": 0}
while True:
    for part in due:
        if time.time() >= due[part]:
            try:
                answer = opener.open(f"{address}/{part}/{name}")
                due[part] = time.time() + float(answer.headers["x-next"])
                answer.read()
            except Exception:
                due[part] = time.time() + 2
    time.sleep(0.1)
"""  # what a page that is open asks


def measure(folder: Path) -> dict[str, Any]:
    """The figures, from runs that are made in a folder."""
    run = write_run(folder / "long", NUM_ROWS, NUM_PREVIEWS)
    first = seconds(lambda: write_report(run))
    again = seconds(lambda: write_report(run))
    page = run / "report.html"
    _small.cache_clear()
    return {
        "machine": device_name(),
        "rows": NUM_ROWS,
        "previews": NUM_PREVIEWS,
        "report_first_seconds": first,
        "report_again_seconds": again,
        "report_megabytes": page.stat().st_size / 1e6,
        "report_opens_seconds": opened(page),
        "list_of_200_seconds": listed(folder / "many"),  # by the clock, and of a processor
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--training", action="store_true", help="a run beside open pages too; some minutes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as made:
        print(json.dumps(measure(Path(made)), indent=1))
        if asked.training:
            print(json.dumps(measure_watching(Path(made)), indent=1))
