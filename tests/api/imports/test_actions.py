"""Actions on imports: refused records are downloaded, corrected and imported; retry, commit, cancel, delete."""

import csv
import io
import json
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.support import api_client
from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.eventually import broken_off, eventually

RECORDS = 20
WORKERS = 2
LOCK = 4711
RECORD_MAX_BYTES = 2000
UNKNOWN_ID = "0192f0c1-0000-7000-8000-000000000000"
SERVICE = {"worker_pool_size": WORKERS, "batch_size": 3, "claim_chunks_max": 1, "record_max_bytes": RECORD_MAX_BYTES}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def idle(server_url, tmp_path_factory):
    folder = tmp_path_factory.mktemp("idle")
    async with api_client.service(server_url, folder, run=["api"], batch_size=3) as service:
        yield service


@pytest.fixture
async def waiting(idle):
    """An API without workers: no import is processed."""
    async with api_client.connected(idle) as api:
        yield api


class File(NamedTuple):
    """A file in which every third record has the role `boss`, which does not exist."""

    type: str
    head: bytes
    separator: bytes
    tail: bytes
    records: list[bytes]
    params: dict[str, str]

    @property
    def content(self) -> bytes:
        return self.of(self.records)

    @property
    def refused(self) -> list[bytes]:
        return [record for record in self.records if b"boss" in record]

    def of(self, records: list[bytes]) -> bytes:
        return self.head + self.separator.join(records) + self.tail


def rows(template: bytes) -> list[bytes]:
    return [
        template.replace(b"ROLE", b"boss" if n % 3 == 1 else b"reader").replace(b"#", b"%d" % n) for n in range(RECORDS)
    ]


SEMICOLONS = {"csv_delimiter": ";"}
FILES = {
    "csv": File("text/csv", USERS_HEADER, b"", b"", rows(b"u#@example.org,User #,ROLE,true\n"), {}),
    "csv, CRLF": File(
        "text/csv", b"role,email,name,active\r\n", b"", b"", rows(b'ROLE,u#@example.org,"User ""#""",true\r\n'), {}
    ),
    "csv, newlines in quotes": File(
        "text/csv", USERS_HEADER, b"", b"", rows('u#@example.org,"Ä\n\r\n#, ""x""\n",ROLE,true\n'.encode()), {}
    ),
    "csv, semicolons": File(
        "text/csv", b'"email";name;active;role\n', b"", b"", rows(b"u#@example.org;User, #;true;ROLE\n"), SEMICOLONS
    ),
    "ndjson": File(
        "application/x-ndjson",
        b"",
        b"",
        b"",
        rows(b'  {"email" : "u#@example.org","name":"\\u00dc #", "role":"ROLE", "active":true}  \r\n'),
        {},
    ),
    "json": File(
        "application/json",
        b"[",
        b",\n",
        b"]",
        rows(b'{\n  "email": "u#@example.org", "name": "U,\\n #",\n  "role": "ROLE", "active": true}'),
        {},
    ),
}
EACH_FILE = pytest.mark.parametrize("file", FILES.values(), ids=list(FILES))


async def imported(api, file: File, content: bytes | None = None, **params) -> dict:
    return await api.finished(await api.post(content or file.content, type=file.type, params=asked(file, **params)))


def asked(file: File, **params) -> dict[str, str]:
    return {"resource": "users"} | file.params | params


async def records_of(api, job: dict, which: str, **params) -> bytes:
    answer = await api.client.get(job["links"][f"{which}_records"], params=params)
    assert answer.status_code == 200, answer.text
    return answer.content


