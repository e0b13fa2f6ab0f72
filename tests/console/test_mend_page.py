"""The mending page in a browser: refused records are corrected by hand and by rules, sent as repairs, and stored in the end."""

import re
from typing import Any

import msgspec
import pytest
from playwright.async_api import Dialog, Locator, Page, Route, expect

from db.imports.jobs import FINAL
from tests.support import api_client
from tests.support.console import accessibility_faults, opened
from tests.support.eventually import eventually

pytestmark = pytest.mark.needs("chromium")

HEADER = b"email,name,role,active\n"
SERVICE = {"worker_pool_size": 2}


async def imported(api, content: bytes, name: str, **params: str) -> dict[str, Any]:
    return await api.finished(await api.post(files={"file": (name, content)}, data={"resource": "users", **params}))


async def family(api) -> list[dict[str, Any]]:
    """All imports, oldest first, once they are final; the books of each are checked."""

    async def final() -> list[dict[str, Any]] | None:
        jobs = (await api.get()).json()["imports"][::-1]
        return jobs if all(job["status"] in FINAL for job in jobs) else None

    jobs = await eventually(final)
    for job in jobs:
        await api.check_books(job)
    return jobs


async def stored(api) -> list[tuple[Any, ...]]:
    """The users, by e-mail."""
    cursor = await api.conn.execute("SELECT email, name, role, active FROM users ORDER BY email")
    return await cursor.fetchall()


def cell(page: Page, column: str, line: int) -> Locator:
    return page.get_by_label(f"{column}, line {line}", exact=True)


async def expect_numbers(page: Page, text: str) -> None:
    """The numbers beside the bar, separated by points."""
    bar = page.get_by_role("region", name="All refused records")
    await expect(bar.get_by_role("list").first.get_by_role("listitem")).to_have_text(text.split(" · "))


async def add_rule(page: Page, **choices: str) -> None:
    await page.get_by_role("button", name="Add a rule").click()
    for label, value in choices.items():
        field = page.get_by_label(label.replace("_", " "), exact=True)
        if await field.evaluate("field => field.tagName") == "SELECT":
            await field.select_option(label=value)
        else:
            await field.fill(value)
    await page.get_by_role("button", name="Add the rule").click()


async def send(page: Page, label: str) -> None:
    await page.get_by_role("button", name=label, exact=True).click()


async def module(page: Page, name: str, script: str, argument: Any = None) -> Any:
    """The result of `script`, a function of a module of the page and of the argument."""
    return await page.evaluate(
        f"""async (argument) => {{
            const app = document.querySelector('script[src$="/app.js"]').src
            return ({script})(await import(new URL({name!r}, app)), argument)
        }}""",
        argument,
    )


# a rule, the value of a cell with the error `bad`, the value that the rule makes of it
RULES = [
    ({"kind": "replace", "from": "boss", "to": "admin"}, "boss", "admin"),
    ({"kind": "replace", "from": "boss", "to": "admin"}, "bosses", "bosses"),
    ({"kind": "replace", "from": "", "to": "admin"}, None, "admin"),
    ({"kind": "replace", "from": "o", "to": "0", "part": True}, "foo", "f00"),
    ({"kind": "replace", "from": "x", "to": None}, "x", None),
    ({"kind": "fill", "to": "reader"}, None, "reader"),
    ({"kind": "fill", "to": "reader"}, "", "reader"),
    ({"kind": "fill", "to": "reader"}, "author", "author"),
    ({"kind": "trim"}, "\u00a0 Ada\t", "Ada"),
    ({"kind": "trim"}, "  ", None),
    ({"kind": "lower"}, "ADA@Example.org", "ada@example.org"),
    ({"kind": "boolean", "asText": True}, " Yes", "true"),
    ({"kind": "boolean", "asText": True}, "0", "false"),
    ({"kind": "boolean", "asText": False}, "n", False),
    ({"kind": "boolean", "asText": False}, 1, True),
    ({"kind": "boolean", "asText": False}, "constructor", "constructor"),
    ({"kind": "nearest", "allowed": ["admin", "author", "reader"]}, "amdin", "admin"),
    ({"kind": "nearest", "allowed": ["admin", "author", "reader"]}, "READERS", "reader"),
    ({"kind": "nearest", "allowed": ["admin", "author", "reader"]}, "a", "a"),
    ({"kind": "nearest", "allowed": ["admin", "author", "reader"]}, "gardener", "gardener"),
    ({"kind": "text"}, 5, "5"),
    ({"kind": "text"}, ["a"], ["a"]),
    ({"kind": "clear"}, "x", None),
]


