"""The results of an import: each record that was not refused, with its line, its row and what was done with it."""

import csv
import io
import json
from collections import Counter

import httpx
import pytest
from psycopg.sql import SQL, Identifier

from tests.support.api_client import PATH, USERS_HEADER, post_users, problem, user_row
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.exports import SEVERAL, STREAM, many_articles, stall
from tests.support.refused_files import EACH_FILE, imported

SERVICE = {"worker_pool_size": 2, "batch_size": 3, "claim_chunks_max": 1, "import_errors_max": 2}
UNKNOWN_ID = "0192f0c1-0000-7000-8000-000000000000"
OUTCOMES = ("created", "updated", "unchanged", "skipped")


async def results(api, job, **params) -> list[dict]:
    answer = await api.get(f"/{job['id']}/results", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].partition(";")[0] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def run(api, records, *, resource="users", **params) -> dict:
    """The final import of these objects."""
    content = "".join(json.dumps(record) + "\n" for record in records)
    params = {"resource": resource} | params
    return await api.finished(await api.post(content, type="application/x-ndjson", params=params))


def user(n, name="User"):
    return {"email": f"user{n}@example.org", "name": name, "role": "reader", "active": True}


async def ids(api, table, key) -> dict:
    cursor = await api.conn.execute(SQL("SELECT {}, id::text FROM {}").format(Identifier(key), Identifier(table)))
    return dict(await cursor.fetchall())


def outcomes(found) -> dict:
    """The outcomes by record."""
    return {result["record"]: result["outcome"] for result in found}


@EACH_FILE
async def test_lines_and_ids_of_each_format(api, file):
    """The records that were not refused, in the order of the file, each with the line where it starts and its row's id."""
    job = await imported(api, file)
    found = await results(api, job)
    stored = await ids(api, "users", "email")
    accepted = [n for n, record in enumerate(file.records) if b"boss" not in record]
    assert [result["record"] for result in found] == [n + 1 for n in accepted]
    assert [result["id"] for result in found] == [stored[f"u{n}@example.org"] for n in accepted]
    starts = [file.of(file.records[:n]).removesuffix(file.tail) + file.separator * (n > 0) for n in accepted]
    assert [result["line"] for result in found] == [before.count(b"\n") + 1 for before in starts]
    assert {result["outcome"] for result in found} == {"created"}


@pytest.mark.parametrize("mode", ["skip", "upsert", "update"])
async def test_outcomes_of_users(api, mode):
    """The outcomes agree with the counters in each mode, also for records with a key that is twice in the file."""
    await run(api, [user(n) for n in range(0, 12, 2)])
    records = [user(n, "User" if n % 4 == 0 else "New") for n in range(12)]
    records += [user(3, "Again"), user(40) | {"role": "boss"}, user(41)]
    job = await run(api, records, mode=mode)
    found = await results(api, job)
    assert Counter(outcomes(found).values()) == +Counter({name: job["counts"][name] for name in OUTCOMES})
    stored = await ids(api, "users", "email")
    for result in found:
        email = records[result["record"] - 1]["email"]
        assert result["id"] == (None if result["outcome"] == "skipped" else stored[email])
    if mode == "upsert":
        assert (outcomes(found)[1], outcomes(found)[3], outcomes(found)[15]) == ("unchanged", "updated", "created")
    if mode == "skip":
        assert (outcomes(found)[1], outcomes(found)[15]) == ("skipped", "created")


async def test_outcomes_of_articles_and_comments(api):
    """The same for the other resources, whose rows refer to others and whose ids may be texts."""
    await run(api, [user(1)])
    (author,) = (await ids(api, "users", "email")).values()
    articles = [{"slug": f"a-{n}", "title": "A", "body": "b", "author_id": author, "status": "draft"} for n in range(5)]
    await run(api, articles[:2], resource="articles")
    job = await run(api, [articles[0], articles[1] | {"title": "B"}, *articles[2:]], resource="articles", mode="upsert")
    stored = await ids(api, "articles", "slug")
    assert outcomes(await results(api, job)) == {1: "unchanged", 2: "updated", 3: "created", 4: "created", 5: "created"}
    assert [result["id"] for result in await results(api, job)] == [stored[f"a-{n}"] for n in range(5)]

    comments = [
        {"id": f"cm_{UNKNOWN_ID[:-1]}{n}", "article_id": stored["a-0"], "user_id": author, "body": "c"}
        for n in range(4)
    ]
    await run(api, comments[:1], resource="comments")
    missing = comments[3] | {"article_id": UNKNOWN_ID}
    job = await run(api, [*comments[:3], missing], resource="comments", mode="skip")
    assert [(r["line"], r["id"], r["outcome"]) for r in await results(api, job)] == [
        (1, None, "skipped"),
        (2, comments[1]["id"], "created"),
        (3, comments[2]["id"], "created"),
    ]