async def problem(answer: httpx.Response, status: int, slug: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"/problems/{slug}"
    return answer.json()


@EACH_FILE
async def test_refused_records_come_back_as_they_were_sent(api, file):
    """Refused records are returned byte by byte, in order, below the header. After a correction all are accepted."""
    job = await imported(api, file)
    assert job["counts"] == job["counts"] | {"created": 13, "failed": 7, "unprocessed": 0}
    answer = await api.client.get(job["links"]["failed_records"])
    assert answer.content == file.of(file.refused)
    assert answer.headers["content-type"].partition(";")[0] == file.type
    assert answer.headers["content-disposition"] == f'attachment; filename="users-failed.{job["format"]}"'
    assert await records_of(api, job, "unprocessed") == file.of([])
    again = await imported(api, file, answer.content.replace(b"boss", b"admin"))
    assert (again["outcome"], again["counts"]["created"]) == ("success", 7)
    assert await records_of(api, again, "failed") == file.of([])


@EACH_FILE
async def test_an_annotated_file_can_be_mended_and_posted(api, file):
    """Annotations have the line and the errors of each record. An import ignores them, and a second download replaces them."""
    job = await imported(api, file)
    first = await records_of(api, job, "failed", annotate="true")
    errors = await api.errors(job["id"])
    wanted = [(error["line"], [(error["field"], error["code"])]) for error in errors]
    assert annotations(file, first) == wanted
    # a member is added after the opening brace of an object, a cell before the row
    assert all(record.strip().removeprefix(b"{") in first for record in file.refused)
    again = await imported(api, file, first)
    assert (again["outcome"], again["counts"]["failed"]) == ("rejected", 7)
    second = await records_of(api, again, "failed", annotate="true")
    assert [of for _, of in annotations(file, second)] == [of for _, of in wanted]
    assert second.count(b"_errors") == first.count(b"_errors")
    mended = await imported(api, file, second.replace(b"boss", b"admin"))
    assert (mended["outcome"], mended["counts"]["created"]) == ("success", 7)


def annotations(file: File, content: bytes) -> list[tuple[int, list[tuple[str, str]]]]:
    """The line of each record, and the field and code of its errors."""
    if file.type == "text/csv":
        text = io.StringIO(content.decode(), newline="")
        delimiter = file.params.get("csv_delimiter", ",")
        found: list[Any] = [
            row | {"_errors": json.loads(row["_errors"])} for row in csv.DictReader(text, delimiter=delimiter)
        ]
    elif file.type == "application/json":
        found = json.loads(content)
    else:
        found = [json.loads(line) for line in content.split(b"\n")[:-1]]
    return [(int(row["_line"]), [(error["field"], error["code"]) for error in row["_errors"]]) for row in found]


BROKEN = {
    "text/csv": [
        b"a@example.org,too,few\n",
        b'b@example.org,"a quote in the "middle" of it",reader,true\r\n',
        b'c@example.org,"not closed,reader,true\n',
        b"d@example.org,\xff\xfe,reader,true\n",
    ],
    "application/x-ndjson": [b'{"email":"a@example.org",}\n', b"[1]\r\n", b"12 \n", b'{"name":"\xff"}\n', b"{} {}\n"],
    "application/json": [b'{"email":"a@example.org",}', b"[1]", b"nul", b'{"name":"\xff"}', b'"{"'],
}


@pytest.mark.parametrize("type", BROKEN)
async def test_broken_records_come_back_as_they_were_sent(api, type):
    """Records that cannot be parsed are returned too; their annotation does not damage the other records."""
    shape = next(file for file in FILES.values() if file.type == type)
    file = shape._replace(records=[*BROKEN[type], *shape.records[:2]])
    job = await imported(api, file)
    assert job["counts"]["failed"] == len(BROKEN[type]) + 1
    assert await records_of(api, job, "failed") == file.of([*BROKEN[type], shape.records[1]])
    annotated = await records_of(api, job, "failed", annotate="true")
    assert annotated.count(b"invalid_enum") == 1
    again = await imported(api, file, annotated.replace(b"boss", b"admin"))
    assert (again["total_records"], again["counts"]["created"]) == (len(BROKEN[type]) + 1, 1)


async def test_too_large_elements_leave_the_array_whole(api):
    """A too large element is stored truncated; in the array an object with its line replaces it."""
    file = FILES["json"]
    large = b'{"email": "%b"}' % (b"x" * 2 * RECORD_MAX_BYTES)
    job = await imported(api, file, file.of([large, file.refused[0]]))
    assert await records_of(api, job, "failed") == file.of([b'{"_line":1}', file.refused[0]])
    annotated = json.loads(await records_of(api, job, "failed", annotate="true"))
    assert [error["code"] for error in annotated[0]["_errors"]] == ["record_too_large"]
    retried = await api.finished(await api.client.post(job["links"]["retry"]))
    assert [count["code"] for count in retried["error_summary"]] == ["invalid_enum", "record_too_large"]


@asynccontextmanager
async def held_up(api):
    """Sessions that store a user with an e-mail like u0% wait until the end of the block. Yields a function that counts them."""
    await api.conn.execute(
        f"""
        CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN new; END $$;
        CREATE TRIGGER held_up BEFORE INSERT ON users FOR EACH ROW WHEN (new.email LIKE 'u0%')
        EXECUTE FUNCTION wait_for_test();
        SELECT pg_advisory_lock({LOCK});
        """
    )
    try:
        yield lambda: api.value("SELECT count(*) FROM pg_locks WHERE objid = %s AND NOT granted", LOCK)
    finally:
        await api.conn.execute(f"SELECT pg_advisory_unlock({LOCK})")
        await eventually(api.is_idle)
        await api.conn.execute("DROP TRIGGER held_up ON users; DROP FUNCTION wait_for_test()")


@EACH_FILE
async def test_cancel_and_retry(api, file):
    """If an import is cancelled while two chunks are being stored, these are finished, no other is started, and the retry stores
    each of the other records once."""
    early = [record.replace(b"u", b"u0", 1) for record in file.records]
    many = file._replace(records=[*early[:5], early[0], *early[6:], *file.records])
    async with held_up(api) as waiters:

        async def is_held_up() -> bool:
            return await waiters() == WORKERS

        posted = await api.post(many.content, type=file.type, params=asked(file, mode="skip"))
        await eventually(is_held_up)
        answer = await api.client.post(posted.json()["links"]["cancel"])
        assert (answer.status_code, answer.json()["status"]) == (202, "processing")
        assert (await api.client.post(posted.json()["links"]["cancel"])).status_code == 202
    job = await api.finished(posted)
    assert job["status"] == "cancelled"
    assert job["counts"] == job["counts"] | {"created": 3, "skipped": 1, "failed": 2, "unprocessed": 2 * RECORDS - 6}
    assert await records_of(api, job, "failed") == many.of([many.records[1], many.records[4]])
    assert await records_of(api, job, "unprocessed") == many.of(many.records[6:])

    child = await api.finished(await api.client.post(job["links"]["retry"]))
    assert child["parent_id"] == job["id"]
    assert (child["mode"], child["format"], child["resource"]) == (job["mode"], job["format"], "users")
    left = many.of([many.records[1], many.records[4], *many.records[6:]])
    assert (child["total_records"], child["file"]["bytes"]) == (2 * RECORDS - 4, len(left))
    assert child["file"]["sha256"] == sha256(left).hexdigest()
    sound = {record for record in many.records if b"boss" not in record}
    assert await api.value("SELECT count(*) FROM users") == len(sound)


async def test_retry_once_the_cause_is_mended(api):
    """Once the missing parent is stored, the retry stores its records. Errors have the line numbers of the first file."""
    author = uuid4()
    header = b"slug,title,body,author_id,status\n"
    row = b"a%d,A,text,%b,draft\n"
    authors = [str(uuid4() if n == 8 else author).encode() for n in range(10)]
    content = header + b"\n".join(row % (n, id) for n, id in enumerate(authors))
    params = {"resource": "articles"}
    job = await api.finished(await api.post(content, type="text/csv", params=params))
    assert (job["outcome"], job["counts"]["failed"]) == ("rejected", 10)
    await api.conn.execute(
        "INSERT INTO users (id, email, name, role, active) VALUES (%s, 'a@example.org', 'A', 'author', true)",
        (author,),
    )
    answer = await api.client.post(job["links"]["retry"])
    child = await api.finished(answer)
    assert (child["outcome"], child["counts"]["created"], child["counts"]["failed"]) == ("partial", 9, 1)
    assert child["parent_id"] == job["id"]
    lines = {error["record"]: error["line"] for error in await api.errors(job["id"])}
    assert [(error["record"], error["line"]) for error in await api.errors(child["id"])] == [(9, lines[9])]
    repeated = await api.client.post(job["links"]["retry"])
    assert (repeated.status_code, repeated.headers["idempotent-replayed"]) == (200, "true")
    assert repeated.json()["id"] == child["id"]
    grandchild = await api.finished(await api.client.post(child["links"]["retry"]))
    assert [error["line"] for error in await api.errors(grandchild["id"])] == [lines[9]]


async def test_nothing_to_retry(api):
    """An import without failed or unprocessed records cannot be retried, and has no link to a retry."""
    job = await api.finished(await api.post(USERS_HEADER + user_row(1), type="text/csv", params={"resource": "users"}))
    assert "retry" not in job["links"]
    await problem(await api.client.post(f"{PATH}/{job['id']}/retry"), 409, "nothing-to-retry")


@EACH_FILE
async def test_commit_of_a_dry_run(api, file):
    """A commit imports the same file: no record was stored before, and the counts are those of the dry run. It is done once."""
    dry = await imported(api, file, dry_run="true", max_errors="10")
    assert await api.value("SELECT count(*) FROM users") == 0
    assert await records_of(api, dry, "failed") == file.of(file.refused)
    answer = await api.client.post(dry["links"]["commit"])
    job = await api.finished(answer)
    assert (job["parent_id"], job["dry_run"], job["counts"]) == (dry["id"], False, dry["counts"])
    assert job["file"] == dry["file"]
    assert await api.errors(job["id"]) == await api.errors(dry["id"])
    assert await api.value("SELECT count(*) FROM users") == 13
    assert await api.value("SELECT max_errors FROM import_jobs WHERE id = %s", job["id"]) == 10
    repeated = await api.client.post(dry["links"]["commit"])
    assert (repeated.status_code, repeated.json()["id"]) == (200, job["id"])
    await problem(await api.client.post(f"{PATH}/{job['id']}/commit"), 409, "not-committable")


async def test_commit_of_an_empty_dry_run(api):
    """A file without records is a completed import immediately, also as a commit."""
    dry = await api.finished(
        await api.post(USERS_HEADER, type="text/csv", params={"resource": "users", "dry_run": "1"})
    )
    job = (await api.client.post(dry["links"]["commit"])).json()
    assert (job["status"], job["total_records"], job["parent_id"]) == ("completed", 0, dry["id"])


async def test_all_errors_at_once(api):
    """CSV and NDJSON have every error and the same filters as the pages; no cell of the CSV is a formula."""
    formulas = ["=1+1", "+1", "-1", "@x", "\t=x", "\n=x", "\uff1d1+1"]
    users = "".join(f'"{formula}","{"n" * 256}",boss,true\n' for formula in formulas * 250)
    job = await api.finished(
        await api.post(USERS_HEADER + users.encode(), type="text/csv", params={"resource": "users"})
    )
    errors = await api.errors(job["id"])
    assert len(errors) == 3 * len(formulas) * 250
    for filters in ({}, {"field": "email"}, {"code": "invalid_enum"}, {"code": "already_exists"}):
        wanted = [error for error in errors if all(error[name] == value for name, value in filters.items())]
        lines = await api.client.get(job["links"]["errors"], params={"format": "ndjson", **filters})
        assert lines.status_code == 200, lines.text
        assert [json.loads(line) for line in lines.text.split("\n")[:-1]] == wanted
        answer = await api.client.get(job["links"]["errors"], params={"format": "csv", **filters})
        assert answer.headers["content-disposition"] == 'attachment; filename="users-errors.csv"'
        table = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        cells = ["value", "key", "message", "field", "code", "record", "line"]
        assert [[row[name].removeprefix("'") for name in cells] for row in table] == [
            [str(error[name]) for name in cells] for error in wanted
        ]
        assert not [
            cell
            for row in table
            for cell in row.values()
            if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))
        ]
        assert next(csv.reader(io.StringIO(answer.text))) == [*errors[0]]


