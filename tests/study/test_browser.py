"""The study in a real Chromium: whole studies of several raters at once, and lost connections."""

import asyncio
from collections.abc import Awaitable, Callable

from benchmarks.study.serving import Served
from e2ed2.study.export import read_any_votes
from e2ed2.study.folder import Shown, Study, read_study
from e2ed2.study.store import Store, default_url
from tests.browsing.chromium import PHONE, browser, in_browser
from tests.study.conftest import MODELS

pytestmark = in_browser


def wanted(shown: Shown) -> str:
    """A rater who looks at checks, prefers the first model, and sometimes neither."""
    if shown.expected:
        return shown.expected
    return "none" if int(shown.pair[:4]) % 3 == 0 else "left" if shown.left == MODELS[0] else "right"


async def at_screen(page, number: int) -> None:
    """Wait until a screen is there, and go past what introduces it."""
    await page.wait_for_selector(f'#screen[data-number="{number}"]')
    if await page.locator("[data-do=start]").count():
        await page.click("[data-do=start]")


async def by_mouse(page, choice: str) -> None:
    await page.click(f"#screen [data-choice={choice}]")


async def by_key(page, choice: str) -> None:
    await page.keyboard.press({"left": "1", "right": "2", "none": "x"}[choice])


async def rate(page, study: Study, rater: str, way, between: dict[int, Callable[..., Awaitable[None]]]) -> None:
    """From the guidelines to handing in; `between` happens before the decision on a screen."""
    await page.click("main a.main-action")
    screens = study.raters[rater].screens
    for shown in screens:
        await at_screen(page, shown.number)
        if shown.number in between:
            await between[shown.number](page)
        await way(page, wanted(shown))
    await page.wait_for_selector(f'#screen[data-number="{len(screens)}"]')
    await page.click("#finish button")
    await page.wait_for_selector("text=Handed in")


async def back_and_revise(page) -> None:
    """Two back, another choice, and back to the first again: then forward by itself."""
    here = int(await page.get_attribute("#screen", "data-number"))
    await page.keyboard.press("ArrowLeft")
    await page.wait_for_selector(f'#screen[data-number="{here - 1}"]')
    await page.click("[data-do=back]")
    await page.wait_for_selector(f'#screen[data-number="{here - 2}"]')
    pressed = await page.get_attribute("[data-choice][aria-pressed=true]", "data-choice")
    other = "left" if pressed != "left" else "right"
    await by_key(page, other)
    await page.wait_for_selector(f'#screen[data-number="{here - 1}"]')
    await page.keyboard.press("ArrowLeft")
    await page.wait_for_selector(f'#screen[data-number="{here - 2}"]')
    assert await page.get_attribute("[data-choice][aria-pressed=true]", "data-choice") == other
    await by_key(page, pressed)
    await page.wait_for_selector(f'#screen[data-number="{here - 1}"]')
    await page.keyboard.press("ArrowRight")
    await at_screen(page, here)


async def ask_and_read_the_reply(page) -> None:
    await page.keyboard.press("h")
    await page.fill("#question", "Are shadows part of it?")
    await page.click("#ask button.main-action")
    await page.wait_for_selector("text=Your hand is up")
    await page.wait_for_selector("text=Yes, shadows too", timeout=60_000)
    await page.click("[data-do=read]")
    await page.wait_for_selector("text=Yes, shadows too", state="hidden")


async def reload(page) -> None:
    number = int(await page.get_attribute("#screen", "data-number"))
    await page.reload()
    await at_screen(page, number)


async def lose_the_connection(page) -> None:
    """Two decisions without a connection, on pairs that were fetched before; then it is back."""
    here = int(await page.get_attribute("#screen", "data-number"))
    await page.wait_for_load_state("networkidle")
    await page.context.set_offline(True)
    asyncio.get_running_loop().call_later(6, lambda: asyncio.ensure_future(page.context.set_offline(False)))
    assert here == int(await page.get_attribute("#screen", "data-number"))


async def organise(page, address: str, password: str) -> None:
    """Sign in, wait for the hand, reply, and see the reply there."""
    await page.goto(f"{address}/organiser")
    await page.fill("#password", password)
    await page.click("main button")
    await page.wait_for_selector("text=Are shadows part of it?", timeout=120_000)
    assert (await page.title()).startswith("(1)")
    await page.fill(".hands input", "Yes, shadows too")
    await page.click(".hands button")
    await page.wait_for_selector("text=Replied: Yes, shadows too")


def test_a_whole_study_with_three_raters_and_the_organiser_at_once(folder, served):
    study = read_study(folder[0])

    async def everybody() -> None:
        async with browser() as new_page:
            pages = [await new_page(), await new_page(), await new_page(viewport=PHONE, has_touch=True)]
            for page, link in zip(pages, served.links, strict=True):
                await page.goto(served.address + link)
            await asyncio.gather(
                rate(pages[0], study, "rater-1", by_mouse, {5: reload, 8: lose_the_connection, 20: reload}),
                rate(pages[1], study, "rater-2", by_key, {6: back_and_revise, 15: back_and_revise}),
                rate(pages[2], study, "rater-3", by_mouse, {3: ask_and_read_the_reply}),
                organise(await new_page(), served.address, folder[1]),
            )

    asyncio.run(everybody())
    votes = {(vote.rater, vote.criterion, vote.pair): vote for vote in read_any_votes(folder[0])}
    shown = [(rater.name, screen) for rater in study.raters.values() for screen in rater.screens]
    assert len(votes) == len(shown)
    for rater, screen in shown:
        vote = votes[rater, screen.criterion, screen.pair]
        assert vote.choice == wanted(screen), (rater, screen.number)
        assert vote.revised == (2 if rater == "rater-2" and screen.number in (4, 13) else 0)
        assert 0 < vote.seconds < 60
    store = Store(default_url(folder[0]), study.id, list(study.raters))
    assert store.num_decisions() == len(shown) + 4 and all(each.finished_at for each in store.progress())
    store.close()


