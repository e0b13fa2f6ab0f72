"""The page New import: a file becomes an import in four steps, with the mouse and with the keyboard."""

import pytest
from playwright.async_api import Locator, expect

from tests.support.console import accessibility_faults, opened
from tests.support.factories import rows
from tests.support.new_import import FILE, MAPPED, at, button, drop, emails, finished, imports, mode, step


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_a_faulty_file_with_foreign_names_by_mouse(started, browser, conn, theme):
    """The file is dropped on another page, mapped, checked without storing anything, and committed: the valid rows are stored.

    Every step is accessible, and keeps its summary when the next one is there.
    """
    async with opened(browser, started.url, "/ui/resources", color_scheme=theme) as page:
        await drop(page, kunden_csv=FILE)
        await expect(page).to_have_url(f"{started.url}/ui/new")
        await expect(page.get_by_label("Delimiter")).to_have_value(";")
        await expect(page.get_by_label("Resource")).to_have_value("users")
        assert await accessibility_faults(page) == []

        await button(page, "Continue").click()
        await at(page, "Columns")
        await expect(step(page, "File")).to_contain_text("kunden.csv · users · CSV")
        for name, field in MAPPED.items():
            await expect(page.get_by_label(name)).to_have_value(field or "")
        await expect(page.get_by_role("row", name="Имя")).to_contain_text("Nutzer 0")
        await expect(page.locator("main").get_by_text("Guessed")).to_have_count(4)
        await expect(page.locator("main").get_by_text("Left out")).to_have_count(1)
        assert await accessibility_faults(page) == []
        # a field has one column: given to another one it leaves a required field without
        await page.get_by_label("Notiz").select_option("name")
        await expect(page.get_by_label("Имя")).to_have_value("")
        await page.get_by_label("Notiz").select_option("")
        await expect(page.locator("main").get_by_text("no column is name")).to_be_visible()
        await expect(button(page, "Continue")).to_be_disabled()
        await page.get_by_label("Имя").select_option("name")

        await button(page, "Continue").click()
        await at(page, "Check")
        await expect(step(page, "Columns")).to_contain_text("4 columns mapped, 1 left out")
        assert await accessibility_faults(page) == []
        await button(page, "Check the whole file").click()

        await at(page, "Store")
        check = step(page, "Check")
        await expect(check).to_contain_text("12 records checked, 2 refused")
        await expect(check.get_by_role("row", name="invalid_enum")).to_contain_text("12")
        await expect(check.get_by_role("row", name="linus@example").first).to_contain_text("not a valid e-mail address")
        assert await accessibility_faults(page) == []
        assert await emails(conn) == []
        ((dry_run,),) = await rows(conn, "SELECT id FROM import_jobs")
        mend = page.get_by_role("link", name="Mend first")
        await expect(mend).to_have_attribute("href", f"/ui/imports/{dry_run}/mend")

        await button(page, "Commit 10 records").click()
        await finished(page)
        await expect(step(page, "Store")).to_contain_text("Partly refused")
        assert await accessibility_faults(page) == []
    assert await emails(conn) == [f"user{n}@example.org" for n in range(10)]
    assert await imports(conn) == [
        ["users", "completed", True, MAPPED],
        ["users", "completed", False, MAPPED],
    ]


async def test_the_same_by_keyboard_alone(started, browser, conn):
    """Without the mouse: the focus follows the steps, so that each next action is a few keys away."""
    async with opened(browser, started.url, "/ui/imports") as page:
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        await page.keyboard.press("n")
        await expect(button(page, "Choose files")).to_be_visible()
        await tab_to(button(page, "Choose files"))
        async with page.expect_file_chooser() as choosing:
            await page.keyboard.press("Enter")
        await (await choosing.value).set_files([{"name": "kunden.csv", "mimeType": "text/csv", "buffer": FILE}])
        await expect(page.get_by_label("Delimiter")).to_have_value(";")
        await tab_to(button(page, "Continue"))
        await page.keyboard.press("Enter")

        await at(page, "Columns")
        await tab_to(page.get_by_label("Notiz"))
        # the first letter of an option chooses it
        await page.keyboard.press("i")
        await expect(page.get_by_label("Notiz")).to_have_value("id")
        await page.keyboard.press("Home")
        await expect(page.get_by_label("Notiz")).to_have_value("")
        await expect(page.get_by_label("Notiz")).to_be_focused()
        await tab_to(button(page, "Continue"))
        await page.keyboard.press("Enter")

        await at(page, "Check")
        await tab_to(mode(page, "insert"))
        await page.keyboard.press("ArrowDown")
        await expect(mode(page, "skip")).to_be_checked()
        await tab_to(button(page, "Check the whole file"))
        await page.keyboard.press("Enter")

        await at(page, "Store")
        await tab_to(button(page, "Commit"))
        await page.keyboard.press("Enter")
        await finished(page)
    assert len(await emails(conn)) == 10
    assert await rows(conn, "SELECT DISTINCT mode FROM import_jobs") == [("skip",)]