async def test_what_is_not_whole_does_not_look_whole(api):
    """After a removal of records or errors the response is 404; during the transfer, the connection is closed."""
    file = FILES["csv"]
    job = await imported(api, file)
    await api.conn.execute(
        "DELETE FROM import_payloads WHERE import_id = %s AND first_record > %s", (job["id"], RECORDS / 2)
    )
    for annotate in ("false", "true"):
        with broken_off():
            await api.client.get(job["links"]["failed_records"], params={"annotate": annotate})
    retries = await api.client.post(job["links"]["retry"])
    await problem(retries, 404, "not-found")
    assert await api.value("SELECT count(*) FROM import_jobs") == 1
    await api.conn.execute("DELETE FROM import_errors WHERE import_id = %s", (job["id"],))
    await problem(await api.client.get(job["links"]["failed_records"]), 404, "not-found")
    for format in ("csv", "ndjson"):
        await problem(await api.client.get(job["links"]["errors"], params={"format": format}), 404, "not-found")


@EACH_FILE
async def test_cancel_before_the_work_has_begun(waiting, file):
    """A pending import is cancelled immediately. All records are unprocessed, and a retry imports the whole file."""
    posted = await waiting.post(file.content, type=file.type, params=asked(file))
    job = posted.json()
    assert {*job["links"]} >= {"cancel", "failed_records", "unprocessed_records"}
    assert not {"retry", "commit"} & {*job["links"]}
    assert await records_of(waiting, job, "unprocessed") == file.content
    assert await records_of(waiting, job, "failed") == file.of([])
    await problem(await waiting.client.post(f"{PATH}/{job['id']}/retry"), 409, "not-final")
    answer = await waiting.client.post(job["links"]["cancel"])
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    job = await waiting.finished(posted)
    assert job["counts"]["unprocessed"] == RECORDS
    assert await records_of(waiting, job, "unprocessed") == file.content
    await problem(await waiting.client.post(f"{PATH}/{job['id']}/cancel"), 409, "already-final")
    child = (await waiting.client.post(job["links"]["retry"])).json()
    assert child["file"] == job["file"]
    assert (child["status"], child["total_records"]) == ("pending", RECORDS)
    assert await records_of(waiting, child, "unprocessed") == file.content


