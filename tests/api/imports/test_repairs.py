"""The parameter `repairs`: which records a repair may have, once each, and the lines that they keep."""

import csv
import io
import json

import httpx
import pytest

from tests.support import api_client
from tests.support.api_client import PATH, USERS_HEADER, problem, user_row
from tests.support.repairs import (
    RECORDS,
    again,
    annotated,
    imported,
    lines,
    posted,
    refused,
    repaired,
    row,
    rows,
    stored,
)

ERRORS_MAX = 4
SERVICE = {"worker_pool_size": 2, "batch_size": 3}
FILES: dict[str, tuple[str, bytes, bytes, bytes, bytes]] = {
    "csv": ("text/csv", USERS_HEADER, b"", b"", b"u#@example.org,User #,ROLE,true\n"),
    "csv, lines in quotes": ("text/csv", USERS_HEADER, b"", b"", b'u#@example.org,"User\r\n\n#",ROLE,true\r\n'),
    "csv, _line last": (
        "text/csv",
        USERS_HEADER.replace(b"\n", b",_errors,_line\n"),
        b"",
        b"",
        b'"u#@example.org","a, ""b""",ROLE,true,[],"1#"\n',
    ),
    "ndjson": (
        "application/x-ndjson",
        b"",
        b"",
        b"",
        b'\n{"email": "u#@example.org", "name": "U", "role": "ROLE", "active": true}\n',
    ),
    "json": (
        "application/json",
        b"[",
        b",",
        b"]",
        b'\n{"email": "u#@example.org",\n"name": "U", "role": "ROLE", "active": true}',
    ),
}


@pytest.mark.parametrize("file", FILES.values(), ids=list(FILES))
async def test_errors_have_the_lines_of_the_first_file(api, file):
    """The lines are the same over two rounds and a retry, in errors, annotations and cells, for each format."""
    type, head, separator, tail, template = file
    records = [
        template.replace(b"#", b"%d" % n).replace(b"ROLE", b"boss" if n % 2 else b"reader") for n in range(RECORDS)
    ]
    job = await imported(api, head + separator.join(records) + tail, type)
    first = await lines(api, job)
    assert len(first) == RECORDS / 2
    # the third refused record is corrected, and others
    child = await repaired(api, job, (await refused(api, job)).replace(b"boss", b"admin", 3), type)
    assert (child["parent_id"], child["relation"], child["counts"]["created"]) == (job["id"], "repair", 3)
    assert await lines(api, child) == first[3:]
    page = await api.client.get(child["links"]["failed_records"], params={"as": "cells"})
    assert [record["line"] for record in page.json()["records"]] == first[3:]
    grandchild = await repaired(api, child, (await refused(api, child)).replace(b"boss", b"admin", 1), type)
    assert await lines(api, grandchild) == first[4:]
    retried = await api.finished(await api.client.post(grandchild["links"]["retry"]))
    assert (retried["relation"], await lines(api, retried)) == ("retry", first[4:])
    last = await repaired(api, retried, (await refused(api, retried)).replace(b"boss", b"admin"), type)
    assert (last["outcome"], last["counts"]["created"]) == ("success", 2)
    assert len(await stored(api)) == RECORDS
    assert (await again(api, job))["repaired"] == {"imports": 4, "taken": 6, "left": 0}
    assert (await again(api, child))["repaired"] == {"imports": 3, "taken": 3, "left": 0}
    assert child["links"]["parent"] == job["links"]["self"]
    children = await api.client.get(job["links"]["children"])
    assert [each["id"] for each in children.json()["imports"]] == [child["id"]]


async def test_records_in_another_order(api):
    """A repair may have some of the records, in any order, in another format."""
    job = await imported(api, rows())
    objects = [
        {"email": f"x{line}@example.org", "name": "X", "role": "boss" if line == 8 else "admin", "active": True}
        for line in (10, 8, 2)
    ]
    body = {"repairs": job["id"], "records": [{**user, "_line": int(user["email"][1:-12])} for user in objects]}
    child = await api.finished(await api.client.post(PATH, json=body))
    assert (child["format"], child["counts"]["created"], await lines(api, child)) == ("json", 2, [8])
    assert (await again(api, job))["repaired"] == {"imports": 1, "taken": 2, "left": 4}


