"""Repairs beside other actions: two at the same time, retry, commit of a dry run, deletion."""

import asyncio
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.api_client import problem
from tests.support.eventually import eventually
from tests.support.repairs import (
    RECORDS,
    REFUSED_LINES,
    again,
    annotated,
    imported,
    lines,
    posted,
    repaired,
    rows,
    stored,
)

SERVICE = {"worker_pool_size": 2, "batch_size": 3}


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
    """The second of the two sees which records the first has taken."""
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


async def test_a_retry_leaves_out_repaired_records(api):
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
    """The repair of a dry run is a dry run. Its commit stores its records, the dry run's commit the others; lines are kept."""
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
    """Records that the deleted repair had refused can be repaired again; those that it had stored cannot."""
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
    """Its repairs remain, and can be repaired with the same lines."""
    job = await imported(api, rows())
    child = await repaired(api, job, annotated(2) + annotated(4, 6, role="chief").partition(b"\n")[2])
    assert (await api.client.delete(job["links"]["self"])).status_code == 204
    child = await again(api, child)
    assert (child["parent_id"], child["relation"]) == (None, "repair")
    assert problem(await posted(api, job, annotated(8)), 400, "invalid-request")["errors"][0]["field"] == "repairs"
    last = await repaired(api, child, annotated(4) + annotated(6, role="chief").partition(b"\n")[2])
    assert await lines(api, last) == [6]
