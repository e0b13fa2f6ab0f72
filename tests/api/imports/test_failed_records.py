"""The files of refused records and of errors: byte for byte as they were sent, annotated, complete or broken off."""

import csv
import io
import json
from typing import Any

import pytest

from tests.support.api_client import USERS_HEADER, problem
from tests.support.eventually import broken_off
from tests.support.refused_files import EACH_FILE, FILES, RECORDS, File, imported, records_of

RECORD_MAX_BYTES = 2000
SERVICE = {"worker_pool_size": 2, "batch_size": 3, "claim_chunks_max": 1, "record_max_bytes": RECORD_MAX_BYTES}


@EACH_FILE
async def test_refused_records_are_returned_as_they_were_sent(api, file):
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


MALFORMED = {
    "text/csv": [
        b"a@example.org,too,few\n",
        b'b@example.org,"a quote in the "middle" of it",reader,true\r\n',
        b'c@example.org,"not closed,reader,true\n',
        b"d@example.org,\xff\xfe,reader,true\n",
    ],
    "application/x-ndjson": [b'{"email":"a@example.org",}\n', b"[1]\r\n", b"12 \n", b'{"name":"\xff"}\n', b"{} {}\n"],
    "application/json": [b'{"email":"a@example.org",}', b"[1]", b"nul", b'{"name":"\xff"}', b'"{"'],
}


@pytest.mark.parametrize("type", MALFORMED)
async def test_malformed_records_are_returned_as_they_were_sent(api, type):
    """Records that cannot be parsed are returned too; their annotation does not damage the other records."""
    shape = next(file for file in FILES.values() if file.type == type)
    file = shape._replace(records=[*MALFORMED[type], *shape.records[:2]])
    job = await imported(api, file)
    assert job["counts"]["failed"] == len(MALFORMED[type]) + 1
    assert await records_of(api, job, "failed") == file.of([*MALFORMED[type], shape.records[1]])
    annotated = await records_of(api, job, "failed", annotate="true")
    assert annotated.count(b"invalid_enum") == 1
    again = await imported(api, file, annotated.replace(b"boss", b"admin"))
    assert (again["total_records"], again["counts"]["created"]) == (len(MALFORMED[type]) + 1, 1)


async def test_too_large_elements_do_not_damage_the_array(api):
    """A too large element is stored truncated; in the array an object with its line replaces it."""
    file = FILES["json"]
    large = b'{"email": "%b"}' % (b"x" * 2 * RECORD_MAX_BYTES)
    job = await imported(api, file, file.of([large, file.refused[0]]))
    assert await records_of(api, job, "failed") == file.of([b'{"_line":1}', file.refused[0]])
    annotated = json.loads(await records_of(api, job, "failed", annotate="true"))
    assert [error["code"] for error in annotated[0]["_errors"]] == ["record_too_large"]
    retried = await api.finished(await api.client.post(job["links"]["retry"]))
    assert [count["code"] for count in retried["error_summary"]] == ["invalid_enum", "record_too_large"]


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


async def test_an_incomplete_file_does_not_look_complete(api):
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
    problem(retries, 404, "not-found")
    assert await api.value("SELECT count(*) FROM import_jobs") == 1
    await api.conn.execute("DELETE FROM import_errors WHERE import_id = %s", (job["id"],))
    problem(await api.client.get(job["links"]["failed_records"]), 404, "not-found")
    for format in ("csv", "ndjson"):
        problem(await api.client.get(job["links"]["errors"], params={"format": format}), 404, "not-found")


async def test_a_byte_order_mark_and_the_last_line_end(api):
    """The two differences between a file of which every record was refused and the file of its refused records."""
    file = USERS_HEADER + b"no,Ann,reader,true"
    job = await api.finished(await api.post(b"\xef\xbb\xbf" + file, type="text/csv", params={"resource": "users"}))
    assert (await api.get(f"/{job['id']}/failed-records")).content == file + b"\n"
