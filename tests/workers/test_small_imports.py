"""Small imports that a worker claims together: what each of them has in the end is what it has alone, whatever happens."""

import asyncio
from random import Random
from uuid import UUID

import pytest

from db import queue
from db.connections.pool import Connection
from db.errors import UNAVAILABLE
from db.imports import completion, jobs
from db.settings import Settings
from tests.support.claims import pass_time, queued_singles, request_cancel
from tests.support.eventually import PATIENCE_SECONDS, eventually, in_time
from tests.support.factories import blocked, chunk, ended, errors, perform, queued, rows, stored_user, user
from workers.processing import RETRY_DELAY_SECONDS_MAX
from workers.worker import Worker

COUNT = 5
TOGETHER = 16
SEEDS = range(40)


def worker(name: str = "me") -> Worker:
    return Worker(Settings(claim_imports_max=TOGETHER), name=name, stopping=asyncio.Event())


async def drain(of: Worker, conn: Connection) -> int:
    """Processes all claims; returns how many there were."""
    count = 0
    while await of.run_once(conn):
        count += 1
    return count


async def test_one_transaction_stores_and_ends_all(conn):
    ids = await queued_singles(conn, COUNT)
    assert await drain(worker(), conn) == 1
    for id in ids:
        job = await ended(conn, id)
        assert (job.status, job.outcome, job.created) == ("completed", "success", 1)
    transactions = """
        SELECT xmin FROM users
        UNION SELECT xmin FROM import_jobs
        UNION SELECT xmin FROM chunks
    """
    assert len(await rows(conn, transactions)) == 1
    sources = "SELECT import_id, email, import_record, import_action FROM users ORDER BY email"
    assert await rows(conn, sources) == [(id, f"user{n}@example.com", 1, "created") for n, id in enumerate(ids, 1)]


async def test_an_import_with_errors_does_not_keep_the_others(conn, other):
    """It is processed after them, by itself. Idle workers are notified of it."""
    sound = await queued_singles(conn, 3)
    flawed = [await queued(conn, [user(9), user(10, role="king")]), await queued(conn, [user(11, email="no")])]
    await queue.listen(other)
    me = worker()
    await me.run_once(conn)
    assert await queue.wait(other, PATIENCE_SECONDS) == {""}
    await drain(me, conn)
    assert [(await ended(conn, id)).created for id in sound] == [1, 1, 1]
    assert [(await ended(conn, id)).outcome for id in flawed] == ["partial", "rejected"]
    assert [await errors(conn, id) for id in flawed] == [
        [(2, "role", "invalid_enum")],
        [(1, "email", "invalid_format")],
    ]


async def test_a_cancelled_import_does_not_keep_the_others(conn, other, at_point):
    """Nor are its records stored, and an import that waits for it fails."""
    ids = await queued_singles(conn, 3)
    last = await queued(conn, [user(4)], after_id=ids[1])
    at_point("after_claim", lambda _: request_cancel(other, ids[1]))
    await drain(worker(), conn)
    ends = [await ended(conn, id) for id in (*ids, last)]
    assert [job.status for job in ends] == ["completed", "cancelled", "completed", "failed"]
    assert [job.created for job in ends] == [1, 0, 1, 0]


async def test_an_import_that_waits_for_one_of_them_is_processed_then(conn):
    first, second = await queued_singles(conn, 2)
    last = await queued(conn, [user(3)], after_id=first)
    await queue.listen(conn)
    me = worker()
    assert await me.run_once(conn)
    assert [(await ended(conn, id)).created for id in (first, second)] == [1, 1]
    assert await queue.wait(conn, PATIENCE_SECONDS) == {""}
    assert await me.run_once(conn)
    assert (await ended(conn, last)).created == 1


async def test_a_record_that_waits_for_a_lock_does_not_keep_the_others(conn, other, third):
    """An e-mail address of a transaction that is open: the imports without it are given back. One worker waits for it."""
    ids = await queued_singles(conn, 3)

    async def are_others_final() -> bool:
        return [(await found(third, id)).is_final for id in ids] == [True, False, True]

    async with third.transaction(force_rollback=True):
        await stored_user(third, 2)
        first = asyncio.create_task(drain(worker("first"), conn))
        await blocked(conn, by=third)
        await eventually(lambda: rows(third, "SELECT FROM chunks WHERE state = 'pending' AND lease = 1"))
        second = asyncio.create_task(drain(worker("second"), other))
        await eventually(are_others_final)
    await in_time(asyncio.gather(first, second))
    assert [(await ended(conn, id)).created for id in ids] == [1, 1, 1]


async def found(conn: Connection, id: UUID) -> jobs.Import:
    job = await jobs.get(conn, id)
    assert job is not None
    return job


async def test_after_an_error_each_is_processed_by_itself(conn, at_point):
    """The error does not count as an attempt."""

    async def fail(_: Connection) -> None:
        raise ValueError("no reason")

    ids = await queued_singles(conn, COUNT)
    at_point("before_commit", fail)
    assert await drain(worker(), conn) == COUNT
    assert [(await ended(conn, id)).created for id in ids] == [1] * COUNT
    assert [(await chunk(conn, id))["attempt"] for id in ids] == [1] * COUNT


