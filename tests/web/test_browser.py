"""The page in a real Chromium: a run started, watched, stopped, gone on with, killed, its model tried."""

import asyncio
import json
import os
import signal
import time
from contextlib import suppress

import pytest

from e2ed2.reports.run_page import write_report
from e2ed2.reports.run_state import told
from e2ed2.system.files import locked
from tests.browsing.chromium import DESKTOP, PHONE, browser, found_by_axe, in_browser, is_too_wide
from tests.web.conftest import write_run
from tests.web.served import Watched

pytestmark = in_browser
QUICK = """train.micro_batch_size=4
train.gradient_accumulation_steps=1
train.preview_every=10
train.log_every=1"""
LONG, KILLED_WITHIN = 120_000, 10  # milliseconds for what trains or loads; seconds until a kill is seen


@pytest.fixture
def watched(runs):
    served = Watched(runs)
    yield served
    served.kill()
    for run in runs.glob("*/console.log"):  # trainings outlive it, as they should
        with suppress(ProcessLookupError):
            if told(run.parent).is_live:
                os.kill(told(run.parent).pid, signal.SIGKILL)


async def state_is(page, doing: str, timeout: int = LONG) -> None:
    await page.wait_for_selector(f"#state .chip:text-is('{doing}')", timeout=timeout)


async def fill_start(page, **fields: str) -> None:
    for name, value in fields.items():
        await page.fill(f"#{name}", value)
    await page.click("button:text-is('Look')")
    await page.wait_for_selector("button:text-is('Start it')", timeout=LONG)


def test_a_run_is_started_watched_stopped_gone_on_with_killed_and_tried(watched, runs, tiny_model, pictures):
    run = runs / "mine"

    def step() -> int:
        return json.loads((run / "state.json").read_text())["step"]

    async def somebody() -> None:
        async with browser() as new_page:
            page = await new_page()
            await page.goto(watched.entry)
            await page.click("text=Start a fine-tune")
            await page.click("summary")
            mine = {
                "model": str(tiny_model),
                "data": str(pictures),
                "name": "mine",
                "updates": "50000",
                "overrides": QUICK,
            }
            await fill_start(page, **mine)
            assert "4 images to train on" in await page.inner_text("#answers")
            assert await page.locator("#answers img").count() == 4
            await page.click("button:text-is('Start it')")
            await page.wait_for_url("**/run/mine")
            await state_is(page, "training")
            await page.wait_for_selector("#body .slider:not([hidden])", timeout=LONG)  # the second preview, by itself
            await page.focus(".slider input")
            await page.keyboard.press("Home")
            assert await page.inner_text(".slider output") == "0"
            before = await page.get_attribute("img[data-over]", "src")
            await page.keyboard.press("ArrowRight")
            assert await page.get_attribute("img[data-over]", "src") != before
            await page.click("button:text-is('Save and stop')")
            await state_is(page, "interrupted")
            stopped = step()
            await page.click("button:text-is('Go on')")
            await state_is(page, "training")
            await page.wait_for_function(
                "step => Number(document.querySelector('#state progress')?.value) > step", arg=stopped, timeout=LONG
            )
            os.kill(json.loads((run / "state.json").read_text())["pid"], signal.SIGKILL)
            killed = time.monotonic()
            await state_is(page, "interrupted", timeout=KILLED_WITHIN * 1000)
            print(f"a kill was seen after {time.monotonic() - killed:.1f} s")
            await page.goto(f"{watched.address}/")
            await page.wait_for_selector("tr:has-text('mine') .chip:text-is('interrupted')")

            await page.goto(f"{watched.address}/start")
            await page.click("summary")
            await fill_start(page, **(mine | {"name": "short", "updates": "2"}))
            await page.click("button:text-is('Start it')")
            await state_is(page, "finished")
            await page.click("text=Try its model")
            await page.fill("#prompt", "a red cat")
            await page.check("input[value='emoji-e2ed2']")
            await page.click("button:text-is('Draw')")
            await page.wait_for_selector(".drawn >> nth=1", timeout=LONG)
            async with page.expect_download() as download:
                await page.click(".drawn >> nth=0 >> text=Save")
            assert (await (await download.value).path()).read_bytes().startswith(b"\x89PNG")
            started = time.monotonic()
            await page.click("button:text-is('Draw')")
            await page.wait_for_selector(".drawn >> nth=3", timeout=LONG)
            print(f"two pictures of loaded models took {time.monotonic() - started:.2f} s")

    asyncio.run(somebody())


def test_trainings_outlive_the_server_and_the_page_comes_back(watched, runs):
    run = write_run(runs / "live", "training", steps=20)

    async def somebody() -> None:
        async with browser() as new_page:
            page = await new_page()
            await page.goto(watched.entry)
            await page.goto(f"{watched.address}/run/live")
            await state_is(page, "training")
            watched.kill()
            await page.wait_for_selector("text=The server does not answer", timeout=LONG)
            again = Watched(runs, watched.port)
            try:
                await page.wait_for_selector("#connection", state="hidden", timeout=LONG)
                rows = (run / "metrics.jsonl").read_text().splitlines()
                with (run / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps(json.loads(rows[-1]) | {"global_step": 33}) + "\n")
                await page.wait_for_selector("#state >> text=33 of 40 updates", timeout=LONG)
            finally:
                assert again.stop() == 130

    with locked(run):
        asyncio.run(somebody())


def test_a_report_from_disk_follows_its_run(runs):
    """As a file, without any server: it is written anew, and the page shows it."""
    run = write_run(runs / "live", "training", steps=20)

    async def somebody() -> None:
        async with browser() as new_page:
            page = await new_page()
            with locked(run):
                write_report(run)
                await page.clock.install()
                await page.goto((run / "report.html").as_uri())
                await page.wait_for_selector(".chip:text-is('training')")
                assert "This page follows the run" in await page.inner_text("#age")
                await page.clock.fast_forward(3600_000)
                assert "Nothing was heard since" in await page.inner_text("#age")
            write_report(run)
            await page.clock.fast_forward(25_000)
            await page.wait_for_selector(".chip:text-is('interrupted')")
            assert await page.locator(".slider input").count() == 1 and await found_by_axe(page) == []

    asyncio.run(somebody())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_on_any_page(watched, runs, tiny_model, pictures, scheme, viewport):
    live = write_run(runs / "live", "training", steps=20, seconds_left=600.0)
    write_run(runs / "failed", "failed", why="memory is full: lower train.micro_batch_size")
    (runs / "failed" / "console.log").write_text("error: memory is full\n")
    write_report(runs / "one")

    async def every_page() -> dict[str, list[str]]:
        found = {}
        async with browser() as new_page:
            page = await new_page(viewport=viewport, color_scheme=scheme)

            async def look(name: str) -> None:
                found[name] = await found_by_axe(page)
                assert not await is_too_wide(page), f"{name} scrolls sideways"

            await page.goto(watched.address)
            await look("a closed door")
            await page.goto(watched.entry)
            for path in ("/", "/run/one", "/run/live", "/run/failed", "/beside?run=one&run=live", "/try", "/start",
                         "/run/nothing", "/beside"):  # fmt: skip
                await page.goto(watched.address + path)
                await look(path)
            await page.goto(f"{watched.address}/start")
            await fill_start(page, model=str(tiny_model), data=str(pictures), name="new")
            await look("found")
            await page.goto((runs / "one" / "report.html").as_uri())
            await look("report")
        return found

    with locked(live):
        found = asyncio.run(every_page())
    assert {name: problems for name, problems in found.items() if problems} == {}
