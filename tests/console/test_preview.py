"""What the page New import reads of a file's beginning, and how it maps columns to fields: the modules in a browser."""

import gzip
import json
from typing import Any

import pytest

from tests.support.console import opened

# a module of the pages, from the address of the shell's script
CALL = """async ([module, name, parameters]) => {
    const {default: _, ...exported} = await import(document.querySelector("script[type=module]").src.replace("app.js", module))
    return exported[name](...parameters)
}"""
READ = """async ([name, bytes, chosen]) => {
    const { read } = await import(document.querySelector("script[type=module]").src.replace("app.js", "new/preview.js"))
    return read(new File([new Uint8Array(bytes)], name), chosen)
}"""

SERVICE = {"run": ["api"]}


@pytest.fixture
async def page(shared, browser):
    async with opened(browser, shared.url, "/ui/new") as page:
        yield page


async def read(page, content: bytes, name: str = "file.csv", **chosen: str) -> dict[str, Any]:
    return await page.evaluate(READ, [name, list(content), chosen])


async def call(page, module: str, name: str, *parameters: Any) -> Any:
    return await page.evaluate(CALL, [f"new/{module}.js", name, list(parameters)])


def names(preview: dict[str, Any]) -> list[str]:
    return [column["name"] for column in preview["columns"]]


def samples(preview: dict[str, Any]) -> list[list[str | None]]:
    return [column["samples"] for column in preview["columns"]]


async def test_delimiters(page):
    """The delimiter is the one with which all rows have the same number of cells."""
    for delimiter in (",", ";", "\t", "|"):
        text = f'name{delimiter}note\nAda{delimiter}"a, b; c"\nBo{delimiter}\n'
        preview = await read(page, text.encode())
        assert (preview["delimiter"], names(preview)) == (delimiter, ["name", "note"])
        assert samples(preview) == [["Ada", "Bo"], ["a, b; c", None]]
    assert (await read(page, b"a;b\n1,5;2,5\n1,5;2,5\n"))["delimiter"] == ";"
    assert (await read(page, b"email\na@example.org\n"))["delimiter"] == ","
    assert (await read(page, b"a,b;c\n", delimiter=";"))["columns"][0]["name"] == "a,b"


async def test_rows(page):
    """Quotes, line ends and blank lines as in RFC 4180; a byte order mark is no part of the first name."""
    preview = await read(page, b'\xef\xbb\xbf\r\n name ,"a ""b"""\r\n\r\n"two\r\nlines",""\r\nx,\r\n')
    assert names(preview) == ["name", 'a "b"']
    assert samples(preview) == [["two\r\nlines", "x"], ["", None]]
    assert names(await read(page, b"a,b")) == ["a", "b"]
    assert (await read(page, b""))["columns"] == []
    assert (await read(page, b"a,,c\n"))["fault"]["heading"] == "Column 2 has no name"
    assert (await read(page, b"a,b,a\n"))["fault"]["heading"] == "Two columns have the name a"


async def test_only_the_beginning_is_read(page):
    """64 KiB of a large file, also of what a gzip file unpacks to; a cell or record that is cut off is no sample."""
    long = b"name,note\nAda,x\n" + b"Bo," + b"y" * 100_000 + b"\n"
    assert samples(await read(page, long)) == [["Ada"], ["x"]]
    packed = gzip.compress(b"name,note\nAda,x\n" * 1_000_000)
    preview = await read(page, packed, "file.csv.gz")
    assert (preview["compression"], names(preview)) == ("gzip", ["name", "note"])
    # without its end, as of a file of which only the beginning was read
    assert samples(await read(page, packed[:5000], "file.csv"))[0] == ["Ada", "name", "Ada"]
    array = b'[{"name": "Ada"}, {"name": "' + b"y" * 100_000 + b'"}]'
    assert samples(await read(page, array, "file.json")) == [["Ada"]]


