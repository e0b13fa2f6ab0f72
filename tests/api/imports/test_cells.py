"""`failed-records?as=cells`: pages of the refused records, split into cells, with their errors."""

import csv
import json
from typing import Any

import pytest
import pytest_asyncio

from tests.support import api_client
from tests.support.api_client import PATH, USERS_HEADER, post_users, stopped_at_users, user_row
from tests.support.eventually import eventually

RECORD_MAX_BYTES = 200_000
ERRORS_MAX = 12
SERVICE = {"worker_pool_size": 2, "batch_size": 3, "record_max_bytes": RECORD_MAX_BYTES}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(server_url, tmp_path_factory):
    """A service that stores few errors of an import, by one worker, chunk by chunk."""
    folder = tmp_path_factory.mktemp("limited")
    settings: dict[str, Any] = {"worker_pool_size": 1, "batch_size": 3, "claim_chunks_max": 1}
    async with api_client.service(server_url, folder, import_errors_max=ERRORS_MAX, **settings) as service:
        yield service


async def page(api, job: dict, **params) -> dict:
    answer = await api.client.get(job["links"]["failed_records"], params={"as": "cells", **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def pages(api, job: dict, **params) -> list[dict]:
    """All records, page by page; each page has the same total, which is their number."""
    records, cursor, totals = [], {}, set()
    while True:
        found = await page(api, job, **params, **cursor)
        records += found["records"]
        totals.add(found["total"])
        if found["next_cursor"] is None:
            assert totals == {len(records)}
            return records
        cursor = {"cursor": found["next_cursor"]}


async def imported(api, content: bytes, type: str = "text/csv", **params) -> dict:
    return await api.finished(await post_users(api, content, type=type, params=params))


async def test_cells_of_a_csv(api):
    """Columns are those of the header, cells as the workers read them: null if empty, text for `""`, without quotes."""
    header = b'\xef\xbb\xbfrole, "name" ,_line,email,active\r\n'.replace(b', "name" ,', b",name ,")
    rows = [
        b'boss,"Ada ""A"",\r\nB",7,a@example.org,true\r\n',
        b'\r\nboss,,"",b@example.org,\r\n',
        'boss,"",,Ä@example.org,yes\n'.encode(),
    ]
    job = await imported(api, header + b"".join(rows))
    found = await page(api, job)
    assert found["columns"] == ["role", "name", "email", "active"]
    assert [(record["line"], record["record"], record["cells"], record["raw"]) for record in found["records"]] == [
        (2, 1, ["boss", 'Ada "A",\r\nB', "a@example.org", "true"], None),
        (5, 2, ["boss", None, "b@example.org", None], None),
        (6, 3, ["boss", "", "Ä@example.org", "yes"], None),
    ]
    assert (found["next_cursor"], found["total"]) == (None, 3)
    errors = await api.errors(job["id"])
    for record in found["records"]:
        wanted = [error for error in errors if error["record"] == record["record"]]
        names = ("code", "field", "message", "value")
        assert [{"value": None, **error} for error in record["errors"]] == [
            {name: error[name] for name in names} for error in wanted
        ]


async def test_columns_have_the_names_of_the_file(api):
    """Columns have the names of the file, also if the import maps them to fields or to null."""
    columns = json.dumps({"E-mail": "email", "Notes": None})
    header = USERS_HEADER.replace(b"email", b"E-mail,Notes")
    found = await page(api, await imported(api, header + b"a@example.org,n,A,boss,true\n", columns=columns))
    assert found["columns"] == ["E-mail", "Notes", "name", "role", "active"]
    assert found["records"][0]["cells"] == ["a@example.org", "n", "A", "boss", "true"]
    assert [error["field"] for error in found["records"][0]["errors"]] == ["role"]


async def test_cells_are_as_sent_with_csv_safe(api):
    """The apostrophes that guard a CSV stay, so that cells that are sent back mean the same."""
    job = await imported(api, USERS_HEADER + b"a@example.org,'=1+1,boss,true\n", csv_safe="true")
    assert (await page(api, job))["records"][0]["cells"][1] == "'=1+1"


@pytest.mark.parametrize("delimiter", [";", "tab"])
async def test_other_delimiters(api, delimiter):
    """The row is split by the import's delimiter."""
    row = "a,b@example.org|A|boss|true\n".replace("|", "\t" if delimiter == "tab" else delimiter)
    header = USERS_HEADER.replace(b",", b"\t" if delimiter == "tab" else delimiter.encode())
    job = await imported(api, header + row.encode(), csv_delimiter=delimiter)
    assert (await page(api, job))["records"][0]["cells"] == ["a,b@example.org", "A", "boss", "true"]


async def test_rows_that_cannot_be_split(api):
    """Such a row has no cells but its text, without line end and annotations; one that is too large has neither."""
    long = b"x" * (64 * 1024)
    broken = [
        b"7,a@example.org,too,few\n",
        b'8,b@example.org,"a "quote",reader,true\r\n',
        b"9,c@example.org,\xff,reader,true\n",
        b"10,%b,too,few\n" % long,
        b"11,%b,d,boss,true\n" % (long * 4),
    ]
    job = await imported(api, b"_line," + USERS_HEADER + b"".join(broken))
    records = (await page(api, job))["records"]
    assert [record["cells"] for record in records] == [None] * len(broken)
    assert [record["raw"] for record in records] == [
        "a@example.org,too,few",
        'b@example.org,"a "quote",reader,true',
        "c@example.org,\ufffd,reader,true",
        None,
        None,
    ]
    codes = [record["errors"][0]["code"] for record in records]
    assert codes == [
        "column_count_mismatch",
        "malformed_row",
        "invalid_encoding",
        "column_count_mismatch",
        "record_too_large",
    ]


@pytest.mark.parametrize("type", ["application/x-ndjson", "application/json"])
async def test_members_of_objects(api, type):
    """Columns are the members in the order in which they appear, values are as sent; what is no object has its text."""
    objects = [
        '{"_line": 3, "email": "a@example.org", "role": "boss", "active": null, "tags": ["x", {"y": 1}]}',
        '{"name": "Ä", "role": "boss", "active": true, "role": "chief", "_errors": [], "n": 12345678901234567890123}',
        "[1]",
        '{"email": "b@example.org",}',
    ]
    body = f"[{', '.join(objects)}]" if type == "application/json" else "\n".join(objects)
    job = await imported(api, body.encode(), type)
    found = await page(api, job)
    assert found["columns"] == ["email", "role", "active", "tags", "name", "n"]
    assert [record["cells"] for record in found["records"]] == [
        ["a@example.org", "boss", None, ["x", {"y": 1}], None, None],
        [None, "chief", True, None, "Ä", 12345678901234567890123],
        None,
        None,
    ]
    assert [record["raw"] for record in found["records"]] == [None, None, *objects[2:]]


async def test_an_object_of_very_many_members(api):
    """The columns of a page are limited; an object beyond the limit has its text."""
    many = json.dumps({f"m{n}": n for n in range(1001)})
    few = json.dumps({"email": "no", "m1": 1})
    job = await imported(api, f"{many}\n{few}\n".encode(), "application/x-ndjson")
    found = await page(api, job)
    assert found["columns"] == ["email", "m1"]
    assert [(record["cells"], record["raw"]) for record in found["records"]] == [(None, many), (["no", 1], None)]


async def test_pages_and_filters(api):
    """A record is there once, in the order of the file, with all of its errors, if one of them matches."""
    rows = []
    for n in range(40):
        role = b"boss" if n % 4 == 0 else b"reader"
        email = b"u%d@example.org" % (n if n % 10 else 1)
        rows.append(b"%b,U,%b,%b\n" % (email, role, b"maybe" if n % 8 == 0 else b"true"))
    job = await imported(api, USERS_HEADER + b"".join(rows))
    by_record: dict[int, list[tuple[str, str]]] = {}
    for error in await api.errors(job["id"]):
        by_record.setdefault(error["record"], []).append((error["code"], error["field"]))
    filters = [
        {},
        {"code": "invalid_enum"},
        {"code": "duplicate_in_file"},
        {"field": "active"},
        {"code": "invalid_enum", "field": "active"},
        {"code": "too_long"},
    ]
    for wanted in filters:
        numbers = [
            number
            for number, errors in by_record.items()
            if any(wanted.get("code", code) == code and wanted.get("field", field) == field for code, field in errors)
        ]
        for limit in (1, 3, 1000):
            records = await pages(api, job, limit=limit, **wanted)
            assert [record["record"] for record in records] == numbers
            assert [[(error["code"], error["field"]) for error in record["errors"]] for record in records] == [
                by_record[number] for number in numbers
            ]


async def test_a_page_of_large_records_ends_early(api):
    """A page has no more than some megabytes; the cursor leads on."""
    row = b'a@example.org,"%b",boss,true\n' % (b"x" * 190_000)
    job = await imported(api, USERS_HEADER + row * 40)
    first = await page(api, job, limit=1000)
    assert 0 < len(first["records"]) < 30
    assert len(await pages(api, job, limit=1000)) == 40


async def test_records_beyond_the_limit_of_errors(limited):
    """Refused records whose errors are not stored are in the pages and marked; filters find only those with stored errors.

    The annotated file has the same errors.
    """
    async with api_client.connected(limited) as api:
        rows = [b"u%d@example.org,U,%b,true\n" % (n, b"reader" if n % 5 == 0 else b"boss") for n in range(60)]
        job = await imported(api, USERS_HEADER + b"".join(rows))
        assert job["errors_stored"] < job["error_count"] == 48
        wanted = [n + 1 for n in range(60) if n % 5]
        for limit in (1, 7, 1000):
            records = await pages(api, job, limit=limit)
            assert [record["record"] for record in records] == wanted
        codes = [[error["code"] for error in record["errors"]] for record in records]
        stored = job["errors_stored"]
        assert codes == [["invalid_enum"]] * stored + [["errors_not_stored"]] * (48 - stored)
        annotated = await api.client.get(job["links"]["failed_records"], params={"annotate": "true"})
        notes = [json.loads(row["_errors"]) for row in csv.DictReader(annotated.text.splitlines())]
        assert [[note["code"] for note in of_record] for of_record in notes] == codes
        assert len(await pages(api, job, code="invalid_enum")) == job["errors_stored"]
        # the same import's errors as a file are whole, although they are not all
        answer = await api.client.get(job["links"]["errors"], params={"format": "ndjson"})
        assert len(answer.text.splitlines()) == job["errors_stored"]


async def test_while_the_import_runs_and_of_a_dry_run(api):
    """A dry run has the same pages; those of a running import have the records refused so far."""
    rows = [b"u%d@example.org,U,boss,true\n" % n for n in range(6)]
    dry = await imported(api, USERS_HEADER + b"".join(rows), dry_run="true")
    assert len(await pages(api, dry)) == 6
    async with stopped_at_users(api, "user9%"):
        posted = await api.post(
            USERS_HEADER + b"".join(rows[:3]) + b"".join(user_row(90 + n) for n in range(3)),
            type="text/csv",
            # with a budget chunks are done one by one
            params={"resource": "users", "max_errors": "100"},
        )

        async def are_known() -> bool:
            return (await page(api, posted.json()))["total"] == 3

        await eventually(are_known)
        assert len(await pages(api, posted.json())) == 3


async def test_what_was_removed_is_not_found(api):
    """After records were removed the response is 404, not a part of them or an empty page."""
    rows = [b"u%d@example.org,U,boss,true\n" % n for n in range(9)]
    job = await imported(api, USERS_HEADER + b"".join(rows))
    url = job["links"]["failed_records"]
    for removal in (
        "DELETE FROM import_payloads WHERE import_id = %s AND first_record = 4",
        "DELETE FROM import_payloads WHERE import_id = %s",
        "DELETE FROM import_errors WHERE import_id = %s",
        "DELETE FROM import_jobs WHERE id = %s",
    ):
        await api.conn.execute(removal, (job["id"],))
        answer = await api.client.get(url, params={"as": "cells"})
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")


@pytest.mark.parametrize(
    "params",
    [
        {"as": "rows"},
        {"as": "cells", "limit": "0"},
        {"as": "cells", "limit": "1001"},
        {"as": "cells", "cursor": "x"},
        {"as": "cells", "cursor": "9" * 19},
        {"as": "cells", "annotate": "true"},
        {"as": "cells", "code": "no_code"},
        {"limit": "10"},
        {"code": "invalid_enum"},
    ],
)
async def test_wrong_parameters(api, params):
    """What is wrong, or means nothing without as=cells, is refused."""
    job = await imported(api, USERS_HEADER + user_row(1))
    answer = await api.client.get(job["links"]["failed_records"], params=params)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-request")
    assert (await api.client.get(f"{PATH}/{job['id']}0/failed-records", params={"as": "cells"})).status_code == 404
