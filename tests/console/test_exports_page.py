"""Exports in the browser: a selection is made, streamed or written in the background, and downloaded."""

import asyncio
import csv
import gzip
import io
from pathlib import Path

import httpx
import pytest
from playwright.async_api import expect

from db import queue
from tests.support.console import accessibility_faults, opened
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.exports import EXPORTS, completed, create

KEY = "a-key-for-the-console"
HEADERS = {"X-API-Key": KEY}
USERS = [
    {"email": "ada@example.org", "name": "Ada", "role": "admin", "active": True},
    {"email": "bob@example.org", "name": "=SUM(A1)", "role": "reader", "active": True},
    {"email": "cyd@example.org", "name": "Cyd", "role": "author", "active": False},
]


@pytest.fixture
async def started(service):
    """A service with a key and three users."""
    running = await service(api_keys=KEY, worker_pool_size=2)
    async with httpx.AsyncClient(base_url=running.url, headers=HEADERS, timeout=PATIENCE_SECONDS) as client:
        posted = await client.post(
            "/api/v1/imports", json={"resource": "users", "records": USERS}, headers={"Prefer": "wait=30"}
        )
        assert posted.json()["outcome"] == "success"
    return running


async def enter(page) -> None:
    await page.get_by_label("Key", exact=True).fill(KEY)
    await page.get_by_role("button", name="Continue").click()


async def downloaded(downloading) -> bytes:
    download = await downloading.value
    return await asyncio.to_thread(Path(await download.path()).read_bytes)


async def test_a_selection_is_streamed_and_written(started, browser):
    """The same selection as a download at once and as a file of a job: both have the chosen fields, in the chosen order."""
    async with opened(browser, started.url, "/ui/exports/new?resource=users", accept_downloads=True) as page:
        await enter(page)
        for name in ("id", "active", "created_at", "updated_at"):
            await page.get_by_role("checkbox", name=name, exact=True).uncheck()
        await page.get_by_role("button", name="Move role up").click()
        await page.get_by_label("active", exact=True).first.select_option("true")
        await page.get_by_label("Guard texts").check()
        async with page.expect_download() as downloading:
            await page.get_by_role("button", name="Stream now").click()
        stream = await downloaded(downloading)
        rows = list(csv.DictReader(io.StringIO(stream.decode())))
        assert sorted(row["name"] for row in rows) == ["'=SUM(A1)", "Ada"]
        assert list(rows[0]) == ["email", "role", "name"]

        await page.get_by_label("Packed").select_option("gzip")
        await page.get_by_role("button", name="Write a file in the background").click()
        await expect(page.get_by_role("heading", name="Export of users")).to_be_visible()
        await expect(page.locator("main").get_by_text("Completed")).to_be_visible()
        async with page.expect_download() as downloading:
            await page.get_by_role("button", name="Download").click()
        assert gzip.decompress(await downloaded(downloading)) == stream
        await page.reload()
        await expect(page.locator("main").get_by_text("Completed")).to_be_visible()

        await page.get_by_role("link", name="Exports", exact=True).click()
        await page.get_by_role("button", name="Delete: users").click()
        await page.get_by_role("button", name="Delete", exact=True).click()
        await expect(page.get_by_role("heading", name="No exports yet")).to_be_visible()


async def test_what_has_changed_since_an_export_is_exported(started, browser):
    """The page of an export leads to the next one, which continues from its watermark; that can be turned off."""
    async with (
        httpx.AsyncClient(base_url=started.url, headers=HEADERS, timeout=PATIENCE_SECONDS) as client,
        opened(browser, started.url, "/ui/exports/new?resource=users") as page,
    ):
        first = await completed(client, (await client.post(EXPORTS, json={"resource": "users"})).headers["location"])
        await enter(page)
        await page.goto(f"/ui/exports/{first['id']}")
        await page.get_by_role("link", name="Export what has changed since").click()
        await expect(page.get_by_text("Only records that were stored or changed since")).to_be_visible()
        # it holds for all resources
        await page.get_by_role("radio", name="articles").check()
        await page.get_by_role("radio", name="users").check()
        await page.get_by_role("button", name="Write a file in the background").click()
        await expect(page.get_by_role("heading", name="Export of users")).to_be_visible()
        await expect(page.get_by_text(first["watermark"])).to_be_visible()
        next_one = (await client.get(f"{EXPORTS}/{page.url.rpartition('/')[2]}")).json()
        assert (next_one["resource"], next_one["changed_since"]) == ("users", first["watermark"])

        await page.go_back()
        await page.get_by_role("button", name="All records").click()
        await expect(page.get_by_text("Only records that were stored or changed since")).to_have_count(0)
        await page.get_by_role("button", name="Write a file in the background").click()
        await expect(page.get_by_role("heading", name="Export of users")).to_be_visible()
        all_records = (await client.get(f"{EXPORTS}/{page.url.rpartition('/')[2]}")).json()
        assert (all_records["id"] == next_one["id"], all_records["changed_since"]) == (False, None)


