"""Parsing for tests: chunks of given records, their errors and rows, malformed records."""

import json
from itertools import accumulate

import msgspec

from db.imports.payload import Chunk
from db.resources.definition import Parsed, Resource
from workers.parsing import parse

ID = "5864905b-ec8c-4fa6-8ba7-545d13f29b4e"
ANN = {"email": "ann@example.org", "name": "Ann", "role": "admin", "active": True}
POST = {"slug": "a-b", "title": "T", "body": "B", "author_id": ID, "status": "published"}
NOTE = {"article_id": ID, "user_id": ID, "body": "fine"}
# the errors of one record by field and code
Errors = list[tuple[str | None, str]]


def chunk(records: list[bytes], *, first_line: int = 2) -> Chunk:
    """Records as in a file, each with its line end, with arbitrary contents."""
    if all(record.count(b"\n") == 1 and record.endswith(b"\n") for record in records):
        return Chunk(1, first_line, len(records), b"".join(records))
    starts = [0, *accumulate(map(len, records))][:-1]
    lines = [0, *accumulate(record.count(b"\n") for record in records)][:-1]
    return Chunk(1, first_line, len(records), b"".join(records), starts, lines)


def read(resource: Resource, data: Chunk, form: str, **options) -> Parsed:
    given = {"columns": None, "delimiter": ",", "ignore_unknown": False, "record_max_bytes": 10_000} | options
    return parse(resource, data, format=form, **given)


def read_json(resource: Resource, *records: bytes, **options) -> Parsed:
    return read(resource, chunk([record + b"\n" for record in records]), "ndjson", **options)


def read_csv(resource: Resource, header: str, *records: bytes, **options) -> Parsed:
    return read(resource, chunk([record + b"\n" for record in records]), "csv", columns=header.split(","), **options)


def errors_of(parsed: Parsed) -> Errors:
    return [(error.field, error.code) for error in parsed.errors]


def rows(parsed: Parsed) -> list[tuple]:
    return [msgspec.structs.astuple(record) for record in parsed.records]


MALFORMED_CSV: list[tuple[bytes, Errors]] = [
    (b'ann@example.org,"Ann,admin,true', [(None, "malformed_row")]),
    (b'ann@example.org,A"n"n,admin,true', [(None, "malformed_row")]),
    (b'ann@example.org,"Ann" B,admin,true', [(None, "malformed_row")]),
    (b"ann@example.org,Ann,admin", [(None, "column_count_mismatch")]),
    (b"ann@example.org,Ann,admin,true,,", [(None, "column_count_mismatch")]),
    (b'ann@example.org,"Ann",admin', [(None, "column_count_mismatch")]),
    (b"ann@example.org,\xff,admin,true", [(None, "invalid_encoding")]),
    (b"ann@example.org," + b"\xff" * 10_000 + b",admin,true", [(None, "record_too_large")]),
    (b"ann@example.org,,admin,true", [("name", "missing_required")]),
    (b'ann@example.org,"",admin,true', [("name", "too_short")]),
    (b"ann@example.org,Ann,admin,true\r\r", [("active", "invalid_type")]),
]
MALFORMED_JSON: list[tuple[bytes, Errors]] = [
    (b"nope", [(None, "invalid_json")]),
    (b'{"email": "ann@example.org"', [(None, "invalid_json")]),
    (b'{"email": "ann@example.org"} {}', [(None, "invalid_json")]),
    (b'[1, {"a"]', [(None, "invalid_json")]),
    (b'{"name": "\\ud800"}', [(None, "invalid_json")]),
    (b'{"name": "a\tb"}', [(None, "invalid_json")]),
    (b"[1, 2]", [(None, "invalid_type")]),
    (b"1e999", [(None, "invalid_type")]),
    (b'{"name": "\xff"}', [(None, "invalid_encoding")]),
    (b'{"name": "' + b"a" * 10_000 + b'"}', [(None, "record_too_large")]),
    (json.dumps(ANN | {"x\0": 1}).encode(), [("x\ufffd", "unknown_field")]),
    (json.dumps(ANN | {"active": "true"}).encode(), [("active", "invalid_type")]),
    (json.dumps(ANN | {"created_at": 1700000000}).encode(), [("created_at", "invalid_type")]),
    (json.dumps(ANN | {"name": 5}).encode(), [("name", "invalid_type")]),
    (json.dumps(ANN)[:-1].encode() + b', "name": 1e999}', [("name", "invalid_type")]),
    (json.dumps(ANN)[:-1].encode() + b', "name": ' + b"9" * 5000 + b"}", [("name", "invalid_type")]),
    (b"{}", [(field, "missing_required") for field in ANN]),
]


def cell_of(value: object) -> str:
    """A CSV cell by RFC 4180; None is an unquoted empty one."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return '"' + text.replace('"', '""') + '"' if not text or set(text) & set(',"\n\r') else text