async def test_what_is_set_aside_is_not_done(waiting):
    """A deferred record counts as unprocessed until it is settled, even if its chunk is done."""
    file = FILES["ndjson"]
    job = (await waiting.post(file.content, type=file.type, params=asked(file))).json()
    await waiting.conn.execute("UPDATE chunks SET state = 'done', finished_at = now() WHERE seq IN (1, 2)")
    await waiting.conn.execute(
        "INSERT INTO import_deferred (import_id, record, line, data) VALUES (%s, 5, 5, '{}')", (job["id"],)
    )
    assert await records_of(waiting, job, "unprocessed") == file.of([file.records[4], *file.records[6:]])


async def test_delete(waiting):
    """A final import is deleted with its chunks, errors and payloads. Its key can be used again, and its child remains."""
    headers = {"Idempotency-Key": "mine"}
    params = {"resource": "users"}
    content = USERS_HEADER + user_row(1)
    job = (await waiting.post(content, type="text/csv", params=params, headers=headers)).json()
    address = job["links"]["self"]
    await problem(await waiting.client.delete(address), 409, "not-final")
    await waiting.client.post(job["links"]["cancel"])
    child = (await waiting.client.post(f"{address}/retry")).json()
    answer = await waiting.client.delete(address)
    assert (answer.status_code, answer.content) == (204, b"")
    await problem(await waiting.client.delete(address), 404, "not-found")
    assert (await waiting.client.get(child["links"]["self"])).json()["parent_id"] is None
    again = await waiting.post(content, type="text/csv", params=params, headers=headers)
    assert (again.status_code, again.json()["id"] != job["id"]) == (202, True)
    assert not await waiting.value("SELECT count(*) FROM chunks WHERE import_id = %s", job["id"])
    assert not await waiting.value("SELECT count(*) FROM import_payloads WHERE import_id = %s", job["id"])