async def test_elements_on_one_line(api):
    """Of several refused elements on one line a repair may have as many as were refused, and no more."""
    users = [{"email": f"u{n}@example.org", "name": "U", "role": "boss", "active": True} for n in range(3)]
    users[1]["role"] = "reader"
    job = await imported(api, json.dumps(users).encode(), "application/json")
    one = [{"_line": 1, **users[0], "role": "admin"}]
    await repaired(api, job, json.dumps(one).encode(), "application/json")
    two = [{"_line": 1, **users[2], "role": "admin", "email": f"v{n}@example.org"} for n in range(2)]
    answer = await posted(api, job, json.dumps(two).encode(), "application/json")
    assert problem(answer, 409, "already-repaired")["lines"] == [1]
    assert (await repaired(api, job, json.dumps(two[:1]).encode(), "application/json"))["outcome"] == "success"
    answer = await posted(api, job, json.dumps(one * 3).encode(), "application/json")
    assert "more often" in problem(answer, 400, "invalid-request")["detail"]


async def test_parameters_are_those_of_the_parent(api):
    """They may be sent but must not differ. Parameters that are not inherited are those of the request."""
    header = USERS_HEADER.replace(b"\n", b",more\n").replace(b",", b";").replace(b"email", b"E-mail")
    content = header + row(1).replace(b"\n", b",'x\n").replace(b",", b";").replace(b"User", b"'User")
    sent = {"mode": "upsert", "csv_delimiter": ";", "csv_safe": "true", "unknown_fields": "ignore"}
    sent["columns"] = '{"E-mail": "email"}'
    job = await imported(api, content, **sent, max_errors="5")
    mended = (await refused(api, job)).replace(b"boss", b"admin")
    for name, value in {
        "resource": "articles",
        "mode": "insert",
        "csv_delimiter": ",",
        "csv_safe": "false",
        "unknown_fields": "error",
        "columns": '{"E-mail": "name"}',
    }.items():
        errors = problem(await posted(api, job, mended, **{name: value}), 400, "invalid-request")["errors"]
        assert [(error["field"], error["code"]) for error in errors] == [(name, "conflicting_values")]
    child = await repaired(api, job, mended)
    assert (child["columns"], child["outcome"]) == ({"E-mail": "email"}, "success")
    assert (await api.client.delete(child["links"]["self"])).status_code == 204
    job = await imported(api, content, **sent)
    child = await repaired(api, job, mended, **sent, resource="users")
    assert (child["mode"], child["outcome"]) == ("upsert", "success")
    assert await api.value("SELECT name FROM users") == "User 1"
    assert await api.value("SELECT max_errors FROM import_jobs WHERE id = %s", child["id"]) is None


async def test_an_import_that_is_not_final_cannot_be_repaired(server_url, tmp_path_factory):
    """An import that is not final cannot be repaired, not even records that are refused already."""
    folder = tmp_path_factory.mktemp("idle")
    async with api_client.service(server_url, folder, run=["api"]) as service, api_client.connected(service) as api:
        job = (await api.post(rows(), type="text/csv", params={"resource": "users"})).json()
        assert "repair" not in job["links"]
        problem(await posted(api, job, annotated(2)), 409, "not-final")


async def test_what_cannot_be_repaired(api):
    """An import that is unknown or without refused records; `repairs` behind the file."""
    unknown = {"id": "0192f0c1-0000-7000-8000-000000000000"}
    errors = problem(await posted(api, unknown, annotated(2)), 400, "invalid-request")["errors"]
    assert [error["field"] for error in errors] == ["repairs"]
    job = await imported(api, USERS_HEADER + user_row(1))
    assert "repair" not in job["links"]
    problem(await posted(api, job, annotated(2)), 409, "nothing-to-repair")
    job = await imported(api, rows())
    late = [("resource", (None, b"users")), ("file", ("x.csv", annotated(2))), ("repairs", (None, job["id"].encode()))]
    errors = problem(await api.client.post(PATH, files=late), 400, "invalid-request")["errors"]
    assert [(error["field"], error["code"]) for error in errors] == [("repairs", "too_late")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (USERS_HEADER + row(2, "admin"), "failed-records?annotate=true"),
        (annotated(2) + b"," + row(3, "admin"), "line 3"),
        (annotated(2) + b"x," + row(3, "admin"), "line 3"),
        (annotated(2) + b"9999999999," + row(3, "admin"), "line 3"),
        (annotated(2, 3), "3 was not refused"),
        (annotated(2, 99), "99 was not refused"),
        (annotated(2, 4, 2), "2 was not refused"),
    ],
)
async def test_each_record_names_a_refused_line(api, content, message):
    """A record without a line, with a line that was not refused, or with a repeated line is 400, and no record is taken."""
    job = await imported(api, rows())
    assert message in problem(await posted(api, job, content), 400, "invalid-request")["detail"]
    assert (await again(api, job))["repaired"] is None
    assert len(await stored(api)) == RECORDS / 2
    assert (await repaired(api, job, annotated(2)))["outcome"] == "success"


