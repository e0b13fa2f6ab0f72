"""The page New import: a file becomes an import in four steps, with the mouse, with the keyboard, and over a bad connection."""

import gzip
import json
import re

import pytest
from playwright.async_api import Locator, Page, expect

from db import audit
from tests.support.console import accessibility_faults, opened
from tests.support.eventually import eventually
from tests.support.factories import rows
from tests.support.fault_proxy import fault_proxy

# names in three languages, a column that is no field, and three faulty cells in two rows
HEADER = "Имя;E-Mail-Adresse;角色;aktiv;Notiz\r\n"
SOUND = "".join(f"Nutzer {n};user{n}@example.org;reader;true;n {n}\r\n" for n in range(10))
FAULTY = "Grace;grace@example.org;boss;true;x\r\nLinus;linus@example;reader;maybe;y\r\n"
FILE = (HEADER + SOUND + FAULTY).encode()
MAPPED = {"Имя": "name", "E-Mail-Adresse": "email", "角色": "role", "aktiv": "active", "Notiz": None}

# as a drop from the desktop: the event has files, whose content the page reads
DROP = """async (files) => {
    const dataTransfer = new DataTransfer()
    for (const [name, bytes] of files) dataTransfer.items.add(new File([new Uint8Array(bytes)], name))
    for (const type of ["dragover", "drop"]) {
        document.querySelector("main").dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }))
    }
}"""


@pytest.fixture
async def started(service):
    return await service(worker_pool_size=2, batch_size=4)


async def drop(page: Page, **files: bytes) -> None:
    """Drops files on the page; `users_csv=…` is users.csv."""
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await page.evaluate(DROP, [[name.replace("_", "."), list(content)] for name, content in files.items()])


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name)


def mode(page: Page, name: str) -> Locator:
    return page.get_by_role("radio", name=re.compile(f"^{name} "))


