"""Invalid files, through the whole service: each has the expected response, and no effect on other requests."""

import gzip

import pytest

from api.imports.decompression import zstd
from tests.support import api_client
from tests.support.api_client import USERS_HEADER, user_object, user_row
from tests.support.eventually import eventually

TYPES = {"csv": "text/csv", "ndjson": "application/x-ndjson", "json": "application/json"}

BOM = b"\xef\xbb\xbf"
DEEP = 100_000
# beyond RECORD_MAX_BYTES, which is 1 MiB
HUGE = b"x" * 2_000_000


def csv(*lines: bytes) -> bytes:
    return USERS_HEADER + b"".join(lines)


def ndjson(*lines: bytes) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def array(*elements: bytes) -> bytes:
    """One element a line, the first of them on line 2."""
    return b"[\n" + b",\n".join(elements) + b"\n]\n"


def user(**members: bytes) -> bytes:
    """The object of user 9 with some members replaced by other JSON."""
    parts = {"email": b'"user9@example.org"', "name": b'"User 9"', "role": b'"reader"', "active": b"true"} | members
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in parts.items()) + b"}"


# one bad record between the sound users 1 and 2: (format, what is bad, the record, its errors as (field, code))
RECORDS = [
    ("csv", "too short", b"user9@example.org,B,reader", [(None, "column_count_mismatch")]),
    ("csv", "too long", b"user9@example.org,B,reader,true,,", [(None, "column_count_mismatch")]),
    ("csv", "quotes in the middle of a cell", b'user9@example.org,B "b" b,reader,true', [(None, "malformed_row")]),
    ("csv", "text behind a quoted cell", b'user9@example.org,"B"b,reader,true', [(None, "malformed_row")]),
    ("csv", "a quote that is not closed", b'user9@example.org,"B,reader,true', [(None, "malformed_row")]),
    ("csv", "2 MB", b"user9@example.org," + HUGE + b",reader,true", [(None, "record_too_large")]),
    ("csv", "2 MB within quotes", b'user9@example.org,"' + HUGE + b'",reader,true', [(None, "record_too_large")]),
    ("csv", "a cell too long", b"user9@example.org," + HUGE[:256] + b",reader,true", [("name", "too_long")]),
    ("csv", "NUL", b"user9@example.org,B\0b,reader,true", [("name", "invalid_format")]),
    ("csv", "not UTF-8", b"user9@example.org,B\xff,reader,true", [(None, "invalid_encoding")]),
    (
        "csv",
        "every field",
        b',"",boss,maybe',
        [("email", "missing_required"), ("name", "too_short"), ("role", "invalid_enum"), ("active", "invalid_type")],
    ),
    ("ndjson", "malformed", b'{"email":"user9@example.org",', [(None, "invalid_json")]),
    ("ndjson", "an array", b"[1]", [(None, "invalid_type")]),
    ("ndjson", "a scalar", b"null", [(None, "invalid_type")]),
    ("ndjson", "two objects", user() + user(), [(None, "invalid_json")]),
    ("ndjson", "2 MB", user(name=b'"' + HUGE + b'"'), [(None, "record_too_large")]),
    ("ndjson", "NUL, escaped", user(name=b'"B\\u0000"'), [("name", "invalid_format")]),
    ("ndjson", "NUL", user(name=b'"B\0"'), [(None, "invalid_json")]),
    ("ndjson", "not UTF-8", user(name=b'"B\xff"'), [(None, "invalid_encoding")]),
    ("ndjson", "a lone high surrogate", user(name=b'"\\ud800"'), [(None, "invalid_json")]),
    ("ndjson", "a lone low surrogate", user(name=b'"\\udc00x"'), [(None, "invalid_json")]),
    ("ndjson", "open brackets", b"[" * DEEP, [(None, "invalid_json")]),
    ("ndjson", "deep nesting", user(more=b"[" * DEEP + b"]" * DEEP), [(None, "invalid_json")]),
    ("ndjson", "an infinite number", user(name=b"1e999"), [("name", "invalid_type")]),
    ("ndjson", "a very long number", user(active=b"9" * 5000), [("active", "invalid_type")]),
    ("ndjson", "unknown keys", user(shoe=b"45", age=b"[]"), [("shoe", "unknown_field"), ("age", "unknown_field")]),
    (
        "ndjson",
        "every type",
        user(email=b"[]", name=b"{}", role=b"true", active=b'"true"'),
        [(field, "invalid_type") for field in ("email", "name", "role", "active")],
    ),
    ("json", "malformed", b'{"email" "user9@example.org"}', [(None, "invalid_json")]),
    ("json", "an array", b"[]", [(None, "invalid_type")]),
    ("json", "a scalar", b'"]"', [(None, "invalid_type")]),
    ("json", "deep nesting", user(more=b'{"a":' * DEEP + b"1" + b"}" * DEEP), [(None, "invalid_json")]),
    ("json", "2 MB", user(name=b'"' + HUGE + b'"'), [(None, "record_too_large")]),
    ("json", "NUL, escaped", user(name=b'"\\u0000"'), [("name", "invalid_format")]),
    ("json", "not UTF-8", user(name=b'"\xff"'), [(None, "invalid_encoding")]),
    ("json", "a lone surrogate", user(name=b'"\\ud800"'), [(None, "invalid_json")]),
]

