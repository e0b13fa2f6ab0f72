"""Edge cases of CSV and JSON, modelled on csv-spectrum and JSONTestSuite: each is read between two valid records."""

from typing import Any

import pytest

from api.imports.splitting import FileSplitter, Unreadable
from db.resources import RESOURCES
from tests.support.corpora import (
    BOM,
    CELLS,
    HEADER,
    INVALID_ENCODING,
    INVALID_JSON,
    LINES,
    RECORD_MAX_BYTES,
    RECORDS,
    VALUES,
    Rejected,
    Valid,
    object_of,
    rest,
    row_of,
)
from workers.parsing import parse

ARTICLES = RESOURCES["articles"]


def read(format: Any, data: bytes, *, delimiter: str = ",", ignore_unknown: bool = False):
    """The bodies by slug and the errors as (line, code, field) of a file, split and parsed by the service's code."""
    limits = {"batch_size": 2, "chunk_max_bytes": 1 << 21, "record_max_bytes": RECORD_MAX_BYTES}
    splitter = FileSplitter(format=format, delimiter=delimiter, **limits)
    bodies, errors = {}, []
    for chunk in [*splitter.feed(data), *splitter.finish()]:
        parsed = parse(
            ARTICLES,
            chunk,
            format=format,
            columns=splitter.columns,
            delimiter=delimiter,
            ignore_unknown=ignore_unknown,
            record_max_bytes=RECORD_MAX_BYTES,
        )
        bodies |= {record.slug: record.body for record in parsed.records}
        errors += [(error.line, error.code, error.field) for error in parsed.errors]
    return bodies, errors


def check(outcome: Valid | Rejected, found, *, line: int) -> None:
    """The case has its outcome, and both of its neighbours are read."""
    bodies, errors = found
    assert (bodies.pop("before"), bodies.pop("after")) == ("b", "a")
    if isinstance(outcome, Valid):
        assert (bodies, errors) == ({"case": outcome.body}, [])
    else:
        assert bodies == {}
        assert errors[0] == (line, outcome.code, outcome.field)


def named(case: object) -> str:
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
    check(Valid("x") if is_json else outcome, read("ndjson", file, ignore_unknown=True), line=2)
