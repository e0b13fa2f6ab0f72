"""Repairs that the mending page sends: of records that are not loaded, after a lost response, and beside another tab."""

import pytest
from playwright.async_api import Route, expect

from tests.support.console import opened
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


async def test_two_tabs(api, browser):
    """A record that another tab has mended is not taken twice: the page reports it and loads those that are still refused."""
    job = await imported(api, HEADER + b"a@example.org,A,boss,true\nb@example.org,B,boss,true\n", "staff.csv")
    path = f"/ui/imports/{job['id']}/mend"
    async with opened(browser, api.service.url, path) as one, opened(browser, api.service.url, path) as other:
        for page in (one, other):
            await cell(page, "role", 2).select_option("reader")
        await cell(other, "name", 3).fill("Bob")
        await send(one, "Send 1 record")
        await expect_numbers(one, "2 refused · 1 taken · 0 edited · 1 untouched")
        await send(other, "Send 2 records")
        await expect(other.get_by_role("alert")).to_contain_text("lines 2")
        await other.get_by_role("button", name="Load what is still refused").click()
        await expect_numbers(other, "2 refused · 1 taken · 1 edited · 0 untouched")
        await expect(cell(other, "name", 3)).to_have_value("Bob")
        await cell(other, "role", 3).select_option("admin")
        await send(other, "Send 1 record")
        await expect(other.locator("main").get_by_text("All records are stored.")).to_be_visible()
    await family(api)
    assert [user[1:3] for user in await stored(api)] == [("A", "reader"), ("Bob", "admin")]
