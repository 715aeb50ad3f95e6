"""The system's Chromium, driven by Playwright, and what axe-core finds on a page."""

import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}

in_browser = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]
playwright = pytest.importorskip("playwright.async_api")


@asynccontextmanager
async def browser():
    """Chromium; `new_page(**options)` opens a page of its own context that fails a test where its script does."""
    async with playwright.async_playwright() as driver:
        running = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        problems = []

        async def new_page(**options):
            context = await running.new_context(**({"viewport": DESKTOP, "locale": "en-GB"} | options))
            page = await context.new_page()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda said: problems.append(said.text) if "Content Security" in said.text else None)
            return page

        yield new_page
        await running.close()
        assert problems == []


async def found_by_axe(page) -> list[str]:
    """Every rule that a page breaks, with the first place."""
    await page.evaluate(AXE)
    result = await page.evaluate("rules => axe.run(document, rules)", RULES)
    first = [(violation["id"], violation["nodes"][0]) for violation in result["violations"]]
    return [f"{rule}: {node['html'][:120]} {node['failureSummary'][:200]}" for rule, node in first]


async def is_too_wide(page) -> bool:
    """Whether a page scrolls sideways."""
    return await page.evaluate("document.documentElement.scrollWidth > innerWidth")