async def test_encodings(page):
    """UTF-16 is known by its byte order mark or its zeros, other encodings by what is not UTF-8; workbooks by their magic."""
    text = "Имя,note\nAda,x\n"
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        preview = await read(page, text.encode(encoding))
        assert preview["fault"]["heading"] == "The file is UTF-16"
        assert names(preview) == ["Имя", "note"]
    preview = await read(page, text.encode("cp1251"), encoding="windows-1251")
    assert (preview["encoding"], preview["fault"]["heading"], names(preview)[0]) == ("", "The file is not UTF-8", "Имя")
    assert (await read(page, text.encode() * 5000))["fault"] is None
    for name, magic in (("book.csv", b"PK\x03\x04"), ("book.xls", b"\xd0\xcf\x11\xe0"), ("book.xlsx", b"email,name")):
        assert ".xlsx" in (await read(page, magic + bytes(100), name))["fault"]["heading"]
    book = await read(page, b"PK\x03\x04" + bytes(100), "Book.XLSX")
    assert (book["format"], book["columns"], book["fault"]) == ("xlsx", None, None)
    assert (await read(page, b"\x28\xb5\x2f\xfd", "a.ndjson.zst")) == {
        "format": "ndjson",
        "delimiter": ",",
        "compression": "zstd",
        "encoding": "utf-8",
        "columns": None,
        "fault": None,
    }


async def test_json(page):
    """Keys of the first objects, in their order, of NDJSON and of arrays; a broken line is passed over."""
    records = [{"a": "x", "b": [1, "]"]}, {"a": None, "c": {"d": '"}'}}, {"b": True}]
    lines = "\n".join(map(json.dumps, records)) + "\n{broken\n\n"
    for content, name, format in (
        (lines, "file.jsonl", "ndjson"),
        (lines, "pasted.txt", "ndjson"),
        (json.dumps(records), "file.json", "json"),
        (json.dumps(records, indent=2), "pasted.txt", "json"),
    ):
        preview = await read(page, content.encode(), name)
        assert (preview["format"], names(preview)) == (format, ["a", "b", "c"])
        assert samples(preview)[0] == ["x", None, None]
        assert samples(preview)[1][0] == '[1,"]"]'


USERS = {
    "name": "users",
    "fields": [{"name": name, "required": name != "id"} for name in ("id", "email", "name", "role", "active")],
}


async def guess(page, *names: str) -> dict[str, tuple[str | None, str]]:
    found = await call(page, "columns", "guess", [{"name": name, "samples": []} for name in names], USERS)
    return {column["name"]: (column["field"], column["how"]) for column in found}


async def test_columns_are_guessed(page):
    """Equal names first, then other names of the field, then misspelt ones; no field has two columns."""
    assert await guess(page, "E_Mail", "NAME", "Role ", "is active", "_line", "_errors", "x") == {
        "E_Mail": ("email", "matched"),
        "NAME": ("name", "matched"),
        "Role ": ("role", "matched"),
        "is active": ("active", "guessed"),
        "x": (None, "left out"),
    }
    assert await guess(page, "mail", "emial", "email", "角色", "rolle") == {
        "mail": (None, "left out"),
        "emial": (None, "left out"),
        "email": ("email", "matched"),
        "角色": ("role", "guessed"),
        "rolle": (None, "left out"),
    }
    assert await guess(page, "emal", "actve", "nme", "ip") == {
        "emal": ("email", "guessed"),
        "actve": ("active", "guessed"),
        "nme": ("name", "guessed"),
        "ip": (None, "left out"),
    }


async def test_distance(page):
    for one, other, distance in (("", "ab", 2), ("email", "email", 0), ("emial", "email", 2), ("kitten", "sitting", 3)):
        assert await call(page, "columns", "levenshtein", one, other) == distance


async def test_the_parameter_names_what_differs(page):
    """A column with the name of its field needs no entry; one that is left out is null; without either there is none."""
    columns = [{"name": "email", "field": "email"}, {"name": "Имя", "field": "name"}, {"name": "role", "field": None}]
    parameter = await call(page, "columns", "parameter", columns)
    assert json.loads(parameter) == {"Имя": "name", "role": None}
    assert await call(page, "columns", "parameter", columns[:1]) is None


async def test_a_mapping_file(page):
    """A saved mapping, or the parameter itself; names and fields that are not there are passed over."""
    assert await call(page, "columns", "fromText", '{"resource": "users", "columns": {"a": "email"}}') == {"a": "email"}
    columns = [{"name": name, "field": None, "how": "left out"} for name in ("a", "b", "email")]
    mapping = {"a": "email", "b": "nothing", "missing": "name", "email": None}
    applied = await call(page, "columns", "apply", columns, mapping, USERS, "chosen")
    assert [(column["field"], column["how"]) for column in applied] == [
        ("email", "chosen"),
        (None, "left out"),
        (None, "left out"),
    ]
    for text in ("", "[1]", '{"a": 1}', '{"columns": {"a": []}}', "null"):
        with pytest.raises(Exception, match="The file"):
            await call(page, "columns", "fromText", text)
