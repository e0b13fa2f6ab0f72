"""The effects of the parameters of an import: dry run, error budget, order; and fairness between imports."""

from random import Random
from uuid import UUID

import pytest

from db import queue
from db.imports import jobs, uploads
from tests.support import api_client, factories
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.eventually import eventually
from tests.support.factories import claim, ended, errors, perform, queued, rows, run, stored_user, user, users
from workers import completion

COUNTERS = ("created", "updated", "unchanged", "skipped", "failed", "errors")


def bad(number: int) -> dict[str, object]:
    return user(number, role="manager")


async def work_off(conn, id: UUID) -> jobs.Import:
    """Works chunk by chunk like a worker, which looks at the error budget after each."""
    while claimed := await queue.claim(conn, worker="me"):
        done = await perform(conn, claimed)
        await completion.end_job(
            conn, claimed, has_budget=done is not None and done.has_budget, is_followed=False, endpoints=()
        )
    return await ended(conn, id)


# ── dry runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["insert", "skip", "upsert", "update"])
async def test_a_dry_run_has_the_result_of_the_real_run(conn, mode):
    """The counters and errors are the same, also for duplicates across chunks, and no row is stored."""
    for seed in range(12):
        random = Random(seed)
        await conn.execute("TRUNCATE users, import_jobs CASCADE")
        ids = [UUID(int=n) for n in range(1, 7)]
        for n in random.sample(range(6), 3):
            await stored_user(conn, n, id=ids[n])
        records = [
            user(
                random.randrange(6),
                name=random.choice("ab"),
                **({"id": str(random.choice(ids))} if random.random() < 0.6 else {}),
            )
            for _ in range(12)
        ] + [bad(99)]
        before = await rows(conn, "SELECT * FROM users ORDER BY id")

        rehearsal = await run(conn, await queued(conn, records, sizes=[5, 4, 4], mode=mode, dry_run=True))
        assert await rows(conn, "SELECT * FROM users ORDER BY id") == before
        real = await run(conn, await queued(conn, records, sizes=[5, 4, 4], mode=mode))

        assert [getattr(rehearsal, c) for c in COUNTERS] == [getattr(real, c) for c in COUNTERS], f"seed {seed}"
        assert await errors(conn, rehearsal.id) == await errors(conn, real.id), f"seed {seed}"


async def test_a_dry_run_misses_parents(conn):
    """References are looked up as in the real run."""
    author = await stored_user(conn)
    records = [factories.article(author, 1), factories.article(UUID(int=7), 2)]
    job = await run(conn, await queued(conn, records, sizes=[1, 1], resource="articles", dry_run=True))
    assert (job.created, job.failed) == (1, 1)
    assert await errors(conn, job.id) == [(2, "author_id", "foreign_key_not_found")]


# ── error budgets ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_spent_budget_ends_the_import(conn):
    """Beyond max_errors no further chunk is begun. Stored records remain, and the others count as unprocessed."""
    records = [*users(2), bad(3), bad(4), *users(4, first=5)]
    job = await work_off(conn, await queued(conn, records, sizes=[2, 2, 2, 2], max_errors=1))
    assert (job.status, job.created, job.failed, job.total_records - job.processed) == ("failed", 2, 2, 4)
    assert job.problem is not None
    assert job.problem["type"] == "/problems/error-budget-exceeded"


async def test_errors_up_to_the_limit_are_allowed(conn):
    """max_errors is how many records may be refused."""
    job = await work_off(conn, await queued(conn, [*users(2), bad(3), bad(4)], sizes=[1] * 4, max_errors=2))
    assert (job.status, job.outcome, job.failed) == ("completed", "partial", 2)


async def test_duplicates_spend_the_budget_too(conn):
    """What is refused only at the end, by settling, counts like the rest."""
    job = await work_off(conn, await queued(conn, [user(1), user(1), user(1)], sizes=[1] * 3, max_errors=1))
    assert (job.status, job.created, job.failed) == ("failed", 1, 2)


