"""The files of the page New import: encodings, several at once, pasted ones, their mapping, hostile ones."""

import gzip
import json

from playwright.async_api import expect

from tests.support.console import accessibility_faults, opened
from tests.support.factories import rows
from tests.support.new_import import DROP, HEADER, SOUND, at, button, drop, emails, finished, imports, step
from tests.support.xlsx import written


async def test_a_file_in_another_encoding_is_reported_at_once(started, browser, conn):
    """UTF-16 and Windows-1252 are named before anything is sent; converted in the browser, both are stored.

    A compressed file is recognised by its content, not by its name.
    """
    german = "E-Mail;Name;Rolle;aktiv\njuergen@example.org;Jürgen Groß;author;true\n".encode("cp1252")
    async with opened(browser, started.url, "/ui/new") as page:
        await drop(page, kunden_csv=(HEADER + SOUND).encode("utf-16"), german_csv=german, mappe_zip=b"PK\x03\x04\0\0")
        await expect(page.locator("main").get_by_text("The file is UTF-16")).to_be_visible()
        await expect(page.locator("main").get_by_text("The file is not UTF-8")).to_be_visible()
        await expect(page.locator("main").get_by_text("This is not an .xlsx file that can be read")).to_be_visible()
        await expect(button(page, "Continue")).to_be_disabled()
        assert await accessibility_faults(page) == []
        await button(page, "Remove mappe.zip").click()
        await drop(page, packed=gzip.compress((HEADER + "Zoë;zoe@example.org;admin;true;\n").encode()))
        await expect(page.locator("main").get_by_text("packed")).to_be_visible()
        await button(page, "Convert to UTF-8").first.click()
        await expect(button(page, "Convert to UTF-8")).to_have_count(1)
        await button(page, "Convert to UTF-8").click()
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        await button(page, "Import without checking").click()
        await finished(page)
    assert len(await emails(conn)) == 12
    assert await rows(conn, "SELECT name FROM users WHERE email LIKE 'juergen%%'") == [("Jürgen Groß",)]


async def test_a_workbook(started, browser, conn):
    """The first sheet of an .xlsx file is imported; a file with a password is reported at once."""
    sheet = written(("email", "name", "role", "active"), ("ada@example.org", "Ada", "admin", True))
    async with opened(browser, started.url, "/ui/new") as page:
        await drop(page, users_xlsx=sheet, secret_xlsx=b"\xd0\xcf\x11\xe0" + bytes(100))
        await expect(page.locator("main").get_by_text("This is not an .xlsx file that can be read")).to_be_visible()
        await button(page, "Remove secret.xlsx").click()
        await expect(page.locator("main").get_by_text("Its first sheet is imported.")).to_be_visible()
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        await button(page, "Import without checking").click()
        await finished(page)
    assert await emails(conn) == ["ada@example.org"]


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
        await expect(page.locator("main").get_by_text("no column is email, name, role, active")).to_be_visible()
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
        await expect(page.locator("main").get_by_text("Remembered", exact=True)).to_have_count(4)

        await page.evaluate("localStorage.clear()")
        await page.reload()
        await drop(page, users_csv=header + b"Bob,bob@example.org,reader,true\n")
        await button(page, "Continue").click()
        async with page.expect_file_chooser() as choosing:
            await button(page, "Load a mapping").click()
        await (await choosing.value).set_files(saved)
        await expect(page.locator("main").get_by_text("Chosen")).to_have_count(4)
        await expect(page.locator("#toasts").get_by_text("names 4 of the 4 columns")).to_be_visible()
        await expect(button(page, "Continue")).to_be_enabled()


async def test_pasted_records(started, browser, conn):
    """Pasted text is a file like any other; its format is guessed."""
    async with opened(browser, started.url, "/ui/new") as page:
        await page.locator("main").get_by_text("Paste records instead").click()
        await button(page, "Use these records").click()
        await expect(page.get_by_label("Records", exact=True)).to_be_focused()
        objects = [{"E-Mail": f"p{n}@example.org", "Name": "P", "role": "reader", "active": True} for n in range(3)]
        await page.get_by_label("Records", exact=True).fill("\n".join(map(json.dumps, objects)))
        assert await accessibility_faults(page) == []
        await button(page, "Use these records").click()
        await expect(page.get_by_label("Format")).to_have_value("ndjson")
        await button(page, "Continue").click()
        await button(page, "Continue").click()
        await page.locator("main").get_by_text("as curl").click()
        await expect(
            page.locator("main").get_by_text('--form-string \'columns={"E-Mail":"email","Name":"name"}\'')
        ).to_be_visible()
        await button(page, "Check the whole file").click()
        await button(page, "Commit 3 records").click()
        await finished(page)
    assert len(await emails(conn)) == 3


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