async def test_a_parquet_file_is_not_packed_again(started, browser):
    async with opened(browser, started.url, "/ui/exports/new?resource=users", accept_downloads=True) as page:
        await enter(page)
        await page.get_by_label("Packed").select_option("gzip")
        await page.get_by_role("radio", name="Parquet").check()
        await expect(page.get_by_label("Packed")).to_have_count(0)
        await page.get_by_role("button", name="Write a file in the background").click()
        async with page.expect_download() as downloading:
            await page.get_by_role("button", name="Download").click()
        assert (await downloaded(downloading)).startswith(b"PAR1")


async def test_a_refused_filter_is_reported_at_its_field(started, browser):
    async with opened(browser, started.url, "/ui/exports/new?resource=users") as page:
        await enter(page)
        await page.get_by_label("id", exact=True).first.fill("half-an-id")
        await page.get_by_role("button", name="Stream now").click()
        await expect(page.locator("#filter-id-error")).to_be_visible()
        await expect(page.locator("#filter-id")).to_have_attribute("aria-invalid", "true")


async def test_an_export_whose_rows_are_not_counted_yet(service, conn, browser):
    """The page of an export shows a bar without a value until its worker has reported a total."""
    running = await service(run=["api"])
    id = await create(conn, "users")
    assert await queue.claim(conn, worker="w") is not None
    async with opened(browser, running.url, f"/ui/exports/{id}") as page:
        await expect(page.get_by_role("progressbar", name="Progress of users")).not_to_have_attribute("value", "0")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_pages_are_accessible_and_reload(started, browser, theme):
    """Every page of this group without a fault of axe, at its own address, and no wider than a narrow screen."""
    async with (
        httpx.AsyncClient(base_url=started.url, headers=HEADERS, timeout=PATIENCE_SECONDS) as client,
        opened(browser, started.url, "/ui/service", color_scheme=theme, reduced_motion="reduce") as page,
    ):
        export = (await client.post("/api/v1/exports", json={"resource": "users"})).json()
        await enter(page)
        for path, heading in (
            ("/ui/service", "Service"),
            ("/ui/resources", "Resources"),
            ("/ui/resources/articles", "articles"),
            ("/ui/exports", "Exports"),
            (f"/ui/exports/{export['id']}", "Export of users"),
            ("/ui/exports/new?resource=users", "New export"),
            ("/ui/exports/01a22700-0000-7000-8000-000000000000", "No such export"),
            ("/ui/no/such/page", "No such page"),
        ):
            await page.set_viewport_size({"width": 1280, "height": 900})
            await page.goto(path)
            await expect(page.get_by_role("heading", name=heading, exact=True, level=1)).to_be_visible()
            assert await accessibility_faults(page) == [], path
            await page.set_viewport_size({"width": 320, "height": 900})
            assert await page.evaluate("document.documentElement.scrollWidth") <= 320, path


async def test_only_formats_of_the_service_are_offered(service, browser, tmp_path):
    """Where pyarrow is not installed neither Parquet nor Arrow can be chosen."""
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["pyarrow"] = None\n')
    for path, formats in ((tmp_path, 4), (tmp_path / "none", 6)):
        started = await service(run=["api"], pythonpath=path)
        async with opened(browser, started.url, "/ui/exports/new?resource=users") as page:
            await expect(page.get_by_role("radio", name="XLSX")).to_be_visible()
            await expect(page.locator("input[name=format]")).to_have_count(formats)
