"""Undo in the pages: it is asked for with the import, confirmed, and shows what was kept."""

import asyncio
from pathlib import Path

from playwright.async_api import expect

from tests.support.api_client import USERS_HEADER, user_row
from tests.support.console import accessibility_faults, opened
from tests.support.factories import rows, stored_article
from tests.support.import_page import STEPWISE, post
from tests.support.new_import import at, button, drop, emails, finished
from tests.support.workers import ended

FILE = USERS_HEADER + b"".join(map(user_row, range(4)))


async def test_an_undo_shows_what_it_kept(service, conn, browser):
    """Kept records are counted and can be downloaded. While others refer to some, the undo can be repeated; then no more."""
    started = await service(**STEPWISE)
    id = await post(started.url, FILE, undoable="true")
    await ended(conn, id)
    ((author,),) = await rows(conn, "SELECT id FROM users WHERE import_record = 3")
    await stored_article(conn, author)
    async with opened(browser, started.url, f"/ui/imports/{id}", accept_downloads=True) as page:
        main = page.locator("main")
        for kept in ("3 removed, 1 kept because others refer to them.", "4 removed."):
            await main.get_by_role("button", name="Undo", exact=True).click()
            await page.get_by_role("dialog").get_by_role("button", name="Undo the import").click()
            await expect(main.get_by_text(f"Records that it created: {kept}")).to_be_visible()
            assert await accessibility_faults(page) == []
            if "kept" in kept:
                async with page.expect_download() as downloading:
                    await main.get_by_role("button", name="List of kept records (CSV)").click()
                file = await (await downloading.value).path()
                content = await asyncio.to_thread(Path(file).read_text)
                assert content == f"line,record,id,reason\n4,3,{author},referred_to\n"
            await conn.execute("DELETE FROM articles")
        await expect(main.get_by_role("button", name="Undo", exact=True)).to_have_count(0)
    assert await emails(conn) == []


async def test_a_new_import_that_can_be_undone(service, conn, browser):
    """The option goes with the commit, not with the check, and does not make the check outdated."""
    started = await service(worker_pool_size=1, poll_seconds=0.2)
    async with opened(browser, started.url, "/ui/new") as page:
        await drop(page, users_csv=FILE)
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        await button(page, "Check the whole file").click()
        await at(page, "Store")
        await button(page, "Change: Check").click()
        await page.get_by_label("Remember which records are created").check()
        await button(page, "Continue").click()
        await button(page, "Commit 4 records").click()
        await finished(page)
    assert await rows(conn, "SELECT dry_run, undoable FROM import_jobs ORDER BY id") == [(True, False), (False, True)]