async def test_rules(api, browser):
    """What each kind of rule makes of a value; only cells of its column with its error, and the others stay the same object."""
    async with opened(browser, api.service.url, "/ui/none") as page:
        apply = """({ apply }, [rule, value, errors]) => {
            const record = { columns: ["name", "role"], cells: ["  Ada", value], raw: null, errors }
            const mended = apply(rule, record)
            return [mended.cells?.[1], mended.cells?.[0], mended.isOut ?? false, mended === record]
        }"""
        bad = [{"column": "role", "code": "bad"}]
        for rule, value, wanted in RULES:
            there = {"column": "role", "code": "bad", **rule}
            same = type(wanted) is type(value) and wanted == value
            assert await module(page, "mend/rules.js", apply, [there, value, bad]) == [wanted, "  Ada", False, same], (
                rule
            )
            # another error, another column, none
            for errors in ([{"column": "role", "code": "worse"}], [{"column": "name", "code": "bad"}], []):
                assert await module(page, "mend/rules.js", apply, [there, value, errors]) == [
                    value,
                    "  Ada",
                    False,
                    True,
                ]
        trim = {"kind": "trim", "column": "name"}
        assert await module(page, "mend/rules.js", apply, [{**trim, "code": None}, "x", []]) == [
            "x",
            "Ada",
            False,
            False,
        ]
        any_error = [{**trim, "code": ""}, "x", [{"column": "name", "code": "bad"}]]
        assert await module(page, "mend/rules.js", apply, any_error) == ["x", "Ada", False, False]
        drop = {"kind": "drop", "column": None, "code": "constraint_violation"}
        general = [{"column": None, "code": "constraint_violation"}]
        assert await module(page, "mend/rules.js", apply, [drop, "x", general]) == ["x", "  Ada", True, False]
        assert await module(page, "mend/rules.js", apply, [drop, "x", bad]) == ["x", "  Ada", False, True]


# the format, records by (line, cells or raw), the file that a repair sends
FILES = [
    (
        {"format": "csv", "csv_delimiter": ";"},
        [(7, ["a;b", "", None]), (9, ['say "x"', "two\nlines", " c "]), (11, "x;y;z")],
        '_line;a;"b;";c\n7;"a;b";"";\n9;"say ""x""";"two\nlines"; c \n11;x;y;z\n',
    ),
    (
        {"format": "ndjson"},
        [(1, ["x", None, {"n": [1, None]}]), (2, '{"_line": 9, "a": 1.0}'), (3, [False, 0, ""])],
        '{"_line":1,"a":"x","c":{"n":[1,null]}}\n{"_line":2,"a":1.0}\n{"_line":3,"a":false,"b;":0,"c":""}\n',
    ),
    (
        {"format": "json"},
        [(1, ["x", None, None]), (4, ["y", None, None])],
        '[\n{"_line":1,"a":"x"},\n{"_line":4,"a":"y"}\n]\n',
    ),
]


async def test_files_of_repairs(api, browser):
    """A repair has the import's format, `_line` first, cells quoted where they must be; numbers keep their digits."""
    async with opened(browser, api.service.url, "/ui/none") as page:
        write = """async ({ RepairFile, parse }, [job, records]) => {
            const file = new RepairFile({ resource: "users", file: { name: "a.b.csv.gz" }, ...job })
            for (const [line, content] of parse(records)) {
                const isRaw = typeof content === "string"
                file.add([{ line, columns: ["a", "b;", "c"], cells: isRaw ? null : content, raw: isRaw ? content : null }])
            }
            const text = await file.blob.text()
            return [text, file.name, file.records]
        }"""
        for job, records, wanted in FILES:
            text = msgspec.json.encode(records).decode()
            name = f"a.b.{job['format']}"
            assert await module(page, "mend/repair.js", write, [job, text]) == [wanted, name, len(records)]
        digits = "(repair) => JSON.stringify(repair.parse('[1.0, 12345678901234567890, 1e400, \"1.0\"]'))"
        assert await module(page, "mend/repair.js", digits) == '[1.0,12345678901234567890,1e400,"1.0"]'


