"""Edge cases of CSV and JSON, modelled on csv-spectrum and JSONTestSuite, with the expected result byte for byte.

A case is the text of one cell or one record of an article, between two valid ones; its outcome is the body that is read, or
the code of the error. The valid neighbours are read in every case.
"""

import csv
import io
import json
from typing import Any, NamedTuple

import pytest

from api.imports.splitting import FileSplitter, Unreadable
from db.resources import RESOURCES
from workers.parsing import parse

ARTICLES = RESOURCES["articles"]
AUTHOR = "5864905b-ec8c-4fa6-8ba7-545d13f29b4e"
RECORD_MAX_BYTES = 1024 * 1024
BOM = b"\xef\xbb\xbf"
# short enough for formats that escape more characters
LONG = 200_000


class Is(NamedTuple):
    """The record is valid, and this is its body."""

    body: str


class Not(NamedTuple):
    """The record is rejected with this code, for this field."""

    code: str
    field: str | None = None


INVALID_JSON = Not("invalid_json")
INVALID_ENCODING = Not("invalid_encoding")

# (name, the cell as in the file, its outcome)
CELLS: list[tuple[str, bytes, Is | Not]] = [
    ("plain", b"x", Is("x")),
    ("comma in quotes", b'"a, b"', Is("a, b")),
    ("quotes around nothing special", b'"x"', Is("x")),
    ("escaped quotes", b'"a ""b"" c"', Is('a "b" c')),
    ("escaped quotes at both ends", b'"""b"""', Is('"b"')),
    ("only an escaped quote", b'""""', Is('"')),
    ("only two escaped quotes", b'""""""', Is('""')),
    ("JSON", b'"{""type"": ""Point"", ""at"": [1.5, 2]}"', Is('{"type": "Point", "at": [1.5, 2]}')),
    ("JSON without quotes around it", b'{"a":1}', Not("malformed_row")),
    ("newline", b'"a\nb"', Is("a\nb")),
    ("newlines of CRLF", b'"a\r\nb\r\n"', Is("a\r\nb\r\n")),
    ("nothing but newlines", b'"\n\n\r\n"', Is("\n\n\r\n")),
    ("quotes and newlines", b'"""a""\n""b"",\r\n"""', Is('"a"\n"b",\r\n"')),
    ("something like a record within quotes", b'"x\nc-1,T,y,z,draft\n"', Is("x\nc-1,T,y,z,draft\n")),
    ("UTF-8", "ʤ ünïcödé 漢字 🦄".encode(), Is("ʤ ünïcödé 漢字 🦄")),
    ("right to left, joined, combined", "שלום 👩‍👩‍👧 e\u0301".encode(), Is("שלום 👩‍👩‍👧 e\u0301")),
    ("non-characters", "\ufffe\uffff\U0010ffff".encode(), Is("\ufffe\uffff\U0010ffff")),
    ("a byte order mark within", "a\ufeffb".encode(), Is("a\ufeffb")),
    ("what Unicode calls line ends", "a\x85b\u2028c\u2029d".encode(), Is("a\x85b\u2028c\u2029d")),
    ("what Unicode calls line ends, quoted", '"a\x85b\u2028c\n"'.encode(), Is("a\x85b\u2028c\n")),
    ("VT, FF and the separators of ASCII", b"a\x0bb\x0cc\x1cd\x1ee\x1ff", Is("a\x0bb\x0cc\x1cd\x1ee\x1ff")),
    ("lone CR", b"a\rb", Is("a\rb")),
    ("lone CR at the start", b"\ra", Is("\ra")),
    ("lone CR, quoted", b'"a\r"', Is("a\r")),
    ("CR before CRLF, quoted", b'"a\r\r\n"', Is("a\r\r\n")),
    ("controls", b"\x01\x08\x1b[0m\x7f", Is("\x01\x08\x1b[0m\x7f")),
    ("blanks around", b"  x ", Is("  x ")),
    ("blanks alone", b"   ", Is("   ")),
    ("a blank before quotes", b' "x"', Not("malformed_row")),
    ("a blank behind quotes", b'"x" ', Not("malformed_row")),
    ("a quote in the middle", b'x"', Not("malformed_row")),
    ("a single quote character", b'"', Not("malformed_row")),
    ("three quote characters", b'"""', Not("malformed_row")),
    ("a backslash escapes nothing", b'"a\\"b"', Not("malformed_row")),
    ("backslashes are text", b"a\\nb\\,".replace(b",", b";"), Is("a\\nb\\;")),
    ("apostrophes quote nothing", b"'a,b'", Not("column_count_mismatch")),
    ("apostrophes are text", b"'a'", Is("'a'")),
    ("empty", b"", Not("missing_required", "body")),
    ("empty in quotes", b'""', Not("too_short", "body")),
    ("words for nothing", b"NULL", Is("NULL")),
    ("the mark of COPY for null", b"\\N", Is("\\N")),
    ("the mark of COPY for the end", b"\\.", Is("\\.")),
    ("a number with zeros before it", b"007", Is("007")),
    ("a formula", b"=1+1", Is("=1+1")),
    ("a comment", b"# x", Is("# x")),
    ("other delimiters", b"a;b|c\td", Is("a;b|c\td")),
    ("a very long cell", b"x" * LONG, Is("x" * LONG)),
    ("a very long cell of quotes and newlines", b'"' + b'""\n' * LONG + b'"', Is('"\n' * LONG)),
    ("NUL", b"a\0b", Not("invalid_format", "body")),
    ("NUL in quotes", b'"\0"', Not("invalid_format", "body")),
    ("Latin-1", b"caf\xe9", INVALID_ENCODING),
    ("a byte of no encoding", b"\xff", INVALID_ENCODING),
    ("a character cut off", b"\xe2\x82", INVALID_ENCODING),
    ("a continuation alone", b"\x80", INVALID_ENCODING),
    ("overlong", b"\xc0\xaf", INVALID_ENCODING),
    ("NUL, overlong", b"\xc0\x80", INVALID_ENCODING),
    ("a surrogate in UTF-8", b"\xed\xa0\x80", INVALID_ENCODING),
    ("beyond Unicode", b"\xf4\x90\x80\x80", INVALID_ENCODING),
    ("not UTF-8 within quotes, over lines", b'"a\n\xff\nb"', INVALID_ENCODING),
]