QUOTED_NEWLINES = b'user1@example.org,"A\r\n\nB ""b""",reader,true\n'
OPEN_QUOTE = b'user9@example.org,"B,reader,true\n'
NO_EMAIL = b"user9,B,reader,true\n"

# (format, what is odd, the file, the numbers of the users in it that are sound, the errors as (line, field, code))
FILES = [
    ("csv", "quoted newlines", csv(QUOTED_NEWLINES, NO_EMAIL, user_row(2)), [1, 2], [(5, "email", "invalid_format")]),
    (
        "csv",
        "open quotes",
        csv(OPEN_QUOTE, user_row(1), OPEN_QUOTE, user_row(2)),
        [1, 2],
        [(2, None, "malformed_row"), (4, None, "malformed_row")],
    ),
    (
        "csv",
        "blank lines",
        b"\n\r\n" + csv(b"\n", user_row(1), b"  \n\n", NO_EMAIL, b"\n"),
        [1],
        [(8, "email", "invalid_format")],
    ),
    (
        "csv",
        "CRLF",
        csv(user_row(1), NO_EMAIL, user_row(2)).replace(b"\n", b"\r\n"),
        [1, 2],
        [(3, "email", "invalid_format")],
    ),
    ("csv", "cut off", csv(user_row(1), user_row(9)[:-6]), [1], [(3, None, "column_count_mismatch")]),
    ("csv", "no last newline", csv(user_row(1), user_row(2))[:-1], [1, 2], []),
    ("csv", "BOM", BOM + csv(user_row(1)), [1], []),
    ("csv", "header alone", USERS_HEADER, [], []),
    ("csv", "header alone without newline", BOM + USERS_HEADER[:-1], [], []),
    ("csv", "empty", b"", [], []),
    ("csv", "blanks alone", b" \r\n\n\t\n", [], []),
    (
        "ndjson",
        "an object over two lines",
        ndjson(user_object(9).replace(b",", b",\n", 1), user_object(1)),
        [1],
        [(1, None, "invalid_json"), (2, None, "invalid_json")],
    ),
    (
        "ndjson",
        "BOM, CRLF, blank lines",
        BOM + ndjson(b"", user_object(1), b" ", b"{", user_object(2)).replace(b"\n", b"\r\n"),
        [1, 2],
        [(4, None, "invalid_json")],
    ),
    ("ndjson", "cut off", ndjson(user_object(1), user_object(9))[:-10], [1], [(2, None, "invalid_json")]),
    ("ndjson", "a key twice", ndjson(user_object(1).replace(b"{", b'{"role":"boss",')), [1], []),
    ("ndjson", "BOM alone", BOM, [], []),
    (
        "json",
        "BOM, spread over lines",
        BOM + array(user_object(1), user(email=b"null"), user_object(2)).replace(b",", b",\r\n"),
        [1, 2],
        [(7, "email", "missing_required")],
    ),
    ("json", "no element", b" [ ] ", [], []),
    ("json", "blanks alone", b" \n", [], []),
]

ALL = ["email", "name", "role", "active"]

# (content type or encoding, what is wrong, the file, a part of the answer's words, the fields that it names)
UNREADABLE = [
    ("csv", "no header", user_row(1), "header", [*ALL, "user1@example.org", "User 1", "reader", "true"]),
    ("csv", "a column missing", b"email,role,active\na@example.org,reader,true\n", "header", ["name"]),
    ("csv", "an unknown column", b"email,name,role,active,shoe\n" + user_row(1), "header", ["shoe"]),
    ("csv", "a column twice", b"email,name,role,active,name\n", "twice", []),
    ("csv", "a column without a name", b"email,name,,role,active\n", "column 3", []),
    ("csv", "an open quote in the header", b'"' + csv(user_row(1)), "quote", []),
    ("csv", "a header that is not UTF-8", b"email,n\xffme,role,active\n", "0xFF", []),
    ("csv", "a header of 2 MB", HUGE, "longer than", []),
    ("csv", "another delimiter", USERS_HEADER.replace(b",", b";"), "header", [*ALL, "email;name;role;active"]),
    ("csv", "UTF-16", csv(user_row(1)).decode().encode("utf-16"), "UTF-16", []),
    ("csv", "UTF-16 without BOM", b"a\n".decode().encode("utf-16-le"), "header", [*ALL, "a\0"]),
    ("ndjson", "UTF-16", user().decode().encode("utf-16"), "UTF-16", []),
    ("json", "UTF-32", array(user()).decode().encode("utf-32"), "UTF-32", []),
    ("json", "a scalar", b"42", "not a JSON array", []),
    ("json", "not closed", array(user())[:-3], "not closed", []),
    ("json", "cut off in an element", array(user())[:-20], "not closed", []),
    ("json", "more behind the end", array(user()) + b"[]", "after the end", []),
    ("json", "no comma", b"[" + user() + user() + b"]", "comma", []),
    ("json", "a comma too many", b"[" + user() + b",]", "missing", []),
    ("json", "brackets that do not match", b'[{"a":[}]]', "match", []),
    ("json", "nothing but brackets", b"[" * DEEP, "not closed", []),
    ("gzip", "cut off", gzip.compress(csv(user_row(1)))[:-9], "too early", []),
    ("gzip", "a wrong checksum", gzip.compress(csv(user_row(1)))[:-8] + b"\0" * 8, "gzip", []),
    ("gzip", "not packed", csv(user_row(1)), "gzip", []),
    ("zstd", "cut off", zstd.compress(csv(user_row(1)))[:-1], "too early", []),
    ("zstd", "not packed", csv(user_row(1)), "zstd", []),
]


