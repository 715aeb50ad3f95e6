"""The pictures of `docs/watch.md`: pages of `e2ed2 watch` over two fine-tunes to a style, one of them at work.

    PYTHONPATH=. python docs/images/watch.py runs/watch-example

Takes Chromium, which Playwright's Python package drives, and some minutes of a CPU.
"""

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from playwright.async_api import Page, async_playwright

from e2ed2.emoji.styles import load_style, write_style

HERE = Path(__file__).parent
FIELDS = ["train.max_train_steps=200", "train.preview_every=20", "train.micro_batch_size=8", "train.lr=1e-4"]
RECIPES = {"l2": "emoji/l2", "l2-lpips": "emoji/l2_lpips"}
MODELS = ("emoji-lcm", "emoji-e2ed2", "l2-lpips/model")
E2ED2 = [sys.executable, "-m", "e2ed2.cli"]


def main() -> None:
    out = Path(sys.argv[1])
    if not (out / "images").is_dir():
        write_style(load_style("noto", "train"), out / "images")
    data = ["model.path=emoji-lcm", "data.source=folder", f"data.path={out / 'images'}"]
    for name, recipe in RECIPES.items():
        subprocess.run([*E2ED2, "train", recipe, *data, *FIELDS, f"run.dir={out / 'runs' / name}"], check=True)
    live = [*E2ED2, "train", "emoji/l2_lpips", *data, *FIELDS, "train.seed=1", f"run.dir={out / 'runs' / 'again'}"]
    at_work = subprocess.Popen(live)
    while len([*(out / "runs" / "again" / "samples").glob("*.png")]) < 4 and at_work.poll() is None:
        time.sleep(1)
    server = subprocess.Popen([*E2ED2, "watch", str(out / "runs"), "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        asyncio.run(take_pictures(server.stdout.readline().split()[-1]))
    finally:
        server.kill()
        at_work.terminate()


async def take_pictures(entry: str) -> None:
    """A run at work, in the dark on a phone too; runs side by side; pictures on demand."""
    address = entry.partition("/?")[0]
    async with async_playwright() as driver:
        chromium = await driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = await chromium.new_page(viewport={"width": 1200, "height": 860}, color_scheme="light")
        page.set_default_timeout(300_000)
        await page.goto(entry)
        await page.goto(f"{address}/run/again")
        await look(page, "watch-run")
        await page.goto(f"{address}/beside?run=l2-lpips&run=l2")
        await look(page, "watch-beside")
        await page.goto(f"{address}/try?model={MODELS[0]}&prompt=green+apple")
        for name in MODELS[1:]:
            await page.check(f"input[value='{name}']")
        for prompt in ("snow-capped mountain, noto style", "green apple, twemoji style"):
            await page.fill("#prompt", prompt)
            await page.click("button:text-is('Draw')")
            await page.wait_for_selector("button:text-is('Draw'):enabled")
        await page.set_viewport_size({"width": 1200, "height": 1040})
        await look(page, "watch-try")
        await chromium.close()


async def look(page: Page, name: str) -> None:
    """What is on the screen, as a small PNG."""
    await page.wait_for_load_state("networkidle")
    path = HERE / f"{name}.png"
    await page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(200).save(path, optimize=True)


if __name__ == "__main__":
    main()
