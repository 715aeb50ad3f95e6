"""Every page in a real Chromium, light and dark, on a desktop and a phone: what axe-core finds, and whether it fits."""

import asyncio

import pytest

from e2ed2.study.folder import read_study
from e2ed2.study.store import Decision, Store, default_url
from tests.browsing.chromium import DESKTOP, PHONE, browser, found_by_axe, in_browser, is_too_wide
from tests.study.test_browser import at_screen

pytestmark = in_browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_on_any_page(folder, served, scheme, viewport):
    study = read_study(folder[0])
    store = Store(default_url(folder[0]), study.id, list(study.raters))
    total = len(study.raters["rater-1"].screens)

    async def every_page() -> dict[str, list[str]]:
        found = {}
        async with browser() as new_page:
            locale = "zh-CN" if scheme == "dark" else "en-GB"
            page = await new_page(viewport=viewport, color_scheme=scheme, locale=locale)

            async def look(name: str) -> None:
                found[name] = await found_by_axe(page)
                assert not await is_too_wide(page), f"{name} scrolls sideways"

            link = served.address + served.links[0]
            await page.goto(link)
            await look("guidelines")
            await page.goto(f"{link}/0")
            await look("interlude")
            await at_screen(page, 0)
            await look("pair")
            for key, name in (("z", "zoom"), ("g", "guide"), ("h", "hand")):
                await page.keyboard.press(key)
                await look(name)
                await page.keyboard.press("Escape")
            await page.keyboard.press("h")
            await page.fill("#question", "?")
            await page.click("#ask button.main-action")
            await page.wait_for_selector("#notice:not([hidden])")
            await look("hand is up")
            store.reply(1, "!")
            await page.goto(f"{link}/0")
            await look("reply")
            for screen in range(total):
                store.decide("rater-1", Decision(f"vote-{screen:04d}", screen, "left", 1.0, 0.0)).result()
            await page.goto(f"{link}/{total}")
            await look("last")
            await page.click("#finish button")
            await look("handed in")
            await page.goto(f"{served.address}/r/nothing")
            await look("no link")
            await page.goto(f"{served.address}/organiser")
            await look("sign in")
            await page.fill("#password", "wrong")
            await page.click("main button")
            await look("wrong password")
            await page.fill("#password", folder[1])
            await page.click("main button")
            store.raise_hand("rater-2", "hand-0002", 0, "Why?")
            await page.goto(f"{served.address}/organiser")
            await look("organiser")
        return found

    found = asyncio.run(every_page())
    store.close()
    assert {name: problems for name, problems in found.items() if problems} == {}