async def test_an_error_rate_is_applied_after_a_thousand_records(conn):
    """A bad record among the first ones is a high rate, but does not stop the import; the rate of all is checked at the end."""
    fine = await work_off(conn, await queued(conn, [bad(0), *users(99)], sizes=[1, 99], max_error_rate=0.02))
    assert fine.status == "completed"
    broken = [bad(n) for n in range(1000, 1500)]
    records = [*users(700, first=200), *broken, *users(100, first=2000)]
    early = await work_off(conn, await queued(conn, records, sizes=[700, 500, 100], max_error_rate=0.3))
    assert (early.status, early.total_records - early.processed) == ("failed", 100)
    late = await work_off(conn, await queued(conn, [*users(2, first=5000), bad(9)], sizes=[3], max_error_rate=0.3))
    assert late.status == "failed"


async def test_stop_on_error(conn):
    """on_error=stop: no further chunk is begun after the first refused record."""
    job = await work_off(conn, await queued(conn, [user(1), bad(2), user(3), user(4)], sizes=[1] * 4, on_error="stop"))
    assert (job.status, job.created, job.failed, job.total_records - job.processed) == ("failed", 1, 1, 2)
    assert job.problem is not None
    assert job.problem["type"] == "/problems/stopped-on-error"


# ── order ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_import_waits_for_another(conn):
    """Its chunks cannot be claimed before the other import is completed."""
    first = await queued(conn, users(2), sizes=[1, 1])
    second = await queued(conn, users(1, first=7), after_id=first)
    claims = [await claim(conn), await claim(conn)]
    assert {c.job_id for c in claims} == {first}
    assert await queue.claim(conn, worker="me") is None
    for c in claims:
        await perform(conn, c)
        await completion.end_job(conn, c, has_budget=False, is_followed=False, endpoints=())
    assert (await claim(conn)).job_id == second


async def test_an_import_that_waits_for_a_failed_one_fails(conn):
    """If an import does not complete, all that wait for it fail, directly or through another."""
    first = await queued(conn, [bad(1), user(2)], sizes=[1, 1], max_errors=0)
    second = await queued(conn, users(1, first=3), after_id=first)
    third = await queued(conn, users(1, first=4), after_id=second)
    await work_off(conn, first)
    for id, earlier in ((second, first), (third, second)):
        job = await ended(conn, id)
        assert (job.status, job.created) == ("failed", 0)
        assert job.problem is not None
        assert job.problem["type"] == "/problems/after-not-completed"
        assert job.problem["detail"] == f"import {earlier} ended as failed"


async def test_waiting_for_nothing_is_refused(conn):
    """An id that no import has cannot be waited for."""
    with pytest.raises(uploads.AfterUnknown):
        await queued(conn, users(1), after_id=UUID(int=5))


# ── by HTTP ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_three_files_in_any_order_of_arrival(service, conn):
    """Users, articles and comments that are posted at the same time wait for the files to which they refer."""
    running = await service(worker_pool_size=2, batch_size=2)
    async with api_client.connected(running) as api:
        ids = [UUID(int=n) for n in range(1, 5)]
        people = "".join(f"{id},u{id.int}@example.org,U,reader,true\n" for id in ids)
        posts = [factories.article(id, id.int, id=str(UUID(int=100 + id.int))) for id in ids]
        words = [factories.comment(UUID(int=100 + id.int), id) for id in ids]
        first = await api.post("id," + USERS_HEADER.decode() + people, type="text/csv", params={"resource": "users"})
        second = await api.client.post(
            api_client.PATH, json={"resource": "articles", "records": posts, "after": first.json()["id"]}
        )
        third = await api.client.post(
            api_client.PATH, json={"resource": "comments", "records": words, "after": second.json()["id"]}
        )
        for answer in (first, second, third):
            job = await api.finished(answer)
            assert (job["status"], job["outcome"], job["counts"]["created"]) == ("completed", "success", 4)
        assert third.json()["after"] == second.json()["id"]


async def test_a_small_import_does_not_wait_for_a_large_one(service, conn):
    """A one-record import that is posted behind a large one ends before it, and the large one still ends."""
    running = await service(worker_pool_size=1, batch_size=100)
    async with api_client.connected(running) as api:
        large = await api.post(
            USERS_HEADER + b"".join(map(user_row, range(30_000))), type="text/csv", params={"resource": "users"}
        )

        async def begun() -> bool:
            return (await api.get(f"/{large.json()['id']}")).json()["processed_records"] > 0

        await eventually(begun)
        small = await api.finished(await api.post(json={"resource": "users", "records": [user(99_999)]}))
        last = await api.finished(large)
        assert last["outcome"] == "success"
        assert small["finished_at"] < last["finished_at"]
