"""The page of one import in the browser: its numbers and causes, and its actions."""

import asyncio
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.console import accessibility_faults, opened
from tests.support.factories import queued, run, user, users
from tests.support.import_page import STEPWISE, counts, ndjson, post
from tests.support.mending import call_module
from tests.support.workers import ended

KEY = "a-key-for-the-console"


async def enter(page: Page) -> None:
    await page.get_by_label("Key", exact=True).fill(KEY)
    await page.get_by_role("button", name="Continue").click()


async def test_a_faulty_import(service, conn, browser):
    """The numbers are consistent, each cause has a remedy and filters the errors, and the downloads are those of the API."""
    started = await service(api_keys=KEY, **STEPWISE)
    rows = [user_row(n) for n in range(20)]
    rows[4] = rows[5] = b"user4@example.org,Four,boss,true\n"
    rows[13] = b"user13@example.org,,reader,true\n"
    id = await post(started.url, USERS_HEADER + b"".join(rows), key=KEY)
    await ended(conn, id)
    async with opened(browser, started.url, f"/ui/imports/{id}", accept_downloads=True) as page:
        await enter(page)
        await expect(page.get_by_role("heading", name="3 of 20 records were refused")).to_be_visible()
        found = await counts(page)
        assert found == {"Created": 17, "Refused": 3, "Left": 0}

        cause = page.get_by_role("row").filter(has_text="invalid_enum")
        await expect(cause.get_by_role("cell")).to_have_text(
            ["role", "2", "6", "Use one of the values that the message lists.", "Mend these"]
        )
        await expect(cause.get_by_role("link")).to_have_attribute(
            "href", f"/ui/imports/{id}/mend?code=invalid_enum&field=role"
        )
        errors = page.get_by_role("table", name="Errors in the order of the file").locator("tbody").get_by_role("row")
        await expect(errors).to_have_count(3)
        await cause.get_by_role("button", name="Not an allowed value").click()
        await expect(errors).to_have_count(2)
        await page.reload()
        await expect(errors).to_have_count(2)

        # a part of the map shows the errors from its first record on
        await page.get_by_role("button", name="Show all").click()
        await page.get_by_role("img", name="2 parts").locator(".clickable").last.click()
        await expect(errors).to_have_count(1)
        await expect(errors.get_by_role("cell").first).to_have_text("15")
        assert "record=13" in page.url

        async with httpx.AsyncClient(base_url=started.url, headers={"X-API-Key": KEY}) as client:
            for label, path in (
                ("Refused records with their errors", "failed-records?annotate=true"),
                ("Refused records as sent", "failed-records"),
                ("List of errors (CSV)", "errors?format=csv"),
                ("List of errors (NDJSON)", "errors?format=ndjson"),
                ("Results of the records (CSV)", "results?format=csv"),
            ):
                async with page.expect_download() as downloading:
                    await page.get_by_role("button", name=label, exact=True).click()
                file = await (await downloading.value).path()
                content = await asyncio.to_thread(Path(file).read_bytes)
                assert content == (await client.get(f"{PATH}/{id}/{path}")).content


async def test_throughput_and_map_as_tables(service, conn, browser):
    """Ten records were finished each second for 40 seconds: rates are means over 5 s, and faulty lines are at their positions."""
    records = [user(n, role="king" if 200 <= n < 250 else "admin") for n in range(400)]
    id = await queued(conn, records, sizes=[10] * 40)
    await run(conn, id)
    await conn.execute(
        "UPDATE import_jobs SET finished_at = started_at + interval '40 s' WHERE id = %(id)s",
        {"id": id},
    )
    await conn.execute(
        """
        UPDATE chunks
        SET finished_at = started_at + seq * interval '1 s'
        FROM import_jobs
        WHERE job_id = %(id)s AND import_jobs.id = job_id
        """,
        {"id": id},
    )
    started = await service(run=["api"])
    async with opened(browser, started.url, f"/ui/imports/{id}") as page:
        throughput = page.get_by_role("region", name="Records per second")
        text = "Records per second over 40 s: at most 12, of them refused at most 8."
        await expect(throughput.get_by_role("img", name=text)).to_be_visible()
        await throughput.get_by_text("As a table").click()
        rows = throughput.locator("tbody").get_by_role("row")
        # the chunk of second 5 counts for the stretch that begins then, that of second 40 for the last one
        assert [(await row.inner_text()).split("\t") for row in await rows.all()] == [
            ["0 s", "8", "0"],
            ["5 s", "10", "0"],
            ["10 s", "10", "0"],
            ["15 s", "10", "0"],
            ["20 s", "10", "8"],
            ["25 s", "10", "2"],
            ["30 s", "10", "0"],
            ["35 s", "12", "0"],
        ]
        parts = page.get_by_role("region", name="Where in the file")
        text = "The file from record 1 to 400: refused records in 5 parts of 40."
        await expect(parts.get_by_role("img", name=text)).to_be_visible()
        await parts.get_by_text("As a table").click()
        rows = parts.locator("tbody").get_by_role("row")
        await expect(rows.first).to_contain_text("201 to 210")
        await rows.last.get_by_role("button", name="Show errors").click()
        await expect(page.get_by_role("heading", name="Errors", exact=True)).to_be_focused()
        lines = page.get_by_role("table", name="Errors in the order of the file").locator("tbody .line-column")
        await expect(lines).to_have_text([str(line) for line in range(241, 251)])