# (name, the JSON of the body, its outcome)
VALUES: list[tuple[str, bytes, Is | Not]] = [
    ("short escapes", rb'"\"\\\/\b\f\n\r\t"', Is('"\\/\b\f\n\r\t')),
    ("escapes of either case", rb'"\u00e9\u00E9\uABCD\uabcd"', Is("éé\uabcd\uabcd")),
    ("an escaped escape", rb'"\\u0041"', Is("\\u0041")),
    ("a surrogate pair", rb'"\ud83e\udd84"', Is("🦄")),
    ("the last code point", rb'"\uDBFF\uDFFF"', Is("\U0010ffff")),
    ("controls, escaped", rb'"\u0001\u001f\u007f"', Is("\x01\x1f\x7f")),
    ("DEL", b'"\x7f"', Is("\x7f")),
    ("non-characters", rb'"\ufffe\uFFFF' + "\uffff".encode() + b'"', Is("\ufffe\uffff\uffff")),
    ("line separators", '"\x85\u2028\u2029"'.encode(), Is("\x85\u2028\u2029")),
    ("a byte order mark", '"\ufeff"'.encode(), Is("\ufeff")),
    ("brackets and commas", b'"]}[{,:"', Is("]}[{,:")),
    ("something like a comment", b'"/* x */ // y"', Is("/* x */ // y")),
    ("a text of JSON", rb'"{\"a\":[1]}"', Is('{"a":[1]}')),
    ("a very long text", b'"' + b"\\n" * LONG + b'"', Is("\n" * LONG)),
    ("white space around", b' \t\r"x" \t\r', Is("x")),
    ("empty", b'""', Not("too_short", "body")),
    ("null", b"null", Not("missing_required", "body")),
    ("a number", b"-0.0e-0", Not("invalid_type", "body")),
    ("a number too large", b"-1e+9999", Not("invalid_type", "body")),
    ("a number too small", b"1e-9999", Not("invalid_type", "body")),
    ("a number of many digits", b"1" + b"0" * 5000 + b".5", Not("invalid_type", "body")),
    ("deep nesting", b"[" * 500 + b"]" * 500, Not("invalid_type", "body")),
    ("an object with an empty key", b'{"":0}', Not("invalid_type", "body")),
    ("NUL, escaped", rb'"a\u0000b"', Not("invalid_format", "body")),
    ("a high surrogate alone", rb'"\uD800"', INVALID_JSON),
    ("a low surrogate alone", rb'"\uDFFF"', INVALID_JSON),
    ("two high surrogates", rb'"\uD800\uD800"', INVALID_JSON),
    ("a pair the wrong way round", rb'"\uDD1E\uD834"', INVALID_JSON),
    ("half of a pair, then text", rb'"\uD800abc"', INVALID_JSON),
    ("half of a pair, then an escape", rb'"\uD800\n"', INVALID_JSON),
    ("an escape cut off", rb'"\u00A"', INVALID_JSON),
    ("an escape of other letters", rb'"\u00G0"', INVALID_JSON),
    ("an unknown escape", rb'"\a"', INVALID_JSON),
    ("a hexadecimal escape", rb'"\x41"', INVALID_JSON),
    ("an escaped apostrophe", rb'"\'"', INVALID_JSON),
    ("a tab", b'"\t"', INVALID_JSON),
    ("a lone CR", b'"a\rb"', INVALID_JSON),
    ("NUL", b'"\0"', INVALID_JSON),
    ("an apostrophe for a quote", b"'x'", INVALID_JSON),
    ("no quotes", b"x", INVALID_JSON),
    ("NaN", b"NaN", INVALID_JSON),
    ("infinity", b"Infinity", INVALID_JSON),
    ("minus infinity", b"-Infinity", INVALID_JSON),
    ("a capital letter", b"True", INVALID_JSON),
    ("true cut off", b"tru", INVALID_JSON),
    ("null cut off", b"nul", INVALID_JSON),
    ("true and more", b"truex", INVALID_JSON),
    ("a zero before a number", b"012", INVALID_JSON),
    ("a zero before a negative number", b"-01", INVALID_JSON),
    ("a plus sign", b"+1", INVALID_JSON),
    ("a minus sign alone", b"-", INVALID_JSON),
    ("two minus signs", b"--1", INVALID_JSON),
    ("no digit before the point", b".5", INVALID_JSON),
    ("no digit behind the point", b"1.", INVALID_JSON),
    ("no digit in the exponent", b"1e+", INVALID_JSON),
    ("two points", b"1.2.3", INVALID_JSON),
    ("hexadecimal", b"0x1F", INVALID_JSON),
    ("digits of another script", "\uff11".encode(), INVALID_JSON),
    ("a thousands separator", b"1_000", INVALID_JSON),
    ("nothing", b"", INVALID_JSON),
    ("two values", b'"x" "y"', INVALID_JSON),
    ("two colons", b':"x"', INVALID_JSON),
    ("a comma too many", b'"x",', INVALID_JSON),
    ("two commas in a list", b"[1,,2]", INVALID_JSON),
    ("a comma at the end of a list", b"[1,]", INVALID_JSON),
    ("a comment", b'/* x */ "x"', INVALID_JSON),
    ("a comment to the end of the line", b'"x" // y', INVALID_JSON),
    ("FF for white space", b'\x0c"x"', INVALID_JSON),
    ("a no-break space", "\xa0".encode() + b'"x"', INVALID_JSON),
    ("a byte order mark before it", BOM + b'"x"', INVALID_JSON),
    ("Latin-1", b'"caf\xe9"', INVALID_ENCODING),
    ("a character cut off", b'"\xe2\x82"', INVALID_ENCODING),
    ("a continuation alone", b'"\x80"', INVALID_ENCODING),
    ("overlong", b'"\xe0\x80\xaf"', INVALID_ENCODING),
    ("a surrogate in UTF-8", b'"\xed\xa0\xbd\xed\xb8\x80"', INVALID_ENCODING),
    ("beyond Unicode", b'"\xf7\xbf\xbf\xbf"', INVALID_ENCODING),
    ("not UTF-8 outside of a string", b"\xe9", INVALID_ENCODING),
]


