"""The list of imports in the browser: tabs, filters, rows that follow the service, and actions on one and on many."""

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.console import accessibility_faults, opened
from tests.support.factories import queued, run, user, users
from tests.support.workers import HELD, stuck

READ_KEY = "a-key-that-may-only-read"


async def post(url: str, name: str, n: int) -> None:
    """Posts a file of one user."""
    async with httpx.AsyncClient(base_url=url) as client:
        file = {"file": (name, USERS_HEADER + user_row(n))}
        posted = await client.post(PATH, data={"resource": "users"}, files=file)
    assert posted.status_code == 202, posted.text


def names(page: Page):
    """The file names of the rows."""
    return page.locator("tbody").get_by_role("rowheader").get_by_role("link")


def tab(page: Page, name: str):
    return page.get_by_role("navigation", name="By state").get_by_role("link", name=name)


async def test_tabs_and_filters(service, conn, browser):
    """Tabs have the numbers of imports that match the filters; tab and filters are in the address and survive a reload."""
    for name, records, parameters in (
        ("good.csv", [user(1)], {}),
        ("checked.csv", [user(2)], {"dry_run": True}),
        ("mixed.csv", [user(3), user(4, role="king")], {}),
        ("Bad 50%.csv", [user(5, role="king")], {}),
        ("stopped.csv", [user(6, role="king")], {"max_errors": 0}),
    ):
        await run(conn, await queued(conn, records, file_name=name, **parameters))
    await queued(conn, users(1), file_name="next.csv")
    started = await service(run=["api"])
    async with opened(browser, started.url, "/") as page:
        await expect(names(page)).to_have_text(
            ["next.csv", "stopped.csv", "Bad 50%.csv", "mixed.csv", "checked.csv", "good.csv"]
        )
        for name, number in (
            ("All", 6),
            ("Running", 0),
            ("Waiting", 1),
            ("Partly refused", 1),
            ("All refused", 1),
            ("Failed", 1),
            ("Cancelled", 0),
        ):
            await expect(tab(page, f"{name} {number}").first).to_be_visible()
        await tab(page, "Partly refused").click()
        await expect(names(page)).to_have_text(["mixed.csv"])
        await tab(page, "All 6").click()

        await page.keyboard.press("/")
        await expect(page.get_by_label("Part of the file name")).to_be_focused()
        await page.keyboard.type("50%")
        await page.keyboard.press("Enter")
        await expect(names(page)).to_have_text(["Bad 50%.csv"])
        await expect(tab(page, "All 1").first).to_be_visible()
        await expect(tab(page, "Waiting 0")).to_be_visible()
        await page.reload()
        await expect(names(page)).to_have_text(["Bad 50%.csv"])
        await expect(page.get_by_label("Part of the file name")).to_have_value("50%")

        await page.get_by_label("Kind").select_option("true")
        await expect(page.get_by_role("heading", name="No import matches")).to_be_visible()
        await page.get_by_role("button", name="Show all imports").click()
        await expect(names(page)).to_have_count(6)
        await page.get_by_label("Kind").select_option("Dry runs")
        await expect(names(page)).to_have_text(["checked.csv"])
        await page.keyboard.press("n")
        await expect(page.get_by_role("heading", name="New import")).to_be_visible()
        await page.go_back()
        await expect(names(page)).to_have_text(["checked.csv"])


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_accessibility(service, conn, browser, theme):
    """axe finds nothing on the list, with a selection, on the list without a match, and on the empty one."""
    started = await service(run=["api"])
    async with opened(browser, started.url, "/ui/imports", color_scheme=theme) as page:
        await expect(page.get_by_role("heading", name="No imports yet")).to_be_visible()
        assert await accessibility_faults(page) == []
        await run(conn, await queued(conn, [user(1), user(2, role="king")], file_name="mixed.csv", dry_run=True))
        await queued(conn, users(1), file_name="next.csv")
        await page.reload()
        await page.get_by_label("Select mixed.csv").check()
        assert await accessibility_faults(page) == []
        await tab(page, "Cancelled").click()
        await expect(page.get_by_role("heading", name="No import matches")).to_be_visible()
        assert await accessibility_faults(page) == []


async def test_rows_follow_and_new_imports_wait(service, conn, hold, browser):
    """A shown row changes in place; an import that was posted meanwhile is announced by a button and moves nothing."""
    started = await service(worker_pool_size=1, poll_seconds=0.2)
    async with opened(browser, started.url, "/ui/imports") as page:
        async with hold(HELD):
            first = await queued(conn, [user(1, name=HELD)], file_name="first.csv")
            await stuck(conn, first, 1)
            await page.reload()
            await expect(page.get_by_role("row").filter(has_text="first.csv")).to_contain_text("Running")
            await post(started.url, "second.csv", 2)
            announced = page.get_by_role("button", name="Show 1 new import")
            await expect(announced).to_be_visible()
            await expect(names(page)).to_have_text(["first.csv"])
        await expect(page.get_by_role("row").filter(has_text="first.csv")).to_contain_text("Completed")
        await announced.click()
        await expect(names(page)).to_have_text(["second.csv", "first.csv"])
        await expect(page.get_by_role("row").filter(has_text="second.csv")).to_contain_text("Completed")


