"""Repairs that the mending page sends: of records that are not loaded, after a lost response, and beside another tab."""

import asyncio

import pytest
from playwright.async_api import Page, Route, expect

from tests.support.console import answered_after, opened
from tests.support.mending import HEADER, call_module, cell, expect_numbers, family, imported, send, stored

pytestmark = pytest.mark.needs("chromium")
SERVICE = {"worker_pool_size": 2}


async def test_a_rule_for_more_records_than_are_loaded(api, browser):
    """If there are more records than can be edited, a rule is applied while they are fetched, and the user confirms their number.

    If the file would be too large, the page shows other ways instead.
    """
    count = 2100
    rows = b"".join(b"u%d@example.org,U,boss,true\n" % n for n in range(count))
    job = await imported(api, HEADER + rows, "staff.csv")
    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        await expect(page.locator("main").get_by_text(f"100 of {count:,}")).to_be_visible()
        await page.get_by_role("button", name="Next").click()
        await expect(cell(page, "email", 102)).to_have_value("u100@example.org")
        await page.get_by_role("button", name="Add a rule").click()
        await page.get_by_label("What to do").select_option(label="Replace a value")
        await page.get_by_label("By", exact=True).select_option("reader")
        await expect(page.locator(".effect")).to_contain_text("200 records change of the 200 loaded so far")
        await page.get_by_role("button", name="Add the rule").click()
        await call_module(page, "mend/repair.js", "({ LIMITS }) => Object.assign(LIMITS, { fileBytes: 1000 })")
        await send(page, "Send all that the rules mend")
        await expect(page.locator("main").get_by_text("too much for a page")).to_be_visible()
        await expect(page.locator("main").get_by_text(f"bulk fix {job['id']}")).to_be_visible()
        await call_module(page, "mend/repair.js", "({ LIMITS }) => Object.assign(LIMITS, { fileBytes: 1e9 })")
        await send(page, "Send all that the rules mend")
        await page.get_by_role("dialog").get_by_role("button", name=f"Send {count:,} records").click()
        await expect(page.locator("main").get_by_text("All records are stored.")).to_be_visible()
    await family(api)
    assert await api.value("SELECT count(*) FROM users WHERE role = 'reader'") == count


async def test_a_lost_response(api, browser):
    """The repair is sent again with the same key, so that it is one import."""
    job = await imported(api, HEADER + b"a@example.org,A,boss,true\n", "staff.csv")
    keys: list[str] = []

    async def lose(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) > 1:
            await route.continue_()
        else:
            await route.fetch()
            await route.abort("connectionreset")

    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        await page.route("**/api/v1/imports", lose)
        await cell(page, "role", 2).select_option("reader")
        await send(page, "Send 1 record")
        await expect(page.locator("main").get_by_text("All records are stored.")).to_be_visible()
    assert len(await family(api)) == 2
    assert keys[0] == keys[1]


TWO = HEADER + b"a@example.org,A,boss,true\nb@example.org,B,boss,true\n"
# requests of the page: for all refused records, and for those that it shows
ALL = "**/failed-records?*limit=1000*"
SHOWN = "**/failed-records?*limit=100"


async def test_two_tabs(api, browser):
    """A record that another tab has mended is not taken twice: the page reports it and loads those that are still refused."""
    job = await imported(api, TWO, "staff.csv")
    path = f"/ui/imports/{job['id']}/mend"
    async with opened(browser, api.service.url, path) as one, opened(browser, api.service.url, path) as other:
        await mend_in_both(one, other)
        await other.get_by_role("button", name="Load what is still refused").click()
        await expect_numbers(other, "2 refused · 1 taken · 1 edited · 0 untouched")
        await expect(cell(other, "name", 3)).to_have_value("Bob")
        await cell(other, "role", 3).select_option("admin")
        await send(other, "Send 1 record")
        await expect(other.locator("main").get_by_text("All records are stored.")).to_be_visible()
    await family(api)
    assert [user[1:3] for user in await stored(api)] == [("A", "reader"), ("Bob", "admin")]


async def mend_in_both(one: Page, other: Page) -> None:
    """Both tabs edit line 2. The first sends it; the other one, which edits line 3 as well, is refused."""
    for page in (one, other):
        await cell(page, "role", 2).select_option("reader")
    await cell(other, "name", 3).fill("Bob")
    await send(one, "Send 1 record")
    await expect_numbers(one, "2 refused · 1 taken · 0 edited · 1 untouched")
    await send(other, "Send 2 records")
    await expect(other.get_by_role("alert")).to_contain_text("lines 2")


