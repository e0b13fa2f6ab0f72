"""Mending of other files: records that cannot be split, mapped columns, NDJSON, arrays on one line, hostile texts."""

import re

import msgspec
import pytest
from playwright.async_api import expect

from tests.support import api_client
from tests.support.console import opened
from tests.support.mending import HEADER, add_rule, cell, expect_numbers, family, imported, send, stored

pytestmark = pytest.mark.needs("chromium")
SERVICE = {"worker_pool_size": 2}


async def test_a_record_that_cannot_be_split(api, browser):
    """The text of such a record is edited as a whole. It is sent only if it is one record."""
    rows = [b'a@example.org,"A "B",reader,true\n', b"b@example.org,B,reader\n"]
    job = await imported(api, HEADER + b"".join(rows), "staff.csv")
    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        first, second = cell(page, "The whole record", 2), cell(page, "The whole record", 3)
        await expect(first).to_have_value('a@example.org,"A "B",reader,true')
        await expect(page.locator("main").get_by_text("3 cells, but the header has 4")).to_be_visible()
        await first.fill('a@example.org,"A ""B,reader,true')
        await second.fill("b@example.org,B,reader,true")
        await expect(page.locator("main").get_by_text("1 edited record cannot be sent yet")).to_be_visible()
        await send(page, "Send 1 record")
        await expect_numbers(page, "2 refused · 1 taken · 1 edited · 0 untouched")
        await first.fill('a@example.org,"A ""B""",reader,true')
        await send(page, "Send 1 record")
        await expect(page.locator("main").get_by_text("All records are stored.")).to_be_visible()
    await family(api)
    assert [user[:2] for user in await stored(api)] == [("a@example.org", 'A "B"'), ("b@example.org", "B")]


async def test_a_file_with_a_mapping_of_columns(api, browser):
    """Cells and errors have the names of the columns in the file, also if it has another delimiter."""
    columns = {"E-mail": "email", "Full Name": "name", "Notes": None}
    content = b"E-mail;Full Name;role;active;Notes\na@example;A;boss;true;x;y\nb@example;B;reader;true;keep\n"
    params = {"columns": msgspec.json.encode(columns).decode(), "csv_delimiter": ";"}
    job = await imported(api, content, "staff.csv", **params)
    path = f"/ui/imports/{job['id']}/mend?code=invalid_format&field=email"
    names = ["Line", "E-mail (email)", "Full Name (name)", "role", "active"]
    async with opened(browser, api.service.url, path) as page:
        await expect(page.get_by_role("columnheader")).to_contain_text(names)
        await expect(page.locator("main").get_by_text("1 column that the import leaves out")).to_be_visible()
        await expect(cell(page, "E-mail", 3)).to_have_accessible_description(re.compile("not a valid e-mail address"))
        await cell(page, "E-mail", 3).fill("b@example.org")
        await page.get_by_role("link", name="More or fewer cells than the header").click()
        await cell(page, "The whole record", 2).fill('a@example.org;"A;B";reader;true;x')
        await send(page, "Send 2 records")
        await expect(page.locator("main").get_by_text("All records are stored.")).to_be_visible()
    await family(api)
    assert [user[:2] for user in await stored(api)] == [("a@example.org", "A;B"), ("b@example.org", "B")]


async def test_ndjson_objects(api, browser):
    """The members are the cells. Values keep their types, missing members can be added, unknown ones emptied."""
    objects = [
        b'{"email": "a@example.org", "role": "reader", "active": "true"}\n',
        b'{"email": "b@example.org", "name": 5, "role": "reader", "active": true, "n": 1.0}\n',
        b'{"email": "c@example.org", "name": }\n',
    ]
    job = await imported(api, b"".join(objects), "staff.ndjson")
    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        await cell(page, "name", 1).fill("true")
        await add_rule(page, Column="active", What_to_do="Make true or false from yes, no, 1, 0")
        await expect(cell(page, "n", 2)).to_have_value("1.0")
        await cell(page, "n", 2).fill("")
        await add_rule(page, Column="name", What_to_do="Make text of numbers")
        raw = cell(page, "The whole record", 3)
        await raw.fill('{"email": "c@example.org", "name": "C", "role": "admin", "active": false}')
        await send(page, "Send 3 records")
        await expect(page.locator("main").get_by_text("All records are stored.")).to_be_visible()
    await family(api)
    assert await stored(api) == [
        ("a@example.org", "true", "reader", True),
        ("b@example.org", "5", "reader", True),
        ("c@example.org", "C", "admin", False),
    ]


async def test_elements_of_one_line(api, browser):
    """The elements of an array on one line are identified by their order, so those that are not mended are sent too."""
    rows = [api_client.user_object(n).replace(b"reader", b"boss" if n % 2 else b"chief") for n in range(4)]
    job = await imported(api, b"[" + b",".join(rows) + b"]", "staff.json")
    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        await add_rule(page, Column="role", What_to_do="Replace a value", Replace="boss", By="author")
        await expect_numbers(page, "4 refused · 0 taken · 2 edited · 2 untouched")
        await send(page, "Send 4 records")
        await expect_numbers(page, "4 refused · 2 taken · 0 edited · 2 untouched")
        await add_rule(page, Column="role", What_to_do="Replace a value", Replace="chief", By="admin")
        await send(page, "Send 2 records")
        await expect(page.locator("main").get_by_text("All records are stored.")).to_be_visible()
    await family(api)
    assert [user[2] for user in await stored(api)] == ["admin", "author", "admin", "author"]


HOSTILE = [
    "<b onmouseover=alert(1)>x</b>",
    '"><img src=x onerror=alert(1)>',
    "${alert(1)}",
    "javascript:alert(1)",
    "'; DROP TABLE users",
]


async def test_hostile_cells_are_text(api, browser):
    """Markup in cells, names of columns and messages is shown as text and sent back as it was."""
    rows = [f'u{n}@example.org,"{text.replace(chr(34), chr(34) * 2)}",boss,true\n' for n, text in enumerate(HOSTILE)]
    row = f'"{HOSTILE[1].replace(chr(34), chr(34) * 2)}",{HOSTILE[0]},{HOSTILE[0]},{HOSTILE[0]}\n'
    job = await imported(api, HEADER + "".join([*rows, row]).encode(), f"{HOSTILE[1]}.csv")
    async with opened(browser, api.service.url, f"/ui/imports/{job['id']}/mend") as page:
        await expect(page.get_by_role("heading", level=1)).to_have_text(f"Mend {HOSTILE[1]}.csv")
        for n, text in enumerate(HOSTILE):
            await expect(cell(page, "name", n + 2)).to_have_value(text)
        await expect(cell(page, "role", 7)).to_have_value(HOSTILE[0])
        await add_rule(page, Column="role", What_to_do="Replace a value", Replace=HOSTILE[0], By="(empty)")
        await expect(page.get_by_role("listitem").filter(has_text=HOSTILE[0])).to_be_visible()
        await add_rule(page, Column="role", What_to_do="Replace a value", Replace="boss", By="reader")
        assert await page.locator("main img, main b[onmouseover], main script").count() == 0
        await page.get_by_label("Leave out the record of line 7").click()
        await send(page, f"Send {len(HOSTILE)} records")
        await expect(page.locator("main").get_by_text("All other records are stored.")).to_be_visible()
    await family(api)
    assert [user[1] for user in await stored(api)] == HOSTILE