def rest(slug: str) -> bytes:
    """The members of an article except its body."""
    others = {"slug": slug, "title": "T", "author_id": AUTHOR, "status": "draft"}
    return json.dumps(others)[1:-1].encode()


def object_of(slug: str, body: bytes) -> bytes:
    return b'{"body":%b,%b}' % (body, rest(slug))


def row_of(slug: str, cell: bytes, mark: bytes = b",") -> bytes:
    return mark.join((slug.encode(), b"T", cell, AUTHOR.encode(), b"draft"))


HEADER = b"slug,title,body,author_id,status"

# (name, the whole object, its outcome); a line of NDJSON or an element
OBJECTS: list[tuple[str, bytes, Is | Not]] = [
    ("an escaped key", b'{"bo\\u0064y":"x",' + rest("case") + b"}", Is("x")),
    ("a key twice", b'{"body":[],"body":"x",' + rest("case") + b"}", Is("x")),
    (
        "a key twice, the last is null",
        b'{"body":"x",' + rest("case") + b',"body":null}',
        Not("missing_required", "body"),
    ),
    ("white space everywhere", b' \t{ "body" :\t"x" , ' + rest("case") + b" } ", Is("x")),
    ("a comma at the end", b'{"body":"x",' + rest("case") + b",}", INVALID_JSON),
    ("a comma at the start", b'{,"body":"x",' + rest("case") + b"}", INVALID_JSON),
    ("no comma", b'{"body":"x" ' + rest("case") + b"}", INVALID_JSON),
    ("no colon", b'{"body" "x",' + rest("case") + b"}", INVALID_JSON),
    ("a key without quotes", b'{body:"x",' + rest("case") + b"}", INVALID_JSON),
    ("a key in apostrophes", b"{'body':\"x\"," + rest("case") + b"}", INVALID_JSON),
    ("a number as a key", b'{1:"x",' + rest("case") + b"}", INVALID_JSON),
    ("a key alone", b'{"body",' + rest("case") + b"}", INVALID_JSON),
    ("a key that is not UTF-8", b'{"\xff":1,"body":"x",' + rest("case") + b"}", INVALID_ENCODING),
    ("a key with half of a pair", b'{"\\ud800":1,"body":"x",' + rest("case") + b"}", INVALID_JSON),
    ("an array", b"[]", Not("invalid_type")),
    ("a text", b'"x"', Not("invalid_type")),
    ("a number", b"-1", Not("invalid_type")),
    ("null", b"null", Not("invalid_type")),
    ("an empty object", b"{}", Not("missing_required", "slug")),
]

