"""The mending page in a browser: refused records are corrected by hand and by rules, sent as repairs, and stored in the end."""

import asyncio
import re

import pytest
from playwright.async_api import Dialog, Locator, expect

from tests.support.console import accessibility_faults, answered_after, opened
from tests.support.mending import HEADER, add_rule, cell, expect_numbers, family, imported, send, stored

pytestmark = pytest.mark.needs("chromium")
SERVICE = {"worker_pool_size": 2}


async def test_the_main_path(api, browser):
    """Two cells are edited and a rule is added. Records that are refused again show their new errors. In the end all are stored.

    In each repair the errors have the lines of the first file.
    """
    rows = [
        b"ada@example.org,Ada,admin,true\n",
        b"linus@example,Linus,boss,true\n",
        b"grace@example.org,Grace,amdin,true\n",
        b"alan@example.org,Alan,amdin,yes\n",
        b"joan@example.org,,reader,true\n",
    ]
    job = await imported(api, HEADER + b"".join(rows), "staff.csv")
    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        await expect(page.get_by_role("heading", level=1)).to_have_text("Mend staff.csv")
        await expect_numbers(page, "4 refused · 0 taken · 0 edited · 4 untouched")
        await expect(cell(page, "email", 3)).to_have_accessible_description(re.compile("not a valid e-mail address"))
        # another one's address: a new error
        await cell(page, "email", 3).fill("ada@example.org")
        await cell(page, "role", 3).select_option("author")
        await cell(page, "name", 6).fill("Joan")
        await expect_numbers(page, "4 refused · 0 taken · 2 edited · 2 untouched")
        await page.get_by_role("link", name="role Not an allowed value").click()
        await expect(page).to_have_url(re.compile(r"\?code=invalid_enum&field=role$"))
        await expect(cell(page, "name", 6)).to_have_count(0)
        await page.get_by_role("button", name="Add a rule").click()
        await expect(page.get_by_label("What to do")).to_have_value("nearest")
        await expect(page.locator(".effect")).to_have_text("2 records change")
        await page.get_by_role("button", name="Add the rule").click()
        await expect(cell(page, "role", 4)).to_have_value("admin")
        await expect(page.get_by_role("link", name="treated: role Not an allowed value")).to_be_visible()
        await page.get_by_role("link", name="All", exact=False).first.click()
        await send(page, "Send 4 records")
        await expect_numbers(page, "4 refused · 2 taken · 0 edited · 2 untouched")
        await expect(cell(page, "email", 3)).to_have_value("ada@example.org")
        await expect(cell(page, "email", 3)).to_have_accessible_description(re.compile("stored record has this email"))
        await expect(cell(page, "role", 5)).to_have_value("admin")
        await expect(cell(page, "active", 5)).to_have_accessible_description(re.compile("expected true or false"))
        await expect(cell(page, "name", 6)).to_have_count(0)
        await cell(page, "email", 3).fill("linus@example.org")
        await cell(page, "active", 5).select_option("false")
        await send(page, "Send 2 records")
        await expect(page.locator("main").get_by_text("All records are stored.")).to_be_visible()
        await expect_numbers(page, "4 refused · 4 taken · 0 edited · 0 untouched")
    first, second, third = await family(api)
    assert [each["parent_id"] for each in (second, third)] == [first["id"], first["id"]]
    assert [error["line"] for error in await api.errors(second["id"])] == [3, 5]
    assert third["outcome"] == "success"
    assert await stored(api) == [
        ("ada@example.org", "Ada", "admin", True),
        ("alan@example.org", "Alan", "admin", False),
        ("grace@example.org", "Grace", "admin", True),
        ("joan@example.org", "Joan", "reader", True),
        ("linus@example.org", "Linus", "author", True),
    ]


