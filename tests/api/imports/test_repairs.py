"""The parameter `repairs`: corrected records of an import are taken once, and keep the lines of the first file."""

import asyncio
import csv
import io
import json
from typing import Any

import httpx
import psycopg
import pytest

from tests.support import api_client
from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.eventually import eventually

RECORDS = 12
ERRORS_MAX = 4
SERVICE = {"worker_pool_size": 2, "batch_size": 3}


def row(n: int, role: str = "boss", email: str | None = None) -> bytes:
    return f"{email or f'u{n}@example.org'},User {n},{role},true\n".encode()


def rows(count: int = RECORDS) -> bytes:
    """Users of which each second has a role that does not exist: those on the lines 2, 4, 6, …"""
    return USERS_HEADER + b"".join(row(n, "reader" if n % 2 else "boss") for n in range(count))


REFUSED_LINES = [*range(2, 2 + RECORDS, 2)]


async def imported(api, content: bytes, type: str = "text/csv", **params) -> dict:
    return await api.finished(await api.post(content, type=type, params={"resource": "users", **params}))


async def refused(api, job: dict, **params) -> bytes:
    answer = await api.client.get(job["links"]["failed_records"], params={"annotate": "true", **params})
    assert answer.status_code == 200, answer.text
    return answer.content


async def posted(api, parent: dict, content: bytes, type: str = "text/csv", **params) -> httpx.Response:
    return await api.post(content, type=type, params={"repairs": parent["id"], **params})


async def repaired(api, parent: dict, content: bytes, type: str = "text/csv", **params) -> dict:
    return await api.finished(await posted(api, parent, content, type, **params))


async def again(api, job: dict) -> dict:
    """The job as it is now."""
    return (await api.client.get(job["links"]["self"])).json()


async def lines(api, job: dict) -> list[int]:
    return sorted({error["line"] for error in await api.errors(job["id"])})


async def stored(api) -> list[str]:
    found = await (await api.conn.execute("SELECT email FROM users ORDER BY email")).fetchall()
    return [email for (email,) in found]


def annotated(*lines: int, role: str = "admin", email: str = "m{}@example.org") -> bytes:
    """A repair of these lines."""
    return b"_line," + USERS_HEADER + b"".join(b"%d," % n + row(n, role, email.format(n)) for n in lines)


def problem(answer: httpx.Response, status: int, slug: str) -> dict:
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{slug}"), answer.text
    return answer.json()


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
async def test_errors_tell_the_lines_of_the_first_file(api, file):
    """Over two rounds and a retry, whatever the format: in errors, annotations and cells."""
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
    """Of several refused elements on one line as many are taken as were refused, and no more."""
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
    """They need not be sent, may be sent, and must not differ. Those that are not inherited are the request's own."""
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
    """Not even its records that were refused already."""
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
    """A record without a line, on a line that was not refused, or on one that is there twice: 400, and nothing is taken."""
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


async def waiting_for_locks(api) -> int:
    return await api.value(
        """
        SELECT count(*)
        FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'bulk api%%' AND wait_event_type = 'Lock'
        """
    )


async def at_once(api, job: dict, *requests: Any) -> list[httpx.Response]:
    """The answers to requests that all wait for the lock on the import at the same time."""
    async with await psycopg.AsyncConnection.connect(api.service.environment["DATABASE_URL"]) as holder:
        await holder.execute("SELECT FROM import_jobs WHERE id = %s FOR UPDATE", (job["id"],))
        tasks = [asyncio.create_task(request) for request in requests]

        async def all_wait() -> bool:
            return await waiting_for_locks(api) == len(tasks)

        await eventually(all_wait)
    return list(await asyncio.gather(*tasks))


@pytest.mark.parametrize("mode", ["insert", "upsert"])
async def test_two_repairs_at_once(api, mode):
    """Both have arrived and wait for the import's lock: one gets the records, the other none of them, not even its other ones."""
    job = await imported(api, rows(), mode=mode)
    answers = await at_once(
        api,
        job,
        posted(api, job, annotated(2, 4, 6, email="a{}@example.org")),
        posted(api, job, annotated(8, 6, 4, email="b{}@example.org")),
    )
    assert sorted(answer.status_code for answer in answers) == [202, 409]
    for answer in answers:
        if answer.status_code == 409:
            assert problem(answer, 409, "already-repaired")["lines"] in ([4, 6], [6, 4])
        else:
            assert (await api.finished(answer))["outcome"] == "success"
    mended = [email for email in await stored(api) if not email.startswith("u")]
    assert len(mended) == 3
    assert len({email[0] for email in mended}) == 1


async def test_a_repair_and_a_retry_at_once(api):
    """Whichever comes second sees what the first has taken."""
    job = await imported(api, rows())
    answers = await at_once(
        api,
        job,
        posted(api, job, annotated(2, 4)),
        api.client.post(job["links"]["retry"]),
    )
    assert sorted(answer.status_code for answer in answers) == [202, 409]
    problem(next(answer for answer in answers if answer.status_code == 409), 409, "already-repaired")
    taken = await api.finished(next(answer for answer in answers if answer.status_code == 202))
    if taken["relation"] == "retry":
        assert taken["total_records"] == RECORDS / 2
    # repeated, the retry leaves out what the repair has
    retried = (await api.client.post(job["links"]["retry"])).json()
    assert retried["total_records"] == (RECORDS / 2 if taken["relation"] == "retry" else RECORDS / 2 - 2)


