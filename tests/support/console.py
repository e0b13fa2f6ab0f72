"""The console in a browser: every page of a test is watched for script errors, policy reports and requests to other hosts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, Route, expect

from tests.support.eventually import PATIENCE_SECONDS

# the browser's messages for error responses that tests cause on purpose; the pages show these errors themselves
_EXPECTED = ("Failed to load resource: the server responded with a status of", "Failed to load resource: net::ERR_")


@asynccontextmanager
async def opened(browser: Browser, url: str, path: str = "/", **options: Any) -> AsyncIterator[Page]:
    """A page of the console in a fresh profile. `options` as for `browser.new_context`, for instance `color_scheme="dark"`.

    At the end: no error in the browser's console, no report of the Content-Security-Policy, no request to another host.
    """
    found: list[str] = []
    context = await browser.new_context(base_url=url, **options)
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    page = await context.new_page()
    # choosers are intercepted from the first listener on; one that opens a moment after that can still be missed
    page.on("filechooser", lambda _: None)
    page.on("console", lambda message: _note(found, message.type, message.text))
    page.on("pageerror", lambda error: found.append(f"script error: {error}"))
    page.on("request", lambda request: _note_request(found, url, request.url))
    try:
        await page.goto(path)
        yield page
    finally:
        await context.close()
    assert found == [], found


async def answered_after(route: Route, event: asyncio.Event) -> None:
    """For `page.route`: the service answers at once, but the page gets the response only after the event."""
    response = await route.fetch()
    await event.wait()
    await route.fulfill(response=response)


def _note(found: list[str], kind: str, text: str) -> None:
    if kind in ("error", "warning") and not text.startswith(_EXPECTED):
        found.append(f"{kind}: {text}")


def _note_request(found: list[str], url: str, requested: str) -> None:
    parts = urlsplit(requested)
    if parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(url).netloc:
        found.append(f"request to another host: {requested}")


async def accessibility_faults(page: Page) -> list[str]:
    """What axe-core finds on the page, one line a rule, from when it has its heading: before, it is empty."""
    await expect(page.locator("h1")).not_to_have_count(0)
    results = await Axe().run(page)
    return [
        f"{violation['id']}: {violation['help']}: {[node['target'] for node in violation['nodes'][:3]]}"
        for violation in results.response["violations"]
    ]