# cases that affect one line of NDJSON but a whole array, whose brackets have to match: (name, the line)
LINES: list[tuple[str, bytes]] = [
    ("a text not closed", object_of("case", b'"x')),
    ("a text that ends in a backslash", object_of("case", b'"x\\"')),
    ("an object not closed", object_of("case", b'"x"')[:-1]),
    ("an object closed twice", object_of("case", b'"x"') + b"}"),
    ("an object closed as an array", object_of("case", b'"x"')[:-1] + b"]"),
    ("two objects", object_of("case", b'"x"') + object_of("case", b'"x"')),
    ("an object and a comma", object_of("case", b'"x"') + b","),
    ("an object and a word", object_of("case", b'"x"') + b" x"),
    ("a comment behind the object", object_of("case", b'"x"') + b" // x"),
    ("a byte order mark before the object", BOM + object_of("case", b'"x"')),
    ("open brackets alone", b"[{" * 1000),
]

RECORDS = [(name, object_of("case", value), outcome) for name, value, outcome in VALUES] + OBJECTS


def read(format: Any, data: bytes, *, delimiter: str = ",", ignore_unknown: bool = False):
    """The bodies by slug and the errors as (line, code, field) of a file, split and parsed by the service's code."""
    limits = {"batch_size": 2, "chunk_max_bytes": 1 << 21, "record_max_bytes": RECORD_MAX_BYTES}
    cutting = FileSplitter(format=format, delimiter=delimiter, **limits)
    bodies, errors = {}, []
    for chunk in [*cutting.feed(data), *cutting.finish()]:
        parsed = parse(
            ARTICLES,
            chunk,
            format=format,
            columns=cutting.columns,
            delimiter=delimiter,
            ignore_unknown=ignore_unknown,
            record_max_bytes=RECORD_MAX_BYTES,
        )
        bodies |= {record.slug: record.body for record in parsed.records}
        errors += [(error.line, error.code, error.field) for error in parsed.errors]
    return bodies, errors


