"""The key: asked for when the service wants one, kept for the tab at most, and its role decides what is offered."""

from playwright.async_api import expect

from tests.support.console import accessibility_faults, opened

WRITER = "a-key-that-may-do-all"
READER = "a-key-that-may-only-read"
KEYS = f"ada:admin:{WRITER},view:read:{READER}"


async def test_a_key_is_asked_for_kept_and_forgotten(service, browser):
    """A wrong key is reported at the field. The right one is kept over a reload, in the storage of the tab only."""
    started = await service(run=["api"], api_keys=KEYS)
    async with opened(browser, started.url, "/ui/exports") as page:
        key = page.get_by_label("Key", exact=True)
        assert await accessibility_faults(page) == []
        await key.fill("a-key-that-is-wrong")
        await page.get_by_role("button", name="Continue").click()
        problem = page.locator("#key-problem")
        await expect(problem).to_have_text("This key is not valid.")
        await expect(key).to_be_focused()
        assert await key.get_attribute("aria-describedby") == "key-problem"
        await key.fill(WRITER)
        await key.press("Enter")
        await expect(page.get_by_role("heading", name="No exports yet")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("heading", name="No exports yet")).to_be_visible()
        assert WRITER not in await page.evaluate("JSON.stringify([{...localStorage}, document.cookie, location.href])")
        # unsent corrections of the records of an import
        await page.evaluate("sessionStorage.setItem('bulk.mend.01a2', '{}')")
        await page.get_by_role("button", name="Forget key of ada").click()
        await expect(key).to_be_focused()
        assert await page.evaluate("sessionStorage.length") == 0
        await page.reload()
        await expect(key).to_be_visible()


async def test_a_key_is_not_kept_unless_requested(service, browser):
    started = await service(run=["api"], api_keys=KEYS)
    async with opened(browser, started.url, "/ui/exports") as page:
        await page.get_by_label("Keep it").uncheck()
        await page.get_by_label("Key", exact=True).fill(WRITER)
        await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_role("heading", name="No exports yet")).to_be_visible()
        assert await page.evaluate("sessionStorage.length") == 0
        await page.reload()
        await expect(page.get_by_label("Key", exact=True)).to_be_visible()


async def test_a_key_that_may_only_read_is_offered_nothing_else(service, browser):
    started = await service(run=["api"], api_keys=KEYS)
    async with opened(browser, started.url, "/ui/resources") as page:
        await page.get_by_label("Key", exact=True).fill(READER)
        await page.get_by_role("button", name="Continue").click()
        await expect(page.locator("header").get_by_text("read only")).to_be_visible()
        await expect(page.get_by_role("link", name="Export", exact=True)).to_have_count(3)
        await expect(page.get_by_role("link", name="New import")).to_be_hidden()
        await expect(page.get_by_role("link", name="Import", exact=True)).to_have_count(0)
        await page.get_by_role("link", name="Service").click()
        await expect(page.locator("main").get_by_text("may only read")).to_be_visible()


async def test_the_reference_uses_the_key_of_the_tab(service, browser):
    """Swagger UI shows the document, which needs the key."""
    started = await service(run=["api"], api_keys=KEYS)
    async with opened(browser, started.url, "/ui/service") as page:
        await page.get_by_label("Key", exact=True).fill(READER)
        await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_role("heading", name="Limits")).to_be_visible()
        await page.goto("/docs")
        await expect(page.locator("main").get_by_text("/api/v1/imports", exact=True).first).to_be_visible()