async def test_rows_of_later_imports_are_unknown(api):
    """A row that a later import has written or that was deleted is unknown, and so are then the skipped records."""
    first = await run(api, [user(n) for n in range(4)])
    await run(api, [user(0), user(1, "New")], mode="upsert")
    await api.conn.execute("DELETE FROM users WHERE email = 'user2@example.org'")
    found = await results(api, first)
    assert outcomes(found) == {1: "unknown", 2: "unknown", 3: "unknown", 4: "created"}
    assert [result["id"] is None for result in found] == [True, True, True, False]

    skipping = await run(api, [user(3), user(5), user(6)], mode="skip")
    assert outcomes(await results(api, skipping)) == {1: "skipped", 2: "created", 3: "created"}
    await run(api, [user(5)], mode="upsert")
    assert outcomes(await results(api, skipping)) == {1: "unknown", 2: "unknown", 3: "created"}


async def test_unprocessed_records_have_no_result(api):
    """Of an import that was stopped, the records that were stored have a result, and no others."""
    records = [user(n) if n % 4 else user(n) | {"role": "boss"} for n in range(12)]
    job = await run(api, [*records, user(1), user(2)], on_error="stop")
    assert job["status"] == "failed"
    found = outcomes(await results(api, job))
    assert Counter(found.values()) == {"created": job["counts"]["created"]}
    assert all(records[record - 1]["role"] == "reader" for record in found)


async def test_csv(api):
    """CSV has a header, also without records."""
    job = await api.finished(await post_users(api, USERS_HEADER + user_row(1)))
    id = (await ids(api, "users", "email"))["user1@example.org"]
    answer = await api.get(f"/{job['id']}/results", params={"format": "csv"})
    assert answer.headers["content-disposition"] == 'attachment; filename="users-results.csv"'
    assert list(csv.DictReader(io.StringIO(answer.text))) == [
        {"line": "2", "record": "1", "id": id, "outcome": "created"}
    ]
    problem(await api.get(f"/{job['id']}/results", params={"format": "xlsx"}), 400, "invalid-request")
    empty = await api.finished(await post_users(api, b""))
    assert (await api.get(f"/{empty['id']}/results", params={"format": "csv"})).text == "line,record,id,outcome\n"
    assert await results(api, empty) == []


async def test_imports_without_results(api):
    """404 for an unknown import and one whose records were removed, 409 for a dry run and for an import that is not final."""
    problem(await api.get(f"/{UNKNOWN_ID}/results"), 404, "not-found")
    dry = await api.finished(await post_users(api, USERS_HEADER + user_row(1), params={"dry_run": "true"}))
    problem(await api.get(f"/{dry['id']}/results"), 409, "dry-run")
    job = await api.finished(await post_users(api, USERS_HEADER + user_row(1)))
    await api.conn.execute("DELETE FROM import_payloads WHERE import_id = %s", (job["id"],))
    problem(await api.get(f"/{job['id']}/results"), 404, "not-found")
    await api.conn.execute(
        "UPDATE import_jobs SET status = 'processing', outcome = NULL, finished_at = NULL WHERE id = %s", (job["id"],)
    )
    problem(await api.get(f"/{job['id']}/results"), 409, "not-final")
    await api.conn.execute("DELETE FROM import_jobs WHERE id = %s", (job["id"],))


async def test_a_key_for_reading_is_enough(service):
    """The role `read` may download results: an unknown import is 404 and not 403."""
    key = "a key that may only read"
    url = (await service(run=["api"], api_keys=f"grafana:read:{key}")).url
    async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}) as client:
        problem(await client.get(f"{PATH}/{UNKNOWN_ID}/results"), 404, "not-found")


async def test_results_are_limited_with_streams(service, conn):
    """Results and streaming exports count against STREAMS_MAX together, and a download that has ended does not count."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(run=["api"], streams_max=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        empty = await client.post(PATH, params={"resource": "users"}, headers={"Content-Type": "text/csv"})
        address = f"{empty.headers['location']}/results"
        for _ in range(2):
            assert (await client.get(address)).status_code == 200
        async with client.stream("GET", STREAM.format("articles")):
            assert problem(await client.get(address), 429, "too-many-requests")["limit"] == "streams_max"