async def test_a_retry_leaves_out_what_repairs_have(api):
    """It has the other refused and the unprocessed records; what the repairs refused is theirs. Repairs follow it."""
    job = await imported(api, rows())
    child = await repaired(api, job, annotated(2) + annotated(4, role="chief").partition(b"\n")[2])
    retried = await api.finished(await api.client.post(job["links"]["retry"]))
    assert (retried["relation"], await lines(api, retried)) == ("retry", REFUSED_LINES[2:])
    assert (await api.client.post(job["links"]["retry"])).json()["id"] == retried["id"]
    # of the first import's remaining records the retry is asked, of the repair's the repair
    assert (await repaired(api, job, annotated(4, 6)))["outcome"] == "success"
    assert problem(await posted(api, retried, annotated(6)), 409, "already-repaired")["lines"] == [6]
    assert problem(await posted(api, child, annotated(4)), 409, "already-repaired")["lines"] == [4]


async def test_nothing_to_retry(api):
    """Repairs have every refused record."""
    job = await imported(api, rows())
    await repaired(api, job, annotated(*REFUSED_LINES))
    problem(await api.client.post(job["links"]["retry"]), 409, "nothing-to-retry")


async def test_a_dry_run_is_repaired_and_committed(api):
    """The repair of a dry run is one; its commit stores what it has, the dry run's commit all else. Lines stay the same."""
    dry = await imported(api, rows(), dry_run="true")
    mends = annotated(2, 4, 6) + annotated(8, role="chief").partition(b"\n")[2]
    child = await repaired(api, dry, mends)
    assert (child["dry_run"], child["counts"]["created"], await stored(api)) == (True, 3, [])
    grandchild = await repaired(api, dry, annotated(8))
    assert grandchild["dry_run"]
    assert (await again(api, dry))["repaired"] == {"imports": 2, "taken": 4, "left": 2}
    commits = {}
    for job in (dry, child, grandchild):
        answer = await api.client.post(job["links"]["commit"])
        commits[job["id"]] = await api.finished(answer)
        repeated = await api.client.post(job["links"]["commit"])
        assert (repeated.status_code, repeated.json()["id"]) == (200, commits[job["id"]]["id"])
    assert [(job["relation"], job["total_records"], job["counts"]["failed"]) for job in commits.values()] == [
        ("commit", RECORDS - 4, 2),
        ("commit", 3, 0),
        ("commit", 1, 0),
    ]
    assert await lines(api, commits[dry["id"]]) == [10, 12]
    assert len(await stored(api)) == RECORDS / 2 + 4
    # what the commit has refused can be repaired through the dry run too, as a real import
    last = await repaired(api, dry, annotated(10), dry_run="false")
    assert (last["dry_run"], last["outcome"], len(await stored(api))) == (False, "success", RECORDS / 2 + 5)
    assert problem(await posted(api, commits[dry["id"]], annotated(10)), 409, "already-repaired")["lines"] == [10]


async def test_a_dry_run_of_a_repair(api):
    """A repair can be checked first; when it is thrown away, its records can be repaired again."""
    job = await imported(api, rows())
    check = await repaired(api, job, annotated(2), dry_run="true")
    assert (check["dry_run"], check["outcome"]) == (True, "success")
    problem(await posted(api, job, annotated(2)), 409, "already-repaired")
    assert (await api.client.delete(check["links"]["self"])).status_code == 204
    assert (await repaired(api, job, annotated(2)))["outcome"] == "success"


async def test_deletion_of_a_repair(api):
    """Its parent has the records again that it refused; those that it stored stay taken."""
    job = await imported(api, rows())
    child = await repaired(api, job, annotated(2) + annotated(4, 6, 8, role="chief").partition(b"\n")[2])
    further = await repaired(api, child, annotated(8, role="chief"))
    assert (await api.client.delete(child["links"]["self"])).status_code == 204
    assert (await again(api, further))["parent_id"] is None
    body = problem(await posted(api, job, annotated(2, 4, 8)), 409, "already-repaired")
    assert body["lines"] == [2, 8]
    assert (await repaired(api, job, annotated(4, 6)))["outcome"] == "success"
    assert (await repaired(api, further, annotated(8)))["outcome"] == "success"


async def test_deletion_of_the_first_import(api):
    """Repairs stay, and can be repaired, with the same lines."""
    job = await imported(api, rows())
    child = await repaired(api, job, annotated(2) + annotated(4, 6, role="chief").partition(b"\n")[2])
    assert (await api.client.delete(job["links"]["self"])).status_code == 204
    child = await again(api, child)
    assert (child["parent_id"], child["relation"]) == (None, "repair")
    assert problem(await posted(api, job, annotated(8)), 400, "invalid-request")["errors"][0]["field"] == "repairs"
    last = await repaired(api, child, annotated(4) + annotated(6, role="chief").partition(b"\n")[2])
    assert await lines(api, last) == [6]


@pytest.mark.parametrize("where", ["header", "behind the file"])
async def test_a_repeated_request(api, where):
    """With the same key it is the same repair, although its records are taken by then."""
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
    """What no repair has, as a file and by cells."""
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