async def test_causes_that_are_not_listed(service, browser):
    """A table that does not have all causes says how many there are; a complete one says nothing."""
    url = (await service(run=["api"])).url
    async with opened(browser, url, "/ui") as page:
        sentence = "({ listedCauses }, kinds) => listedCauses({ error_summary: [{}, {}], error_kinds: kinds })"
        assert await call_module(page, "causes.js", sentence, 1200) == "The 2 most frequent of 1,200 causes."
        assert await call_module(page, "causes.js", sentence, 2) is None


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_accessibility(service, conn, browser, theme):
    """axe finds nothing on the page of a finished import with all its parts, nor on that of a waiting one."""
    started = await service(**STEPWISE)
    id = await post(started.url, USERS_HEADER + user_row(1) * 2 + b"x,,z,q\n" + user_row(2) * 3, dry_run="true")
    await ended(conn, id)
    async with opened(browser, started.url, f"/ui/imports/{id}", color_scheme=theme) as page:
        await expect(page.get_by_role("heading", name="Errors by cause")).to_be_visible()
        for summary in await page.locator("summary").all():
            await summary.click()
        assert await accessibility_faults(page) == []
    api = await service(run=["api"])
    await started.workers.stop()
    waiting = await post(api.url, USERS_HEADER + user_row(3))
    async with opened(browser, api.url, f"/ui/imports/{waiting}", color_scheme=theme) as page:
        await expect(page.locator("main").get_by_text("No worker is connected.")).to_be_visible()
        assert await accessibility_faults(page) == []


async def test_a_dry_run_is_committed(service, conn, browser):
    """Nothing is stored until the commit. Then the page of the new import opens, and both pages link to each other."""
    started = await service(**STEPWISE)
    id = await post(started.url, USERS_HEADER + user_row(1) + user_row(2) + b"x,,z,q\n", dry_run="true")
    await ended(conn, id)
    async with opened(browser, started.url, f"/ui/imports/{id}") as page:
        await expect(page.locator("main").get_by_text("Nothing has been stored yet.")).to_be_visible()
        await page.get_by_role("button", name="Store the records").click()
        dialog = page.get_by_role("dialog", name="Store 2 records?")
        await expect(dialog).to_contain_text("1 record will be refused again")
        await dialog.get_by_role("button", name="Store the records").click()
        await page.wait_for_url(lambda url: not url.endswith(str(id)))
        # the page of the dry run has the same heading
        await expect(page.locator("main").get_by_text("Nothing has been stored yet.")).to_be_hidden()
        await expect(page.get_by_role("heading", name="1 of 3 records was refused")).to_be_visible()
        stored = await conn.execute("SELECT count(*) FROM users")
        assert await stored.fetchone() == (2,)
        await page.get_by_role("link", name="Dry run").click()
        await expect(page.locator("main").get_by_text("Nothing has been stored yet.")).to_be_visible()
        await page.get_by_role("link", name="Commit").click()
        await expect(page.get_by_role("heading", name="1 of 3 records was refused")).to_be_visible()