async def tab_to(target: Locator) -> None:
    """Presses Tab until the target has the focus."""
    for _ in range(40):
        if await target.evaluate("element => element === document.activeElement"):
            return
        await target.page.keyboard.press("Tab")
    raise AssertionError(f"{target} cannot be reached with Tab")


async def test_a_refused_parameter_is_reported_at_its_field(started, browser, conn):
    """After a 400 the message and the focus are at the field, and all entries remain. With a corrected value the check runs."""
    async with opened(browser, started.url, "/ui/new") as page:
        await drop(page, kunden_csv=FILE)
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        field = page.get_by_label("Records", exact=True)
        await field.fill("-1")
        await button(page, "Check the whole file").click()
        await expect(field).to_be_focused()
        await expect(field).to_have_attribute("aria-invalid", "true")
        fault = page.locator(f"#{await field.get_attribute('aria-describedby')}")
        await expect(fault).to_contain_text("must be a whole number >= 0")
        assert await accessibility_faults(page) == []
        await field.fill("1")
        await button(page, "Check the whole file").click()
        await at(page, "Store")
        # beyond the budget the dry run has failed, and there is nothing to commit
        await expect(step(page, "Check")).to_contain_text("Failed")
        await expect(button(page, "Commit")).to_have_count(0)
    assert await rows(conn, "SELECT status, max_errors FROM import_jobs") == [("failed", 1)]


async def test_back_keeps_everything_and_an_old_check_is_not_committed(started, browser, conn):
    """Going back, or to another page, loses nothing. What was checked with other options must be checked again."""
    async with opened(browser, started.url, "/ui/new") as page:
        await drop(page, kunden_csv=FILE)
        await button(page, "Continue").click()
        await page.get_by_label("Notiz").select_option("id")
        await page.get_by_label("Notiz").select_option("")
        await button(page, "Continue").click()
        await mode(page, "upsert").check()
        await button(page, "Check the whole file").click()
        await at(page, "Store")
        await page.get_by_role("link", name="Resources").click()
        await expect(page.get_by_role("heading", level=1, name="Resources")).to_be_visible()
        await page.go_back()
        await expect(button(page, "Commit 10 records")).to_be_visible()

        await button(page, "Change: Check").click()
        await expect(mode(page, "upsert")).to_be_checked()
        await mode(page, "update").check()
        await expect(page.locator("main").get_by_text("have changed since this check")).to_be_visible()
        await expect(button(page, "Continue")).to_have_count(0)
        await button(page, "Check again").click()
        await at(page, "Store")
        await expect(page.locator("main").get_by_text("No record can be stored")).to_be_visible()

        await button(page, "Throw away").click()
        await page.get_by_role("dialog").get_by_role("button", name="Throw away").click()
        await finished(page)
    assert [job[:3] for job in await imports(conn)] == [["users", "completed", True]]
    assert await emails(conn) == []


async def test_a_key_that_may_only_read_sends_nothing(service, browser):
    """The page explains it and offers neither check nor import; a file that is dropped on another page is ignored."""
    key = "a-key-that-may-only-read"
    started = await service(run=["api"], api_keys=f"view:read:{key},a-key-that-may-do-all")
    async with opened(browser, started.url, "/ui/resources") as page:
        await page.get_by_label("Key", exact=True).fill(key)
        await button(page, "Continue").click()
        await expect(page.get_by_role("heading", level=1, name="Resources")).to_be_visible()
        await drop(page, kunden_csv=FILE)
        await expect(page).to_have_url(f"{started.url}/ui/resources")
        await page.keyboard.press("n")
        await expect(page.locator("main").get_by_text("This key may only read")).to_be_visible()
        assert await accessibility_faults(page) == []


async def test_another_key_does_not_see_the_files_of_the_one_before(service, browser):
    """A chosen file is kept when the page is left, and discarded when the key is forgotten."""
    keys = ["a-key-of-the-first-user", "a-key-of-the-other-user"]
    started = await service(run=["api"], api_keys=",".join(keys))
    async with opened(browser, started.url, "/ui/new") as page:
        await page.get_by_label("Key", exact=True).fill(keys[0])
        await button(page, "Continue").click()
        await expect(button(page, "Choose files")).to_be_visible()
        await drop(page, kunden_csv=FILE)
        await page.get_by_role("link", name="Resources").click()
        await page.go_back()
        await expect(page.locator("main").get_by_text("kunden.csv")).to_be_visible()
        await button(page, "Forget key").click()
        await page.get_by_label("Key", exact=True).fill(keys[1])
        await button(page, "Continue").click()
        await expect(button(page, "Choose files")).to_be_visible()
        await expect(page.locator("main").get_by_text("kunden.csv")).to_have_count(0)