def test_the_server_dies_in_the_middle_and_comes_back(folder, served):
    """A choice while nobody answers is kept, the page goes on, and everything is sent afterwards."""

    async def one() -> None:
        async with browser() as new_page:
            page = await new_page()
            await page.goto(f"{served.address}{served.links[0]}/0")
            await at_screen(page, 0)
            await by_key(page, "left")
            await at_screen(page, 1)
            await page.wait_for_load_state("networkidle")
            served.kill()
            await by_key(page, "right")
            await page.wait_for_selector("text=choices are kept on this device")
            again = Served(folder[0], served.port)
            try:
                await at_screen(page, 2)
                await by_key(page, "none")
                await page.wait_for_selector('#screen[data-number="3"]')
                await page.wait_for_selector("#notice", state="hidden", timeout=20_000)
            finally:
                again.kill()

    asyncio.run(one())
    assert [vote.choice for vote in read_any_votes(folder[0])] == ["left", "right", "none"]


def test_a_tab_closed_without_a_connection_loses_nothing(folder, served):
    async def one() -> None:
        async with browser() as new_page:
            page = await new_page()
            address = f"{served.address}{served.links[1]}/0"
            await page.goto(address)
            await at_screen(page, 0)
            await page.wait_for_load_state("networkidle")
            await page.context.set_offline(True)
            await by_mouse(page, "right")
            await page.wait_for_selector('#screen[data-number="1"]')
            context = page.context
            await page.close()
            await context.set_offline(False)
            page = await context.new_page()
            await page.goto(address)
            await page.wait_for_selector('#screen[data-reached="1"]')

    asyncio.run(one())
    assert [vote.choice for vote in read_any_votes(folder[0])] == ["right"]


def test_a_full_store_of_the_browser_loses_nothing(folder, served):
    """A vote is sent, then the store is full: the next one waits in memory for the connection."""

    async def one() -> None:
        async with browser() as new_page:
            page = await new_page()
            await page.goto(f"{served.address}{served.links[0]}/0")
            await at_screen(page, 0)
            await by_mouse(page, "left")
            await at_screen(page, 1)
            await page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); }; }")
            await page.wait_for_load_state("networkidle")
            await page.context.set_offline(True)
            await by_mouse(page, "right")
            await page.wait_for_selector('#screen[data-number="2"]')
            await page.context.set_offline(False)
            await page.wait_for_selector("#notice", state="hidden")

    asyncio.run(one())
    assert [vote.choice for vote in read_any_votes(folder[0])] == ["left", "right"]


def test_answers_of_a_page_in_between_leave_a_vote_to_be_sent_again(folder, served):
    """A sign-in page for the network, then a proxy that refuses, then the server itself."""
    between = [(200, "<h1>sign in</h1>"), (403, "denied"), (409, "{}")]

    async def one() -> None:
        async with browser() as new_page:
            page = await new_page()

            async def answer(route) -> None:
                status, body = between.pop(0)
                await route.fulfill(status=status, body=body)

            await page.route("**/votes/*", answer, times=len(between))
            await page.goto(f"{served.address}{served.links[0]}/0")
            await at_screen(page, 0)
            await by_mouse(page, "right")
            await at_screen(page, 1)
            await page.wait_for_selector("#notice", state="hidden", timeout=20_000)

    asyncio.run(one())
    assert between == [] and [vote.choice for vote in read_any_votes(folder[0])] == ["right"]


def test_a_pause_is_seen_and_ends_by_itself(folder, served):
    study = read_study(folder[0])
    store = Store(default_url(folder[0]), study.id, list(study.raters))

    async def one() -> None:
        async with browser() as new_page:
            page = await new_page()
            await page.goto(f"{served.address}{served.links[0]}/0")
            await at_screen(page, 0)
            store.pause(True)
            await by_mouse(page, "left")
            await page.wait_for_selector("text=The organiser has paused the study")
            assert store.num_decisions() == 0
            store.pause(False)
            await page.wait_for_selector("text=The organiser has paused the study", state="hidden", timeout=20_000)

    asyncio.run(one())
    assert store.num_decisions() == 1
    store.close()


def test_zoom_and_guidelines_by_keyboard(folder, served):
    async def one() -> None:
        async with browser() as new_page:
            page = await new_page()
            await page.goto(f"{served.address}{served.links[0]}/0")
            await at_screen(page, 0)
            await page.keyboard.press("z")
            assert (await page.get_attribute("#zoom img", "src")).endswith("/0/left.png")
            await page.keyboard.press("ArrowRight")
            assert (await page.get_attribute("#zoom img", "src")).endswith("/0/right.png")
            await page.keyboard.press("1")  # looks, and does not vote
            assert (await page.get_attribute("#zoom img", "src")).endswith("/0/left.png")
            await page.keyboard.press("Escape")
            await page.keyboard.press("g")
            await page.wait_for_selector("#guide[open] >> text=How to judge")
            await page.keyboard.press("1")
            await page.keyboard.press("Escape")
            assert await page.get_attribute("#screen", "data-number") == "0"

    asyncio.run(one())
    assert read_any_votes(folder[0]) == []