async def test_all_that_match_are_deleted(service, conn, browser):
    """The question names the number; imports that are not shown are deleted too, others stay; what fails is listed."""
    for n in range(60):
        await run(conn, await queued(conn, [user(n)], file_name=f"old {n}.csv"))
    await run(conn, await queued(conn, [user(100)], file_name="kept.csv"))
    await queued(conn, [user(101)], file_name="old, waiting.csv")
    started = await service(run=["api"])
    async with opened(browser, started.url, "/ui/imports?name=old") as page:
        await expect(names(page)).to_have_count(50)
        await page.get_by_label("Select all that are shown").check()
        await page.get_by_role("button", name="Select all 61 that match").click()
        await expect(page.locator("main").get_by_text("61 imports selected")).to_be_visible()
        # another client deletes one of them
        await conn.execute("DELETE FROM import_jobs WHERE file_name = 'old 7.csv'")
        selection = page.get_by_role("group", name="Selected imports")
        await selection.get_by_role("button", name="Delete").click()
        dialog = page.get_by_role("dialog", name="Delete 60 imports?")
        await expect(dialog).to_contain_text("1 of the selected cannot be deleted in this state")
        await dialog.get_by_role("button", name="Delete").click()
        progress = page.get_by_role("group", name="Progress of the action")
        await expect(progress).to_contain_text("59 imports deleted, 1 failed")
        await expect(progress.get_by_role("listitem")).to_contain_text("old 7.csv")
        await expect(names(page)).to_have_text(["old, waiting.csv"])
        await progress.get_by_role("button", name="Close").click()
        await expect(page.locator("main").get_by_text("1 import selected")).to_be_visible()
    found = await conn.execute("SELECT file_name FROM import_jobs ORDER BY id")
    assert await found.fetchall() == [("kept.csv",), ("old, waiting.csv",)]


async def test_actions_of_a_row(service, conn, browser):
    """Shift selects a range; a waiting import is cancelled and a final one deleted after a question."""
    await run(conn, await queued(conn, [user(1, role="king")], file_name="bad.csv"))
    await queued(conn, users(1), file_name="next.csv")
    started = await service(run=["api"])
    async with opened(browser, started.url, "/ui/imports") as page:
        await page.get_by_label("Select next.csv").click()
        await page.get_by_label("Select bad.csv").click(modifiers=["Shift"])
        await expect(page.locator("main").get_by_text("2 imports selected")).to_be_visible()
        await page.get_by_role("button", name="Clear the selection").click()
        async with page.expect_download():
            await page.get_by_role("button", name="Download the refused records: bad.csv").click()
        await page.get_by_role("button", name="Cancel: next.csv").click()
        await page.get_by_role("button", name="Cancel the import").click()
        await expect(page.get_by_role("row").filter(has_text="next.csv")).to_contain_text("Cancelled")
        await page.get_by_role("button", name="Delete: bad.csv").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await expect(names(page)).to_have_text(["next.csv"])


async def test_a_file_is_dropped_on_the_window(service, browser):
    """It leads to the page New import, which has the file."""
    started = await service(run=["api"])
    async with opened(browser, started.url, "/ui/imports") as page:
        await expect(page.get_by_role("heading", name="No imports yet")).to_be_visible()
        await page.evaluate(
            """(text) => {
                const dataTransfer = new DataTransfer()
                dataTransfer.items.add(new File([text], "dropped.csv", {type: "text/csv"}))
                document.body.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer}))
            }""",
            (USERS_HEADER + user_row(1)).decode(),
        )
        await page.wait_for_url("**/ui/new")
        await expect(page.locator("main").get_by_text("dropped.csv").first).to_be_visible()


async def test_a_key_that_may_only_read(service, conn, browser):
    """It sees the list and may download; nothing that changes something is offered."""
    await run(conn, await queued(conn, [user(1, role="king")], file_name="bad.csv"))
    started = await service(run=["api"], api_keys=f"view:read:{READ_KEY}")
    async with opened(browser, started.url, "/ui/imports") as page:
        await page.get_by_label("Key", exact=True).fill(READ_KEY)
        await page.get_by_role("button", name="Continue").click()
        row = page.get_by_role("row").filter(has_text="bad.csv")
        await expect(row.get_by_role("button")).to_have_accessible_name("Download the refused records: bad.csv")
        await expect(row.get_by_role("checkbox")).to_be_hidden()
        await names(page).click()
        await expect(page.get_by_role("heading", name="The record was refused")).to_be_visible()
        await expect(page.get_by_role("button", name="Delete")).to_be_hidden()
        async with page.expect_download():
            await page.get_by_role("button", name="Refused records as sent").click()