# the text of a record, its format, what is said of it
TEXTS = [
    ('a,"b,\n""c""",', "csv", None),
    ("a,b", "csv", "This has 2 cells, but the header has 3: a, b, c."),
    ('a,"b,c', "csv", "A quote is not closed, or stands in the middle of a cell."),
    ('a,x"b"y,c', "csv", "A quote is not closed, or stands in the middle of a cell."),
    ("a,b\n,c", "csv", "A quote is not closed, or stands in the middle of a cell."),
    ('{"a": 1}', "ndjson", None),
    ("[1]", "ndjson", "This is not a JSON object."),
    ('{"a": }', "json", "This is not valid JSON."),
]


async def test_a_record_that_would_harm_others_is_not_sent(api, browser):
    """The text of a record that could not be split is checked before it is sent: an open quote would swallow other rows."""
    async with opened(browser, api.service.url, "/ui/none") as page:
        script = "({ fault }, [text, format]) => fault(text, { format, csv_delimiter: ',' }, ['a', 'b', 'c'])"
        for text, format, wanted in TEXTS:
            assert await module(page, "mend/repair.js", script, [text, format]) == wanted


async def test_the_main_path(api, browser):
    """Two cells by hand and a rule for all that match, sent; what is refused again stays with its new errors; then all is stored.

    Every error has the line of the first file, in each repair.
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
    """A dry run, mended, and then stored with its repairs: each record once."""
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
    """A dry run stores nothing, so its repairs do not see its records: what is refused when they are stored is mended there."""
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
    """Enter moves within the column, Alt-down to the next error, Esc and Ctrl-Z take back; records are mended and sent."""
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


async def test_unsent_edits_survive_and_are_asked_for(api, browser):
    """Edits and rules are there after a reload, and the page asks before it is left with them; without any it does not."""
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


async def test_a_record_that_cannot_be_split(api, browser):
    """Its text is edited as a whole, and sent only once it would be one record."""
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


async def test_a_file_with_names_of_its_own(api, browser):
    """With another delimiter and a mapping of columns: cells and errors are under the names of the file."""
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


async def test_objects(api, browser):
    """NDJSON: the members are the cells; values keep their types, what is missing can be added, what is unknown be emptied."""
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
    """A JSON array on one line: its elements are told apart by their order, so those that are not mended are sent too."""
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


async def test_a_rule_for_more_records_than_are_loaded(api, browser):
    """Beyond the limit of edits by hand a rule is applied while records are fetched; they are sent if their number is confirmed.

    If they make too large a file, the page shows other ways instead.
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
        await module(page, "mend/repair.js", "({ LIMITS }) => Object.assign(LIMITS, { fileBytes: 1000 })")
        await send(page, "Send all that the rules mend")
        await expect(page.locator("main").get_by_text("too much for a page")).to_be_visible()
        await expect(page.locator("main").get_by_text(f"bulk fix {job['id']}")).to_be_visible()
        await module(page, "mend/repair.js", "({ LIMITS }) => Object.assign(LIMITS, { fileBytes: 1e9 })")
        await send(page, "Send all that the rules mend")
        await page.get_by_role("dialog").get_by_role("button", name=f"Send {count:,} records").click()
        await expect(page.locator("main").get_by_text("All records are stored.")).to_be_visible()
    await family(api)
    assert await api.value("SELECT count(*) FROM users WHERE role = 'reader'") == count


async def test_a_response_that_is_lost(api, browser):
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
    """What another tab has mended meanwhile is not taken twice: the page says so, and loads what is still refused."""
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
