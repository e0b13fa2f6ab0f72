"""The uploads of the page New import, over a bad connection and to a service that refuses them."""

import asyncio

import httpx
from playwright.async_api import Page, expect

from tests.support.console import accessibility_faults, answered_after, opened
from tests.support.eventually import eventually
from tests.support.factories import rows
from tests.support.fault_proxy import fault_proxy
from tests.support.new_import import FILE, HEADER, SOUND, at, button, choose, drop, imports, step


async def test_an_upload_whose_answer_is_lost_is_repeated_and_makes_one_job(started, browser, conn):
    """The service stores the file, and the connection breaks before it answers: the page sends it again with the same key."""
    async with fault_proxy(started.url) as proxy, opened(browser, f"http://127.0.0.1:{proxy.port}", "/ui/new") as page:
        await drop(page, kunden_csv=FILE)
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        # all that is open ends, and of the next connections only the beginning of an answer comes through
        proxy.drop()
        proxy.answer_bytes_max = [200] * 2
        await button(page, "Check the whole file").click()
        await expect(page.locator("main").get_by_text("with the same idempotency key")).to_be_visible()
        await eventually(lambda: proxy.answer_bytes_max == [])
        await at(page, "Store")
    (job,) = await imports(conn)
    assert job[:3] == ["users", "completed", True]
    posted = [line for line in started.api.logged("request") if line["method"] == "POST"]
    assert len(posted) >= 2
    assert {line["status"] for line in posted} <= {200, 202}


async def test_an_upload_can_be_cancelled(started, browser, conn):
    """While bytes move the page shows how many, and the browser asks before it closes the page; cancelled, nothing is there."""
    rows_of_users = "".join(f"User {n};u{n}@example.org;reader;true;\r\n" for n in range(20_000))
    async with opened(browser, started.url, "/ui/new") as page:
        await choose(page, (HEADER + rows_of_users).encode())
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        network = await page.context.new_cdp_session(page)
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 20_000}
        await network.send("Network.emulateNetworkConditions", slow)
        await button(page, "Check the whole file").click()
        await expect(page.locator("main").get_by_text("KB/s")).to_be_visible()
        assert await accessibility_faults(page) == []
        assert await is_asked_before_leaving(page)
        await step(page, "Check").get_by_role("button", name="Cancel").click()
        await expect(button(page, "Check the whole file")).to_be_visible()
        assert not await is_asked_before_leaving(page)
    await eventually(lambda: started.api.logged("request"))
    assert await rows(conn, "SELECT status FROM import_jobs WHERE status <> 'uploading'") == []


async def is_asked_before_leaving(page: Page) -> bool:
    return not await page.evaluate("dispatchEvent(new Event('beforeunload', { cancelable: true }))")


async def test_a_file_that_is_too_large_is_refused_once(service, browser, conn):
    """The service answers 413 while the file is still being sent. The page shows why, and does not send it again."""
    started = await service(run=["api"], upload_max_bytes=1024 * 1024)
    content = (HEADER + SOUND * 20_000).encode()
    async with opened(browser, started.url, "/ui/new") as page:
        await choose(page, content)
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        await button(page, "Check the whole file").click()
        await expect(page.get_by_role("alert")).to_contain_text("1048576")
        await expect(button(page, "Check the whole file")).to_be_enabled()
    assert [line["status"] for line in started.api.logged("request") if line["method"] == "POST"] == [413]


async def test_a_full_queue_is_waited_for(service, browser, conn):
    """The page shows a 429 and sends the file again until there is room. It shows what an import waits for, and can cancel it."""
    started = await service(run=["api"], queue_jobs_max=1)
    async with httpx.AsyncClient(base_url=started.url) as client:
        first = (await client.post("/api/v1/imports", json={"resource": "users", "records": [{}]})).json()
        async with opened(browser, started.url, "/ui/new") as page:
            await drop(page, kunden_csv=FILE)
            await button(page, "Continue").click()
            await button(page, "Continue").click()
            await button(page, "Check the whole file").click()
            check = step(page, "Check")
            await expect(check).to_contain_text("The file is sent again in")
            await client.post(first["links"]["cancel"])
            await button(page, "Send it now").click()
            await expect(check).to_contain_text("no worker")
            # the end of the job is known before the response to the request
            is_shown = asyncio.Event()
            await page.route("**/cancel", lambda route: answered_after(route, is_shown))
            await check.get_by_role("button", name="Cancel").click()
            await expect(check).to_contain_text("Cancelled")
            is_shown.set()
            await at(page, "Store")
            await expect(button(page, "Commit")).to_have_count(0)
    assert [job[1] for job in await imports(conn)] == ["cancelled", "cancelled"]


async def test_a_file_that_was_removed_since_it_was_chosen_is_not_sent_again(started, browser, conn, tmp_path):
    """The browser cannot send it, which looks like a lost connection; the page distinguishes the two."""
    path = tmp_path / "kunden.csv"
    path.write_bytes(FILE)
    async with opened(browser, started.url, "/ui/new") as page:
        async with page.expect_file_chooser() as choosing:
            await button(page, "Choose files").click()
        await (await choosing.value).set_files(path)
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        path.unlink()
        await button(page, "Check the whole file").click()
        await expect(page.get_by_role("alert")).to_contain_text("It was changed or removed meanwhile")
    assert await imports(conn) == []