def check(outcome: Is | Not, found, *, line: int) -> None:
    """The case has its outcome, and both of its neighbours are read."""
    bodies, errors = found
    assert (bodies.pop("before"), bodies.pop("after")) == ("b", "a")
    if isinstance(outcome, Is):
        assert (bodies, errors) == ({"case": outcome.body}, [])
    else:
        assert bodies == {}
        assert errors[0] == (line, outcome.code, outcome.field)


def named(case: object) -> str | None:
    return case if isinstance(case, str) else ""


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize(("name", "cell", "outcome"), CELLS, ids=named)
def test_a_cell(name, cell, outcome, end):
    """The same with either line end, within a file and at its very end."""
    head = HEADER + end + row_of("before", b"b") + end
    check(outcome, read("csv", head + row_of("case", cell) + end + row_of("after", b"a") + end), line=3)
    turned = HEADER + end + row_of("before", b"b") + end + row_of("after", b"a") + end
    check(outcome, read("csv", turned + row_of("case", cell)), line=4)


@pytest.mark.parametrize("mark", [";", "\t", "|"], ids=["semicolon", "tab", "bar"])
def test_another_delimiter(mark):
    """It separates cells instead of the comma, which is then plain text; a quoted delimiter is text too."""
    byte = mark.encode()
    cells = [b"b", b"a, b", b'"x%by"' % byte, b'"""%b\n"' % byte, b"x%by" % byte]
    rows = [row_of(f"c-{n}", cell, byte) for n, cell in enumerate(cells)]
    bodies, errors = read("csv", b"\n".join([HEADER.replace(b",", byte), *rows]), delimiter=mark)
    assert bodies == {"c-0": "b", "c-1": "a, b", "c-2": f"x{mark}y", "c-3": f'"{mark}\n'}
    assert errors == [(7, "column_count_mismatch", None)]


@pytest.mark.parametrize(
    "header",
    [
        b'"slug","title","body","author_id","status"',
        BOM + b'"slug",title,"body",author_id,status',
        b' slug ,title,\tbody,"author_id "," status"',
        BOM + b"\r\n \n" + HEADER,
        b'slug,title,body,author_id,"status"\r',
    ],
)
def test_a_header(header):
    """Quotes, a byte order mark before them, blanks around names and blank lines above are ignored."""
    bodies, errors = read("csv", header + b"\n" + row_of("c-1", b'"x\ny"') + b"\n" + row_of("c-2", b"y") + b"\n")
    assert (bodies, errors) == ({"c-1": "x\ny", "c-2": "y"}, [])


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (row_of("case", b"x") + b",", "column_count_mismatch"),
        (row_of("case", b"x") + b',""', "column_count_mismatch"),
        (b"," + row_of("case", b"x"), "column_count_mismatch"),
        (b"," * 4, "missing_required"),
        (b",", "column_count_mismatch"),
        (b"case", "column_count_mismatch"),
        (b'"case"', "column_count_mismatch"),
        (b'"', "malformed_row"),
        (b'""', "column_count_mismatch"),
        (b"sep=,", "column_count_mismatch"),
        (HEADER, "invalid_format"),
    ],
)
def test_a_row_of_another_shape(row, code):
    """Too many or too few delimiters, also at the end, only quotes, a second header: an error of that row."""
    file = b"\n".join((HEADER, row_of("before", b"b"), row, row_of("after", b"a")))
    bodies, errors = read("csv", file)
    assert [*bodies] == ["before", "after"]
    assert errors[0][:2] == (3, code)


@pytest.mark.parametrize(("name", "record", "outcome"), RECORDS, ids=named)
def test_a_record_of_json(name, record, outcome):
    """The same as a line, with either line end and at the end of a file, and as an element of an array."""
    before, after = object_of("before", b'"b"'), object_of("after", b'"a"')
    for end in (b"\n", b"\r\n"):
        check(outcome, read("ndjson", end.join((before, record, after)) + end), line=2)
    check(outcome, read("ndjson", b"\n".join((before, after, record))), line=3)
    check(outcome, read("json", b"[%b,\n%b,\n%b]" % (before, record, after)), line=2)