async def test_a_failed_import_is_retried(service, conn, browser):
    """The problem is shown with its remedy. A retry opens the page of the new import, which names the first one."""
    started = await service(**STEPWISE)
    records = [user(1), user(2, role="king"), *users(2, first=3)]
    first = await post(started.url, ndjson(records), name="users.ndjson", max_errors="0")
    await ended(conn, first)
    async with opened(browser, started.url, f"/ui/imports/{first}") as page:
        notice = page.locator(".notice.bad")
        await expect(notice).to_contain_text("Too many records were refused")
        await expect(notice).to_contain_text("1 records were refused; the maximum is 0.")
        await expect(notice).to_contain_text("import the file with a larger budget")
        await expect(page.get_by_role("heading", name="Failed with 2 records left")).to_be_visible()
        assert await counts(page) == {"Created": 1, "Refused": 1, "Left": 2}
        await page.get_by_role("button", name="Retry").click()
        await page.wait_for_url(lambda url: not url.endswith(str(first)))
        related = page.get_by_role("region", name="Related imports").get_by_role("listitem")
        await expect(related).to_contain_text(["First import", "This import"])
        await expect(related.first).to_contain_text("4 records · 1 taken · 1 refused · 2 left")
        await related.first.get_by_role("link").click()
        await expect(
            page.get_by_role("region", name="Related imports").get_by_role("link", name="Retry")
        ).to_be_visible()


async def test_progress_of_repairs(service, conn, browser):
    """The page shows how many refused records later imports have taken and how many remain, and links to each import."""
    started = await service(**STEPWISE)
    rows = [user_row(1), b"user2@example.org,Two,boss,true\n", b"user3@example.org,Three,king,true\n"]
    id = await post(started.url, USERS_HEADER + b"".join(rows))
    await ended(conn, id)
    corrected = b"_line," + USERS_HEADER + b"3,user2@example.org,Two,admin,true\n4,user3@example.org,Three,king,true\n"
    repair = await post(started.url, corrected, repairs=str(id))
    await ended(conn, repair)
    async with opened(browser, started.url, f"/ui/imports/{id}") as page:
        sentence = "Later imports have taken 1 of the 2 refused records; 1 is left."
        await expect(page.locator("main").get_by_text(sentence)).to_be_visible()
        await page.get_by_role("link", name="Repair", exact=True).click()
        await expect(page.get_by_role("heading", name="1 of 2 records was refused")).to_be_visible()
        lines = page.get_by_role("table", name="Errors in the order of the file").locator("tbody .line-column")
        await expect(lines).to_have_text(["4"])
        await expect(page.get_by_role("link", name="Mend the refused records")).to_be_visible()
        corrected = b"_line," + USERS_HEADER + b"4,user3@example.org,Three,admin,true\n"
        await ended(conn, await post(started.url, corrected, repairs=str(repair)))
        await page.get_by_role("link", name="First import").click()
        await expect(
            page.locator("main").get_by_text("Later imports have taken all of the refused records.")
        ).to_be_visible()
        await expect(page.get_by_role("link", name="Mend the refused records")).to_be_hidden()


async def test_names_and_values_are_text(service, conn, browser):
    """HTML in the name of the file and in values is shown as it is; values can be hidden."""
    started = await service(**STEPWISE)
    name = '"><img src=x onerror=alert(1)>.csv'
    value = "<b onmouseover=alert(1)>"
    id = await post(started.url, USERS_HEADER + f"user1@example.org,One,{value},true\n".encode(), name=name)
    await ended(conn, id)
    async with opened(browser, started.url, f"/ui/imports/{id}") as page:
        await expect(page.get_by_role("heading", level=1)).to_have_text(name)
        await expect(page).to_have_title(f"{name} · Bulk")
        await expect(page.locator("main .value")).to_have_text(value)
        assert await page.locator("main img, main b[onmouseover]").count() == 0
        await page.get_by_role("button", name="Settings and shortcuts").click()
        await page.get_by_label("Hide the values of records").check()
        await page.get_by_role("button", name="Close").click()
        await expect(page.locator("main .value")).to_have_css("color", "rgba(0, 0, 0, 0)")


async def test_a_deleted_import(service, browser):
    """The page reports that there is no such import, and links to the list."""
    started = await service(run=["api"])
    async with opened(browser, started.url, "/ui/imports/0192f0c1-0000-7000-8000-000000000000") as page:
        await expect(page.get_by_role("heading", name="No such import")).to_be_visible()
        assert await accessibility_faults(page) == []
        await page.get_by_role("link", name="Go to the imports").click()
        await expect(page.get_by_role("heading", name="No imports yet")).to_be_visible()