async def test_the_edit_of_a_taken_record_does_not_count_while_records_are_loaded(api, browser):
    """The page knows that the record was taken before it has loaded all that are still refused."""
    job = await imported(api, TWO, "staff.csv")
    path = f"/ui/imports/{job['id']}/mend"
    is_checked = asyncio.Event()
    async with opened(browser, api.service.url, path) as one, opened(browser, api.service.url, path) as other:
        await mend_in_both(one, other)
        await other.route(ALL, lambda route: answered_after(route, is_checked))
        await other.get_by_role("button", name="Load what is still refused").click()
        await expect_numbers(other, "2 refused · 1 taken · 1 edited · 0 untouched")
        await expect(other.get_by_role("button", name="Send 1 record")).to_be_enabled()
        async with other.expect_response(ALL):
            is_checked.set()
        await expect_numbers(other, "2 refused · 1 taken · 1 edited · 0 untouched")


async def test_records_that_were_read_before_they_were_taken(api, browser):
    """A response to a request from before the reload arrives after it: the page does not take its records for refused ones."""
    job = await imported(api, TWO, "staff.csv")
    path = f"/ui/imports/{job['id']}/mend"
    is_read, is_reloaded, is_over = asyncio.Event(), asyncio.Event(), asyncio.Event()
    requests: list[Route] = []

    async def hold(route: Route) -> None:
        requests.append(route)
        if len(requests) > 1:
            await answered_after(route, is_over)
            return
        response = await route.fetch()
        is_read.set()
        await is_reloaded.wait()
        await route.fulfill(response=response)
        is_over.set()

    async with opened(browser, api.service.url, path) as one, opened(browser, api.service.url, "/ui/none") as other:
        await other.route(ALL, hold)
        await other.goto(path)
        await is_read.wait()
        await mend_in_both(one, other)
        await other.get_by_role("button", name="Load what is still refused").click()
        await expect(cell(other, "role", 2)).to_have_count(0)
        async with other.expect_response(
            lambda response: response.request == requests[-1].request and len(requests) > 1
        ):
            is_reloaded.set()
        await expect_numbers(other, "2 refused · 1 taken · 1 edited · 0 untouched")


async def test_a_record_is_edited_after_it_was_taken(api, browser):
    """The long text of a record is open when the page learns that another tab has sent the record."""
    job = await imported(api, TWO.replace(b"A", b"long " * 20), "staff.csv")
    path = f"/ui/imports/{job['id']}/mend"
    is_open = asyncio.Event()
    async with opened(browser, api.service.url, path) as one, opened(browser, api.service.url, path) as other:
        await mend_in_both(one, other)
        await other.route(SHOWN, lambda route: answered_after(route, is_open))
        await other.get_by_role("button", name="Load what is still refused").click()
        await other.get_by_label("name, line 2: open the long text").click()
        text = other.get_by_role("textbox", name="name, line 2")
        await text.fill("A")
        is_open.set()
        await expect(other.get_by_label("name, line 2: open the long text")).to_have_count(0)
        await expect_numbers(other, "2 refused · 1 taken · 1 edited · 0 untouched")
        await other.get_by_role("button", name="Use this text").click()
        await expect(text).to_be_hidden()
        await expect_numbers(other, "2 refused · 1 taken · 1 edited · 0 untouched")
        await expect(other.get_by_role("button", name="Send 1 record")).to_be_enabled()


async def test_more_records_than_can_be_loaded_beside_another_tab(api, browser):
    """The page cannot load them all: it removes the edits of the lines that the problem names, and can send the others."""
    # the record that is taken is not on the first page
    rows = b"".join(b"u%d@example.org,U,boss,true\n" % n for n in range(2102))
    job = await imported(api, HEADER + rows, "staff.csv")
    path = f"/ui/imports/{job['id']}/mend"
    async with opened(browser, api.service.url, path) as one, opened(browser, api.service.url, path) as other:
        await cell(other, "role", 2).select_option("reader")
        for page in (one, other):
            await page.get_by_role("button", name="Next").click()
            await cell(page, "role", 102).select_option("reader")
        await send(one, "Send 1 record")
        await expect_numbers(one, "2,102 refused · 1 taken · 0 edited · 2,101 untouched")
        await send(other, "Send 2 records")
        await expect(other.get_by_role("alert")).to_contain_text("lines 102")
        await other.get_by_role("button", name="Load what is still refused").click()
        await expect_numbers(other, "2,102 refused · 1 taken · 1 edited · 2,100 untouched")
        await send(other, "Send 1 record")
        await expect_numbers(other, "2,102 refused · 2 taken · 0 edited · 2,100 untouched")
    await family(api)