@pytest.mark.parametrize(("name", "record"), LINES, ids=named)
def test_a_line_of_json(name, record):
    """In NDJSON only this line is rejected; an array may be rejected as a whole, but never without an error."""
    before, after = object_of("before", b'"b"'), object_of("after", b'"a"')
    check(INVALID_JSON, read("ndjson", b"\n".join((before, record, after))), line=2)
    try:
        bodies, errors = read("json", b"[%b,\n%b,\n%b]" % (before, record, after))
    except Unreadable as error:
        assert error.line >= 2
    else:
        check(INVALID_JSON, (bodies, errors), line=2)


@pytest.mark.parametrize(("name", "value", "outcome"), VALUES, ids=named)
def test_an_ignored_member_is_json_too(name, value, outcome):
    """The value of an ignored member must be valid JSON: the same bytes give the same result as in a known member."""
    record = b'{"more":%b,"body":"x",%b}' % (value, rest("case"))
    is_json = outcome not in (INVALID_JSON, INVALID_ENCODING)
    file = b"\n".join((object_of("before", b'"b"'), record, object_of("after", b'"a"')))
    check(Is("x") if is_json else outcome, read("ndjson", file, ignore_unknown=True), line=2)


SERVICE = {"worker_pool_size": 2, "batch_size": 7}


@pytest.fixture
async def api(api):
    """A client of a service that has the author of the articles."""
    author = {"id": AUTHOR, "email": "a@example.org", "name": "A", "role": "author", "active": True}
    await api.finished(await api.post(json={"resource": "users", "records": [author]}))
    return api


def corpus(format: str) -> tuple[bytes, list[Is | Not]]:
    """All cases of a format as one file. The slug of each is `c-` and its number."""
    if format == "csv":
        # an open quote would be closed by a quote in one of the next rows
        cases = [(cell, outcome) for _, cell, outcome in CELLS if cell.count(b'"') % 2 == 0]
        rows = [row_of(f"c-{n}", cell) for n, (cell, _) in enumerate(cases)]
        return b"\n".join([HEADER, *rows]), [outcome for _, outcome in cases]
    cases = list(RECORDS)
    if format == "ndjson":
        cases += [(name, line, INVALID_JSON) for name, line in LINES]
    records = [record.replace(b'"case"', b'"c-%d"' % n) for n, (_, record, _) in enumerate(cases)]
    file = b"\n".join(records) if format == "ndjson" else b"[\n" + b",\n".join(records) + b"]"
    return file, [outcome for *_, outcome in cases]


@pytest.mark.parametrize(
    ("format", "media_type"), [("csv", "text/csv"), ("ndjson", "application/x-ndjson"), ("json", "application/json")]
)
async def test_all_of_it_through_the_service(api, format, media_type):
    """One file of all cases: the export has each valid value byte for byte, and importing it again changes nothing."""
    file, outcomes = corpus(format)
    job = await api.finished(await api.post(file, type=media_type, params={"resource": "articles"}))
    expected = {f"c-{n}": outcome.body for n, outcome in enumerate(outcomes) if isinstance(outcome, Is)}
    assert (job["status"], job["total_records"]) == ("completed", len(outcomes))
    assert (job["counts"]["created"], job["counts"]["failed"]) == (len(expected), len(outcomes) - len(expected))

    first_errors = {error["record"]: error["code"] for error in reversed(await api.errors(job["id"]))}
    assert first_errors == {n: outcome.code for n, outcome in enumerate(outcomes, 1) if isinstance(outcome, Not)}

    for export in ("ndjson", "json", "csv"):
        given = await api.client.get("/api/v1/exports/articles/stream", params={"format": export})
        assert bodies_of(export, given.content) == expected
        again = await api.post(given.content, params={"resource": "articles", "mode": "upsert", "format": export})
        counts = (await api.finished(again))["counts"]
        assert counts == dict.fromkeys(counts, 0) | {"unchanged": len(expected)}


def bodies_of(format: str, data: bytes) -> dict[str, str]:
    """The contents of an export, read by other readers than those of the service."""
    if format == "csv":
        limit = csv.field_size_limit(RECORD_MAX_BYTES)
        records = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
        csv.field_size_limit(limit)
    else:
        records = json.loads(data) if format == "json" else [json.loads(line) for line in data.split(b"\n") if line]
    return {record["slug"]: record["body"] for record in records}