async def test_a_dry_run_is_mended_and_committed(api, browser):
    """The commit of a mended dry run stores its repairs too, each record once."""
    rows = [b"ada@example.org,Ada,admin,true\n", b"grace@example.org,Grace,amdin,true\n"]
    job = await imported(api, HEADER + b"".join(rows), "staff.csv", dry_run="true")
    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        await cell(page, "role", 3).select_option("author")
        await send(page, "Check 1 record")
        await expect(page.locator("main").get_by_text("Nothing is stored yet: this is a dry run.")).to_be_visible()
        assert await stored(api) == []
        await page.get_by_role("button", name="Store 2 records").click()
        await expect(page.locator("main").get_by_text("2 records stored.")).to_be_visible()
    await family(api)
    assert [user[:3] for user in await stored(api)] == [
        ("ada@example.org", "Ada", "admin"),
        ("grace@example.org", "Grace", "author"),
    ]


async def test_a_mended_record_that_its_file_excludes(api, browser):
    """Repairs of a dry run are checked without its records. Records that the commit refuses are mended in its import."""
    rows = [b"ada@example.org,Ada,admin,true\n", b"ada@example,Ada Two,reader,true\n"]
    job = await imported(api, HEADER + b"".join(rows), "staff.csv", dry_run="true")
    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        await cell(page, "email", 3).fill("ada@example.org")
        await send(page, "Check 1 record")
        await page.get_by_role("button", name="Store 2 records").click()
        await expect(page.locator("main").get_by_text("Still refused: 1 record.")).to_be_visible()
        await page.get_by_role("link", name="mend 1 record").click()
        await expect(cell(page, "email", 3)).to_have_accessible_description(re.compile("stored record has this email"))
        await cell(page, "email", 3).fill("ada2@example.org")
        await send(page, "Send 1 record")
        await expect(page.locator("main").get_by_text("All records are stored.")).to_be_visible()
    await family(api)
    assert [user[:2] for user in await stored(api)] == [("ada2@example.org", "Ada Two"), ("ada@example.org", "Ada")]


async def test_by_keyboard_alone(api, browser):
    """Enter moves within the column, Alt-Down to the next error; Esc and Ctrl-Z undo. Records can be mended and sent."""
    rows = [b"a@example.org,A,boss,true\n", b"b@example.org,B,reader,maybe\n", b"c@example,C,reader,true\n"]
    job = await imported(api, HEADER + b"".join(rows), "staff.csv")
    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        await expect(cell(page, "email", 2)).to_be_visible()
        keyboard = page.keyboard

        async def press_until(key: str, target: Locator) -> None:
            for _ in range(100):
                if await target.evaluate("element => element === document.activeElement"):
                    return
                await keyboard.press(key)
            raise AssertionError(target)

        await press_until("Tab", cell(page, "email", 2))
        await keyboard.press("Enter")
        await expect(cell(page, "email", 3)).to_be_focused()
        await keyboard.press("Shift+Enter")
        await expect(cell(page, "email", 2)).to_be_focused()
        await keyboard.press("Alt+ArrowDown")
        await expect(cell(page, "role", 2)).to_be_focused()
        await keyboard.type("reader")
        await expect(cell(page, "role", 2)).to_have_value("reader")
        await keyboard.press("Escape")
        await expect(cell(page, "role", 2)).to_have_value("boss")
        await expect(cell(page, "role", 2)).to_be_focused()
        await keyboard.press("Control+z")
        await expect(cell(page, "role", 2)).to_have_value("reader")
        await keyboard.press("Alt+ArrowDown")
        await expect(cell(page, "active", 3)).to_be_focused()
        await keyboard.type("false")
        await keyboard.press("Alt+ArrowDown")
        await expect(cell(page, "email", 4)).to_be_focused()
        await keyboard.type("c@example.org")
        await keyboard.press("Tab")
        await expect(cell(page, "name", 4)).to_be_focused()
        await keyboard.type("Carol")
        await keyboard.press("Control+z")
        await expect(cell(page, "name", 4)).to_have_value("C")
        await press_until("Shift+Tab", page.get_by_role("button", name="Send 3 records"))
        await keyboard.press("Enter")
        await expect(page.locator("main").get_by_text("All records are stored.")).to_be_visible()
    await family(api)
    assert await stored(api) == [
        ("a@example.org", "A", "reader", True),
        ("b@example.org", "B", "reader", False),
        ("c@example.org", "C", "reader", True),
    ]