@pytest.mark.parametrize(("point", "attempts"), [("after_claim", 2), ("before_commit", 2), ("after_commit", 1)])
async def test_after_a_lost_connection_all_are_stored_once(conn, other, at_point, point, attempts):
    async def end_session(of: Connection) -> None:
        await other.execute("SELECT pg_terminate_backend(%s, 10000)", (of.info.backend_pid,))

    ids = await queued_singles(conn, COUNT)
    at_point(point, end_session)
    me = worker()
    with pytest.raises(UNAVAILABLE):
        await drain(me, conn)
    await me.processor.resolve(other)
    # of an attempt that has failed
    await pass_time(other, RETRY_DELAY_SECONDS_MAX)
    await drain(me, other)
    assert [(await ended(other, id)).created for id in ids] == [1] * COUNT
    assert [(await chunk(other, id))["attempt"] for id in ids] == [attempts] * COUNT


async def test_those_that_are_cancelled_before_the_connection_is_lost_end_at_once(conn, other, at_point):
    async def end_session(of: Connection) -> None:
        for id in ids:
            await request_cancel(other, id)
        await other.execute("SELECT pg_terminate_backend(%s, 10000)", (of.info.backend_pid,))

    ids = await queued_singles(conn, COUNT)
    at_point("after_claim", end_session)
    me = worker()
    with pytest.raises(UNAVAILABLE):
        await drain(me, conn)
    await me.processor.resolve(other)
    assert [(await ended(other, id)).status for id in ids] == ["cancelled"] * COUNT


@pytest.mark.parametrize("are_cancelled", [False, True])
async def test_a_worker_that_stops_gives_all_back(conn, other, third, are_cancelled):
    """Without counting the attempt. Those that were cancelled meanwhile end at once."""
    ids = await queued_singles(conn, COUNT)
    me = Worker(Settings(stop_seconds=0.2), name="me", stopping=asyncio.Event())
    async with third.transaction(force_rollback=True):
        await stored_user(third, 1)
        working = asyncio.create_task(me.run_once(conn))
        await blocked(conn, by=third)
        for id in ids if are_cancelled else []:
            await request_cancel(other, id)
        me.stopping.set()
        await in_time(working)
        states = await rows(other, "SELECT DISTINCT state, attempt FROM chunks")
    assert states == [("cancelled" if are_cancelled else "pending", 0)]
    await drain(worker("next"), conn)
    assert [(await ended(conn, id)).created for id in ids] == [0 if are_cancelled else 1] * COUNT


async def test_conflicts_with_stored_rows_are_those_of_each_import(conn):
    """Of all modes, and also for the imports that follow a conflict."""
    for number in range(1, 4):
        await stored_user(conn, number)
    ids = [await queued(conn, [user(n)], mode=mode) for n, mode in enumerate(("insert", "skip", "upsert"), 1)]
    ids += [await queued(conn, [user(n)]) for n in (4, 5)]
    await drain(worker(), conn)
    jobs_ = [await ended(conn, id) for id in ids]
    assert [(job.created, job.updated, job.skipped, job.failed) for job in jobs_] == [
        (0, 0, 0, 1),
        (0, 0, 1, 0),
        (0, 1, 0, 0),
        (1, 0, 0, 0),
        (1, 0, 0, 0),
    ]


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_imports_have_the_result_that_each_has_alone(conn, seed):
    """Each import has its own e-mail addresses, some of them twice or stored, and some records have errors."""
    random = Random(seed)
    imports = [
        (random.choice(["insert", "skip", "upsert"]), [random_user(random, n) for _ in range(random.randint(1, 3))])
        for n in range(random.randint(2, 20))
    ]
    stored = [n for n in range(len(imports)) if random.random() < 0.2]
    results = []
    for process in (one_by_one, all_together):
        await conn.execute("TRUNCATE users, import_jobs CASCADE")
        for n in stored:
            await stored_user(conn, email=f"{n}.1@example.com")
        ids = [await queued(conn, records, mode=mode) for mode, records in imports]
        await process(conn, ids)
        table = await rows(conn, "SELECT lower(email), name, role, import_record, import_action FROM users ORDER BY 1")
        ends = [await ended(conn, id) for id in ids]
        counts = [(job.outcome, job.created, job.updated, job.unchanged, job.skipped, job.failed) for job in ends]
        results.append((table, counts, [await errors(conn, id) for id in ids]))
    assert results[0] == results[1]


def random_user(random: Random, number: int) -> dict[str, object]:
    email = f"{number}.{random.randint(1, 4)}@example.com"
    return user(email=email, name=random.choice("ab"), role=random.choice(["reader"] * 9 + ["king"]))


async def one_by_one(conn: Connection, ids: list[UUID]) -> None:
    for _ in ids:
        claimed = await queue.claim(conn, worker="me")
        assert claimed is not None
        await perform(conn, claimed)
        await completion.finish(conn, claimed.job_id, endpoints=())


async def all_together(conn: Connection, _: list[UUID]) -> None:
    await drain(worker(), conn)