async def test_who_waits_for_a_deleted_import_is_stopped(waiting):
    """An import that waits for a cancelled one is stopped, not started, when that one is deleted."""
    first = (await waiting.post(USERS_HEADER + user_row(1), type="text/csv", params={"resource": "users"})).json()
    params = {"resource": "users", "after": first["id"]}
    second = (await waiting.post(USERS_HEADER + user_row(2), type="text/csv", params=params)).json()
    await waiting.client.post(first["links"]["cancel"])
    await waiting.client.delete(first["links"]["self"])
    job = (await waiting.client.get(second["links"]["self"])).json()
    assert job["problem"]["type"] == "/problems/after-not-completed"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("my users.CSV.gz", "my_users-unprocessed.csv"),
        ('x"; filename=y\\..\\ü ber-1.csv', "ber-1-unprocessed.csv"),
        ("名前.csv", "users-unprocessed.csv"),
        ("..", "users-unprocessed.csv"),
    ],
)
async def test_names_of_files(waiting, name, wanted):
    """The name of a download contains only safe characters of the client's file name."""
    job = (
        await waiting.post(params={"resource": "users", "format": "csv"}, files={"file": ("u", USERS_HEADER)})
    ).json()
    await waiting.conn.execute("UPDATE import_jobs SET file_name = %s", (name,))
    answer = await waiting.client.get(job["links"]["unprocessed_records"])
    assert answer.headers["content-disposition"] == f'attachment; filename="{wanted}"'


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/failed-records"),
        ("GET", "/unprocessed-records"),
        ("POST", "/retry"),
        ("POST", "/commit"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ],
)
async def test_bad_requests(waiting, method, path):
    """An unknown id is 404, an unknown parameter 400; neither has an effect."""
    for id in (UNKNOWN_ID, "x"):
        await problem(await waiting.client.request(method, f"{PATH}/{id}{path}"), 404, "not-found")
    job = (await waiting.post(USERS_HEADER + user_row(1), type="text/csv", params={"resource": "users"})).json()
    answer = await waiting.client.request(method, f"{PATH}/{job['id']}{path}", params={"colour": "red"})
    assert [fault["field"] for fault in (await problem(answer, 400, "invalid-request"))["errors"]] == ["colour"]
    assert (await waiting.client.get(job["links"]["self"])).json() == job


async def test_one_page_or_all_errors(waiting):
    """A file of all errors cannot be requested with a limit or a cursor."""
    job = (await waiting.post(USERS_HEADER + user_row(1), type="text/csv", params={"resource": "users"})).json()
    for query in ({"limit": "5"}, {"cursor": "WzEsMV0="}):
        answer = await waiting.client.get(job["links"]["errors"], params={"format": "csv", **query})
        await problem(answer, 400, "invalid-request")