def step(page: Page, name: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", level=2, name=name, exact=True))


async def at(page: Page, name: str) -> None:
    """Waits until the step is the current one, which has the focus at its heading."""
    heading = page.get_by_role("heading", level=2, name=name, exact=True)
    await expect(page.locator("[aria-current=step]")).to_contain_text(name)
    await expect(heading).to_be_focused()


async def finished(page: Page) -> None:
    await expect(button(page, "Import another file")).to_be_visible()


async def imports(conn) -> list[list]:
    """`[resource, status, dry_run, columns]` of all imports, the oldest first; their books balance."""
    found = await rows(conn, "SELECT id, resource, status, dry_run, columns FROM import_jobs ORDER BY id")
    for id, *_ in found:
        assert await audit.violations(conn, import_id=id, strict=True) == []
    return [job for _, *job in found]


async def emails(conn) -> list[str]:
    return [email for (email,) in await rows(conn, "SELECT email FROM users ORDER BY email")]


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_a_faulty_file_with_foreign_names_by_mouse(started, browser, conn, theme):
    """Dropped on another page, mapped, checked without storing anything, committed: the sound rows are stored.

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
        await expect(page.get_by_text("Guessed")).to_have_count(4)
        await expect(page.get_by_text("Left out")).to_have_count(1)
        assert await accessibility_faults(page) == []
        # a field has one column: given to another one it leaves a required field without
        await page.get_by_label("Notiz").select_option("name")
        await expect(page.get_by_label("Имя")).to_have_value("")
        await page.get_by_label("Notiz").select_option("")
        await expect(page.get_by_text("no column is name")).to_be_visible()
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


async def test_a_file_in_another_encoding_is_told_at_once(started, browser, conn):
    """UTF-16 and Windows-1252 are named before anything is sent; converted in the browser, both are stored.

    A compressed file is known by its content, whatever its name is.
    """
    german = "E-Mail;Name;Rolle;aktiv\njuergen@example.org;Jürgen Groß;author;true\n".encode("cp1252")
    async with opened(browser, started.url, "/ui/new") as page:
        await drop(page, kunden_csv=(HEADER + SOUND).encode("utf-16"), german_csv=german, mappe_xlsx=b"PK\x03\x04\0\0")
        await expect(page.get_by_text("The file is UTF-16")).to_be_visible()
        await expect(page.get_by_text("The file is not UTF-8")).to_be_visible()
        await expect(page.get_by_text("This is an Excel workbook or a ZIP archive")).to_be_visible()
        await expect(button(page, "Continue")).to_be_disabled()
        assert await accessibility_faults(page) == []
        await button(page, "Remove mappe.xlsx").click()
        await drop(page, packed=gzip.compress((HEADER + "Zoë;zoe@example.org;admin;true;\n").encode()))
        await expect(page.get_by_text("packed")).to_be_visible()
        await button(page, "Convert to UTF-8").first.click()
        await expect(button(page, "Convert to UTF-8")).to_have_count(1)
        await button(page, "Convert to UTF-8").click()
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        await button(page, "Import without checking").click()
        await finished(page)
    assert len(await emails(conn)) == 12
    assert await rows(conn, "SELECT name FROM users WHERE email LIKE 'juergen%%'") == [("Jürgen Groß",)]


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
        await expect(page.get_by_text("with the same idempotency key")).to_be_visible()
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
        await drop(page, kunden_csv=(HEADER + rows_of_users).encode())
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        network = await page.context.new_cdp_session(page)
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 20_000}
        await network.send("Network.emulateNetworkConditions", slow)
        await button(page, "Check the whole file").click()
        await expect(page.get_by_text("KB/s")).to_be_visible()
        assert await accessibility_faults(page) == []
        assert await is_asked_before_leaving(page)
        await step(page, "Check").get_by_role("button", name="Cancel").click()
        await expect(button(page, "Check the whole file")).to_be_visible()
        assert not await is_asked_before_leaving(page)
    await eventually(lambda: started.api.logged("request"))
    assert await rows(conn, "SELECT status FROM import_jobs WHERE status <> 'uploading'") == []


async def is_asked_before_leaving(page: Page) -> bool:
    return not await page.evaluate("dispatchEvent(new Event('beforeunload', { cancelable: true }))")


USER = "00000000-0000-4000-8000-000000000001"
ARTICLE = "00000000-0000-4000-8000-000000000002"
FAMILY = {
    "notes_ndjson": json.dumps({"article_id": ARTICLE, "user_id": USER, "body": "Well put."}).encode(),
    "posts_csv": f"id,slug,Titel,text,Autor,status\n{ARTICLE},first,T,B,{USER},draft\n".encode(),
    "people_csv": f"id,email,name,role,active\n{USER},ada@example.org,Ada,author,true\n".encode(),
}


async def test_several_files_are_imported_in_the_order_of_their_references(started, browser, conn):
    """Dropped in the wrong order, their resources are guessed; each import waits for the one before it."""
    async with opened(browser, started.url, "/ui/new") as page:
        await drop(page, **FAMILY)
        await expect(page.get_by_label("Resource")).to_have_count(3)
        values = [await select.input_value() for select in await page.get_by_label("Resource").all()]
        assert values == ["users", "articles", "comments"]
        await button(page, "Continue").click()
        assert await accessibility_faults(page) == []
        await button(page, "Continue").click()
        await button(page, "Import without checking").click()
        await finished(page)
    found = await rows(conn, "SELECT resource, id, after_id FROM import_jobs ORDER BY id")
    assert [resource for resource, *_ in found] == ["users", "articles", "comments"]
    assert [after for *_, after in found] == [None, found[0][1], found[1][1]]
    assert await rows(conn, "SELECT body FROM comments") == [("Well put.",)]


async def test_a_file_is_checked_when_what_it_refers_to_is_stored(started, browser, conn):
    """A check stores nothing, so each file is checked after those before it are committed: no reference is refused."""
    async with opened(browser, started.url, "/ui/new") as page:
        await drop(page, **FAMILY)
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        await button(page, "Check the whole files").click()
        await at(page, "Store")
        for file in ("people.csv", "posts.csv", "notes.ndjson"):
            region = page.get_by_role("region", name=f"Store {file}")
            await region.get_by_role("button", name="Commit 1 record").click()
            await expect(region).to_contain_text("Open the import")
        await finished(page)
    assert [job[:3] for job in await imports(conn)] == [
        [resource, "completed", dry_run] for resource in ("users", "articles", "comments") for dry_run in (True, False)
    ]


async def test_a_mapping_is_remembered_saved_and_loaded(started, browser, tmp_path):
    """The next file with the same names has the same mapping. The browser keeps names only, and so does the saved file."""
    header = b"who,where,what,on\n"
    async with opened(browser, started.url, "/ui/new", accept_downloads=True) as page:
        await drop(page, users_csv=header + b"Ada,ada@example.org,author,true\n")
        await button(page, "Continue").click()
        await expect(page.get_by_text("no column is email, name, role, active")).to_be_visible()
        for name, field in (("who", "name"), ("where", "email"), ("what", "role"), ("on", "active")):
            await page.get_by_label(name, exact=True).select_option(field)
        async with page.expect_download() as downloading:
            await button(page, "Save this mapping").click()
        saved = tmp_path / "mapping.json"
        await (await downloading.value).save_as(saved)
        columns = {"who": "name", "where": "email", "what": "role", "on": "active"}
        assert json.loads(saved.read_text()) == {"resource": "users", "columns": columns}
        await button(page, "Continue").click()
        await button(page, "Check the whole file").click()
        await at(page, "Store")
        assert "example.org" not in await page.evaluate("JSON.stringify(localStorage)")

        await page.reload()
        await drop(page, users_csv=header + b"Bob,bob@example.org,reader,true\n")
        await button(page, "Continue").click()
        await expect(page.get_by_text("Remembered", exact=True)).to_have_count(4)

        await page.evaluate("localStorage.clear()")
        await page.reload()
        await drop(page, users_csv=header + b"Bob,bob@example.org,reader,true\n")
        await button(page, "Continue").click()
        async with page.expect_file_chooser() as choosing:
            await button(page, "Load a mapping").click()
        await (await choosing.value).set_files(saved)
        await expect(page.get_by_text("Chosen")).to_have_count(4)
        await expect(page.get_by_text("names 4 of the 4 columns")).to_be_visible()
        await expect(button(page, "Continue")).to_be_enabled()


async def test_a_refused_parameter_is_told_beside_its_field(started, browser, conn):
    """A 400 puts its message and the focus at the field, and keeps all that was entered; corrected, the check runs."""
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
        await expect(page.get_by_text("have changed since this check")).to_be_visible()
        await expect(button(page, "Continue")).to_have_count(0)
        await button(page, "Check again").click()
        await at(page, "Store")
        await expect(page.get_by_text("No record can be stored")).to_be_visible()

        await button(page, "Throw away").click()
        await page.get_by_role("dialog").get_by_role("button", name="Throw away").click()
        await finished(page)
    assert [job[:3] for job in await imports(conn)] == [["users", "completed", True]]
    assert await emails(conn) == []


async def test_pasted_records(started, browser, conn):
    """Pasted text is a file like any other; its format is guessed."""
    async with opened(browser, started.url, "/ui/new") as page:
        await page.get_by_text("Paste records instead").click()
        await button(page, "Use these records").click()
        await expect(page.get_by_label("Records", exact=True)).to_be_focused()
        objects = [{"E-Mail": f"p{n}@example.org", "Name": "P", "role": "reader", "active": True} for n in range(3)]
        await page.get_by_label("Records", exact=True).fill("\n".join(map(json.dumps, objects)))
        assert await accessibility_faults(page) == []
        await button(page, "Use these records").click()
        await expect(page.get_by_label("Format")).to_have_value("ndjson")
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        await page.get_by_text("as curl").click()
        await expect(page.get_by_text('--form-string \'columns={"E-Mail":"email","Name":"name"}\'')).to_be_visible()
        await button(page, "Check the whole file").click()
        await button(page, "Commit 3 records").click()
        await finished(page)
    assert len(await emails(conn)) == 3


async def test_a_file_that_is_too_large_is_refused_once(service, browser, conn):
    """The service answers 413 while the file is still being sent. The page shows why, and does not send it again."""
    started = await service(run=["api"], upload_max_bytes=1024 * 1024)
    content = (HEADER + SOUND * 20_000).encode()
    async with opened(browser, started.url, "/ui/new") as page:
        async with page.expect_file_chooser() as choosing:
            await button(page, "Choose files").click()
        await (await choosing.value).set_files([{"name": "kunden.csv", "mimeType": "text/csv", "buffer": content}])
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        await button(page, "Check the whole file").click()
        await expect(page.get_by_role("alert")).to_contain_text("1048576")
        await expect(button(page, "Check the whole file")).to_be_enabled()
    assert [line["status"] for line in started.api.logged("request") if line["method"] == "POST"] == [413]


async def test_a_key_that_may_only_read_sends_nothing(service, browser):
    """The page says so, and offers neither the check nor the import; a file dropped elsewhere is not taken."""
    key = "a-key-that-may-only-read"
    started = await service(run=["api"], api_keys=f"view:read:{key},a-key-that-may-do-all")
    async with opened(browser, started.url, "/ui/resources") as page:
        await page.get_by_label("Key", exact=True).fill(key)
        await button(page, "Continue").click()
        await expect(page.get_by_role("heading", level=1, name="Resources")).to_be_visible()
        await drop(page, kunden_csv=FILE)
        await expect(page).to_have_url(f"{started.url}/ui/resources")
        await page.keyboard.press("n")
        await expect(page.get_by_text("This key may only read")).to_be_visible()
        assert await accessibility_faults(page) == []


async def test_hostile_names_and_values_are_text(started, browser):
    """Markup in the name of the file, in names of columns and in cells is shown as text on each step."""
    name = '"><img src=x onerror=document.title=1>;$(id).csv'
    image, bold = "<img src=x onerror=document.title=2>", "<b onmouseover=document.title=3>b</b>"
    content = f"email;name;role;active;{image}\n{bold};{image};{bold};true;{bold}\n"
    async with opened(browser, started.url, "/ui/new") as page:
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        await page.evaluate(DROP, [[name, list(content.encode())]])
        await button(page, "Continue").click()
        await expect(step(page, "File")).to_contain_text(name)
        await expect(page.get_by_role("row", name=image).last).to_contain_text(bold)
        await button(page, "Continue").click()
        await button(page, "Check the whole file").click()
        await at(page, "Store")
        await expect(step(page, "Check").get_by_role("row", name=bold).first).to_be_visible()
        assert await page.locator("main img, main b[onmouseover]").count() == 0
        assert await page.title() == "New import · Bulk"
