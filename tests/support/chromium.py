"""Chromium, driven by Playwright: the installed browser, never a downloaded one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, async_playwright

from tests.support import programs

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def executable() -> str:
    """The path of the installed Chromium. Skips the test when there is none."""
    programs.check("chromium")
    return programs.find("chromium") or ""


@asynccontextmanager
async def launch(*arguments: str) -> AsyncIterator[Browser]:
    """A headless browser, with more command line `arguments` if any, for instance `--host-resolver-rules=…`.

    One context of it (`browser.new_context()`) is a fresh profile; start one browser and open contexts where several are needed.
    """
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable(), args=[*ARGUMENTS, *arguments])
        try:
            yield browser
        finally:
            await browser.close()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser of the test's own. A starting browser takes about half a second.

    It belongs to the event loop of the test, so tests, each of which has its own loop, cannot share it.
    """
    async with launch() as started:
        yield started