async def test_the_last_choice_is_shown(api, browser):
    """The response for a cause that was chosen before arrives after that for the present one."""
    job = await imported(api, HEADER + b"a@example,A,reader,true\nb@example.org,B,boss,true\n", "staff.csv")
    is_shown = asyncio.Event()
    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        await expect(cell(page, "email", 2)).to_be_visible()
        first = "**/failed-records?*field=role*"
        await page.route(first, lambda route: answered_after(route, is_shown))
        async with page.expect_request(first):
            await page.get_by_role("link", name="role Not an allowed value").click()
        await page.get_by_role("link", name=re.compile("^email ")).click()
        await expect(cell(page, "email", 3)).to_have_count(0)
        is_shown.set()
        await page.unroute_all(behavior="wait")
        await expect(cell(page, "email", 2)).to_be_visible()
        await expect(cell(page, "email", 3)).to_have_count(0)


async def test_unsent_edits_survive_a_reload(api, browser):
    """Edits and rules are still there after a reload. The page asks before it is left with them, and only then."""
    job = await imported(api, HEADER + b"a@example,A,amdin,true\nb@example.org,B,amdin,true\n", "staff.csv")
    asked: list[str] = []

    async def answer(dialog: Dialog) -> None:
        asked.append(dialog.type)
        await (dialog.dismiss() if dialog.type == "confirm" else dialog.accept())

    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        page.on("dialog", answer)
        await cell(page, "email", 2).fill("a@example.org")
        await add_rule(page, Column="role", What_to_do="Replace a value", Replace="amdin", By="author")
        await page.get_by_label("Leave out the record of line 3").click()
        await expect_numbers(page, "2 refused · 0 taken · 1 edited · 1 left out · 0 untouched")
        await page.reload()
        await expect_numbers(page, "2 refused · 0 taken · 1 edited · 1 left out · 0 untouched")
        await expect(cell(page, "email", 2)).to_have_value("a@example.org")
        await expect(cell(page, "role", 2)).to_have_value("author")
        await page.get_by_role("link", name="Resources").click()
        await expect(page).to_have_url(re.compile("/mend$"))
        assert asked == ["beforeunload", "confirm"]
        await page.get_by_role("button", name="Remove the rule").click()
        await cell(page, "email", 2).press("Escape")
        await expect_numbers(page, "2 refused · 0 taken · 0 edited · 1 left out · 1 untouched")
        await page.get_by_role("link", name="Imports", exact=True).click()
        await expect(page).to_have_url(re.compile("/ui/imports$"))
        assert asked == ["beforeunload", "confirm"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_accessibility(api, browser, scheme):
    """axe-core finds nothing: the grid, the form of a rule, a large text, the end."""
    rows = [
        b"a@example,%b,boss,maybe\n" % (b"long " * 100),
        b"b@example.org,B,amdin\n",
        b"c@example.org,C,amdin,true\n",
    ]
    job = await imported(api, HEADER + b"".join(rows), "staff.csv")
    path = f"/ui/imports/{job['id']}/mend"
    async with opened(browser, api.service.url, path, color_scheme=scheme) as page:
        await cell(page, "email", 2).fill("a@example.org")
        await page.get_by_label("Leave out the record of line 3").click()
        await add_rule(page, Column="role")
        await page.get_by_role("button", name="Add a rule").click()
        assert await accessibility_faults(page) == []
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_label("name, line 2: open the long text").click()
        assert await accessibility_faults(page) == []
        await page.get_by_role("textbox", name="name, line 2").fill("A")
        await page.get_by_role("button", name="Use this text").click()
        await expect(page.get_by_label("name, line 2: open the long text")).to_be_focused()
        await cell(page, "active", 2).select_option("true")
        await cell(page, "role", 2).select_option("reader")
        await send(page, "Send 2 records")
        await expect(page.locator("main").get_by_text("All other records are stored.")).to_be_visible()
        assert await accessibility_faults(page) == []
        await page.set_viewport_size({"width": 320, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
