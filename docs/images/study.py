"""The worked example of `docs/study.md`: a study from `create` to the figure, and its pages as pictures.

    PYTHONPATH=. python docs/images/study.py runs/study-example

Raters are simulated (`study/analysis/simulate.py`): what they prefer was chosen here and says nothing of the models.
Takes Chromium, which Playwright's Python package drives.
"""

import asyncio
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.async_api import Page, async_playwright

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from benchmarks.study.serving import Served, play
from e2ed2.study.analysis.analyze import analyze
from e2ed2.study.analysis.report import write_report
from e2ed2.study.analysis.simulate import Population, choose
from e2ed2.study.create import create_study
from e2ed2.study.export import read_any_votes
from e2ed2.study.folder import Study, read_study

MODELS = ("emoji-lcm", "emoji-e2ed2")
GROUPS = {"researcher": 3, "artist": 3, "layperson": 4}
POPULATION = Population(
    {"emoji-lcm": 0.0, "emoji-e2ed2": 0.7}, by_criterion={"alignment": 0.6, "faithfulness": 0.8, "quality": 1.2}
)
HERE = Path(__file__).parent
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
HALFWAY = {1: 132, 2: 97, 3: 121, 4: 64, 5: 88, 7: 31, 8: 12}  # rater -> screens


def main() -> None:
    out = Path(sys.argv[1])
    shown, full = out / "shown", out / "study"
    password = create_study(list(MODELS), full, num_prompts=40, groups=GROUPS)
    shutil.copytree(full, shown)
    asyncio.run(take_pictures(shown, password))
    served = Served(full)
    try:
        play(served, read_study(full), POPULATION)
    finally:
        served.kill()
    found = analyze(read_any_votes(full), MODELS[0])
    write_report(found, f"{full}, simulated raters", full / "analysis")
    shutil.copy(full / "analysis" / "figure.png", HERE / "study_figure.png")


async def take_pictures(folder: Path, password: str) -> None:
    """Light and dark, desktop and phone, of a study that is under way."""
    study, served = read_study(folder), Served(folder)
    try:
        async with async_playwright() as driver:
            chromium = await driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            desktop = await chromium.new_page(viewport=DESKTOP, color_scheme="light", locale="en-GB")
            await half_a_study(desktop, served, study)
            link = served.links[0]
            await look(desktop, f"{served.address}{link}/58", "study_pair")
            dark = {"color_scheme": "dark", "device_scale_factor": 2}
            phone = await chromium.new_page(viewport=PHONE, locale="zh-CN", **dark)
            await look(phone, f"{served.address}{link}/21", "study_phone")
            guide = await chromium.new_page(viewport=PHONE, locale="en-GB", device_scale_factor=2)
            await look(guide, f"{served.address}{served.links[9]}/0", "study_begin")
            organiser = await chromium.new_page(viewport=DESKTOP, color_scheme="dark", locale="en-GB")
            await organiser.goto(f"{served.address}/organiser")
            await organiser.fill("#password", password)
            await organiser.click("main button")
            await look(organiser, f"{served.address}/organiser", "study_organiser")
            await chromium.close()
    finally:
        served.kill()


async def half_a_study(page: Page, served: Served, study: Study) -> None:
    """Some raters are under way, one has a question."""
    for number, count in HALFWAY.items():
        name, link = f"rater-{number:02d}", served.links[number - 1]
        for s in study.raters[name].screens[:count]:
            choice = s.expected or choose(
                POPULATION, 0, rater=name, pair=s.pair, prompt=s.prompt, criterion=s.criterion,
                left=s.left, right=s.right,
            )  # fmt: skip
            seconds = 2.5 + (s.number * 7919 % 50) / 12
            body = {"screen": s.number, "choice": choice, "seconds": seconds}
            done = await page.request.put(f"{served.address}{link}/votes/vote-{s.number:06d}", data=body)
            assert done.ok
    text = "Both show the right thing, but neither in that colour. Which one is better then?"
    question = {"id": "hand-0001", "screen": 31, "text": text}
    await page.request.post(f"{served.address}{served.links[6]}/hands", data=question)


async def look(page: Page, address: str, name: str) -> None:
    """A picture of a page, as PNG of at most 256 colours: a third of the bytes."""
    await page.goto(address)
    await page.wait_for_load_state("networkidle")
    path = HERE / f"{name}.png"
    await page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