def named(value: object) -> str | None:
    """Test ids from the words of a case, not from its file."""
    return value if isinstance(value, str) else ""


# several chunks for most files
SERVICE = {"worker_pool_size": 2, "batch_size": 2}


def full_pool(service) -> list[int]:
    """The pids of the workers, once all of them run."""
    children = service.workers.children()
    return children if len(children) == int(service.environment["WORKER_POOL_SIZE"]) else []


@pytest.fixture
async def api(shared):
    """After each test the same processes must still run."""
    # a pool that has just been started has no children yet
    workers = await eventually(lambda: full_pool(shared))
    async with api_client.connected(shared) as api:
        yield api
        assert (await api.client.get("/live")).status_code == 200
    assert shared.workers.children() == workers
    assert shared.workers.exit_code is shared.api.exit_code is None


@pytest.mark.parametrize(("format", "what", "record", "errors"), RECORDS, ids=named)
async def test_a_bad_record_does_not_affect_others(api, format, what, record, errors):
    """An invalid record is refused with all of its errors and its line; the other records are stored."""
    line, file = {
        "csv": (3, csv(user_row(1), record + b"\n", user_row(2))),
        "ndjson": (2, ndjson(user_object(1), record, user_object(2))),
        "json": (3, array(user_object(1), record, user_object(2))),
    }[format]
    await check(api, format, file, [1, 2], [(line, *error) for error in errors])


@pytest.mark.parametrize(("format", "what", "file", "users", "errors"), FILES, ids=named)
async def test_a_file_of_unusual_records_is_read_to_its_end(api, format, what, file, users, errors):
    """Line numbers are those of the file, and only invalid records are refused."""
    await check(api, format, file, users, errors)


@pytest.mark.parametrize(("kind", "what", "file", "words", "fields"), UNREADABLE, ids=named)
async def test_a_file_that_cannot_be_read_is_refused_at_once(api, kind, what, file, words, fields):
    """The response is 400 with the reason, and nothing of the file is stored."""
    headers = {"Content-Encoding": kind} if kind in ("gzip", "zstd") else {}
    answer = await api.post(file, type=TYPES.get(kind, TYPES["csv"]), params={"resource": "users"}, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/invalid-request"
    assert words in problem["detail"]
    assert [fault["field"] for fault in problem.get("errors", [])] == fields
    assert await api.has_nothing()


@pytest.mark.parametrize(
    ("format", "file"),
    [
        ("csv", USERS_HEADER[:-1] + b",shoe\n" + user_row(1)[:-1] + b",45\n"),
        ("ndjson", user_object(1)[:-1] + b',"shoe":45}'),
    ],
)
async def test_unknown_fields_may_be_ignored(api, format, file):
    """With unknown_fields=ignore, unknown columns and keys are ignored."""
    await check(api, format, file, [1], [], unknown_fields="ignore")


async def check(api, format: str, file: bytes, users: list[int], errors: list[tuple], **params: str) -> None:
    """Imports a file of users and compares the stored users, the errors and the job's counts."""
    posted = await api.post(file, type=TYPES[format], params={"resource": "users", **params})
    job = await api.finished(posted)
    found = [(error["line"], error["field"], error["code"]) for error in await api.errors(job["id"])]
    assert found == errors
    stored = await (await api.conn.execute("SELECT email FROM users ORDER BY email")).fetchall()
    assert stored == [(f"user{n}@example.org",) for n in users]
    assert (job["status"], job["outcome"]) == ("completed", "partial" if errors else "success")
    assert (job["format"], job["file"]["bytes"]) == (format, len(file))