async def test_a_record_is_taken_once(api):
    """Lines that a repair has taken are 409; what it refused can be repaired again, by its id or by the first import's."""
    job = await imported(api, rows())
    child = await repaired(api, job, annotated(2, 4) + annotated(6, 8, role="chief").partition(b"\n")[2])
    assert await lines(api, child) == [6, 8]
    body = problem(await posted(api, job, annotated(4, 6, 10)), 409, "already-repaired")
    assert (body["lines"], "lines 4" in body["detail"]) == ([4], True)
    problem(await posted(api, child, annotated(4)), 400, "invalid-request")
    assert (await repaired(api, child, annotated(6)))["outcome"] == "success"
    for parent in (job, child):
        assert problem(await posted(api, parent, annotated(6)), 409, "already-repaired")["lines"] == [6]
    assert (await repaired(api, job, annotated(8, 10)))["outcome"] == "success"
    for parent in (job, child):
        assert problem(await posted(api, parent, annotated(8)), 409, "already-repaired")["lines"] == [8]
    assert (await again(api, job))["repaired"] == {"imports": 3, "taken": 5, "left": 1}
    assert len(await stored(api)) == RECORDS / 2 + 5


@pytest.mark.parametrize("where", ["header", "behind the file"])
async def test_a_repeated_request(api, where):
    """A repeated request with the same key returns the same repair, although its records are already taken."""
    job = await imported(api, rows())

    async def post() -> httpx.Response:
        if where == "header":
            return await api.post(
                annotated(2), type="text/csv", params={"repairs": job["id"]}, headers={"Idempotency-Key": "k1"}
            )
        form = [("repairs", (None, job["id"].encode())), ("file", ("x.csv", annotated(2)))]
        return await api.client.post(PATH, files=[*form, ("idempotency_token", (None, b"k2"))])

    first = await post()
    await api.finished(first)
    second = await post()
    assert (second.status_code, second.json()["id"]) == (200, first.json()["id"])


async def test_unrepaired_records(api):
    """Refused records that no repair has taken, as a file and as cells."""
    job = await imported(api, rows())
    await repaired(api, job, annotated(2, 6))
    table = csv.DictReader(io.StringIO((await refused(api, job, unrepaired="true")).decode()))
    assert [int(record["_line"]) for record in table] == [4, 8, 10, 12]
    for filters in ({}, {"code": "invalid_enum"}):
        page = await api.client.get(
            job["links"]["failed_records"], params={"as": "cells", "unrepaired": "true", "limit": 3, **filters}
        )
        assert [record["line"] for record in page.json()["records"]] == [4, 8, 10]
        assert page.json()["total"] == 4
    assert (await api.client.get(job["links"]["failed_records"], params={"as": "cells"})).json()["total"] == 6


async def test_records_without_stored_errors(server_url, tmp_path_factory):
    """Beyond the limit of errors the refused records can be repaired as well."""
    folder = tmp_path_factory.mktemp("limited")
    settings = {"worker_pool_size": 1, "batch_size": 3, "claim_chunks_max": 1, "import_errors_max": ERRORS_MAX}
    async with api_client.service(server_url, folder, **settings) as service, api_client.connected(service) as api:
        job = await imported(api, rows(40))
        assert job["errors_stored"] < job["counts"]["failed"] == 20
        child = await repaired(api, job, annotated(2, 4, 40, 20))
        assert child["outcome"] == "success"
        assert problem(await posted(api, job, annotated(40)), 409, "already-repaired")["lines"] == [40]
        problem(await posted(api, job, annotated(39)), 400, "invalid-request")
        page = await api.client.get(
            job["links"]["failed_records"], params={"as": "cells", "unrepaired": "true", "limit": 1000}
        )
        lines = [n for n in range(2, 42, 2) if n not in (2, 4, 20, 40)]
        assert [record["line"] for record in page.json()["records"]] == lines
        assert page.json()["total"] == len(lines)
