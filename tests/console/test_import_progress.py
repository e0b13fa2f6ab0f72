"""The page of a running import: its progress, also after a killed worker, an outage or a broken event stream."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

from playwright.async_api import expect

from db import migrate
from tests.support import postgres_outage
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.console import opened
from tests.support.eventually import eventually
from tests.support.factories import user, users
from tests.support.import_page import STEPWISE, counts, ndjson, post
from tests.support.workers import HELD, stuck

# a second record at which workers stop, as at HELD
HELD_TOO = "2"


async def test_progress_and_cancel(service, conn, hold, browser):
    """Numbers follow the workers without a reload. After a cancel stored records remain, and the others can be downloaded."""
    started = await service(**STEPWISE)
    records = [*users(4), user(5, name=HELD), *users(3, first=6), user(9, name=HELD_TOO), *users(3, first=10)]
    async with AsyncExitStack() as held, AsyncExitStack() as held_too:
        await held.enter_async_context(hold(HELD))
        await held_too.enter_async_context(hold(HELD_TOO))
        id = await post(started.url, ndjson(records), name="users.ndjson")
        await stuck(conn, id, 3)
        async with opened(browser, started.url, f"/ui/imports/{id}") as page:
            await expect(page.get_by_role("heading", name="Importing the records")).to_be_visible()
            assert await counts(page) == {"Created": 4, "Refused": 0, "Left": 8}
            await expect(page).to_have_title("33 % · users.ndjson · Bulk")
            await expect(page.locator("main").get_by_text("1 worker")).to_be_visible()
            await held.aclose()
            await expect(page).to_have_title("66 % · users.ndjson · Bulk")
            assert await counts(page) == {"Created": 8, "Refused": 0, "Left": 4}
            await expect(page.locator("#announcements")).to_have_text("50 % are done.")

            cancel = page.get_by_role("button", name="Cancel", exact=True)
            await cancel.click()
            await page.get_by_role("button", name="Keep as it is").click()
            await expect(cancel).to_be_focused()
            await cancel.click()
            await expect(page.get_by_role("dialog")).to_contain_text("4 records of users.ndjson will not be imported")
            await page.get_by_role("button", name="Cancel the import").click()
            await expect(page.locator("main").get_by_text("It is being cancelled")).to_be_visible()
            await held_too.aclose()
            # the chunk that was begun is finished
            await expect(page.get_by_role("heading", name="Cancelled with 2 records left")).to_be_visible()
            assert await counts(page) == {"Created": 10, "Refused": 0, "Left": 2}
            await expect(page.locator("#announcements")).to_have_text("Cancelled with 2 records left.")
            async with page.expect_download() as downloading:
                await page.get_by_role("button", name="Records that are left").click()
            file = await (await downloading.value).path()
            assert await asyncio.to_thread(Path(file).read_bytes) == ndjson(records[-2:])


async def test_a_worker_is_killed(service, conn, hold, browser):
    """When a worker dies and another takes over, the page shows the import up to its end."""
    started = await service(**{**STEPWISE, "worker_pool_size": 2})
    records = [*users(2), user(3, name=HELD), *users(3, first=4)]
    async with AsyncExitStack() as held:
        await held.enter_async_context(hold(HELD))
        id = await post(started.url, ndjson(records), name="users.ndjson")
        victim = await stuck(conn, id, 2)
        async with opened(browser, started.url, f"/ui/imports/{id}") as page:
            await expect(page).to_have_title("66 % · users.ndjson · Bulk")
            os.kill(victim, signal.SIGKILL)
            await held.aclose()
            await expect(page.get_by_role("heading", name="All 6 records were taken")).to_be_visible()
            assert await counts(page) == {"Created": 6, "Refused": 0, "Left": 0}


async def test_the_database_is_away(tmp_path, browser):
    """The last known state and its time remain visible, and the page continues by itself when the database is back."""
    with postgres_outage.server() as server:
        migrate.up(server.url)
        async with postgres_outage.running(tmp_path, server.url, run=["api"]) as (started, _):
            id = await post(started.url, USERS_HEADER + user_row(1))
            async with opened(browser, started.url, f"/ui/imports/{id}") as page:
                await expect(page.locator("main").get_by_text("No worker is connected.")).to_be_visible()
                server.stop()
                notice = page.locator("main").get_by_text("What you see is from")
                await expect(notice).to_be_visible()
                await expect(page.get_by_role("heading", name="users.csv")).to_be_visible()
                await page.get_by_role("button", name="Cancel").click()
                await page.get_by_role("button", name="Cancel the import").click()
                await expect(page.locator(".toast.bad")).to_be_visible()
                server.start()
                await expect(notice).to_be_hidden()
                await page.get_by_role("button", name="Cancel").click()
                await page.get_by_role("button", name="Cancel the import").click()
                await expect(page.get_by_role("heading", name="Cancelled with 1 record left")).to_be_visible()


async def test_without_a_stream_the_page_polls(service, conn, hold, browser):
    """After the stream has broken twice the page polls with If-None-Match, gets 304, and still sees the end."""
    started = await service(**STEPWISE)
    streams, unchanged = [], []
    async with AsyncExitStack() as held:
        await held.enter_async_context(hold(HELD))
        first = await post(started.url, ndjson([user(1, name=HELD)]), name="first.ndjson")
        await stuck(conn, first, 1)
        id = await post(started.url, ndjson(users(1, first=2)), name="second.ndjson", after=str(first))
        async with opened(browser, started.url, "/ui/service") as page:
            await page.route("**/events", lambda route: route.abort())
            page.on("requestfailed", lambda request: streams.append(request.url) if "/events" in request.url else None)
            page.on("response", lambda answer: unchanged.append(answer.url) if answer.status == 304 else None)
            await page.goto(f"/ui/imports/{id}")
            await expect(page.locator("main").get_by_text(f"It waits for import {first}")).to_be_visible()
            await eventually(lambda: len(unchanged) > 2)
            assert len(streams) == 2
            await held.aclose()
            await expect(page.get_by_role("heading", name="The record was taken")).to_be_visible()
            assert len(streams) == 2
