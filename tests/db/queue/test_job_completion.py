"""The end of a job: one worker makes it final, also if two finish at the same time or the job is cancelled."""

import asyncio

from db import queue
from db.imports import completion
from tests.support.claims import GRACE_SECONDS, finished, pass_time, reclaimed, request_cancel
from tests.support.factories import blocked, chunk, claim, ended, perform, queued, rows, user, users

# see tests/README.md
THROUGH_PGBOUNCER = True


async def test_a_job_with_uncommitted_chunks_is_not_finished(conn, other):
    """A job is not finished while its last chunk is not committed."""
    id = await queued(conn, users(1))
    claimed = await claim(conn)
    async with conn.transaction():
        await perform(conn, claimed)
        assert await completion.finish(other, id, endpoints=()) == []
    assert (await finished(other, id)).status == "completed"


async def test_the_last_two_workers_finish_the_job_once(conn, other):
    """Two workers that finish the last two chunks concurrently make the job final exactly once."""
    id = await queued(conn, users(2), sizes=[1, 1])
    one, two = await claim(conn), await claim(conn)
    async with conn.transaction():
        await perform(conn, one)
        await perform(other, two)
        # the first chunk is not committed yet
        assert await completion.finish(other, id, endpoints=()) == []
    assert (await finished(conn, id)).created == 2
    assert await completion.finish(other, id, endpoints=()) == []
    await ended(conn, id)


async def test_of_two_concurrent_ends_of_a_job_one_has_an_effect(conn, other):
    """If two workers make the job final at the same time, the second waits for the first and returns nothing."""
    id = await queued(conn, users(2), sizes=[1, 1])
    await perform(conn, await claim(conn))
    await perform(conn, await claim(conn))
    async with conn.transaction():
        assert (await finished(conn, id)).status == "completed"
        second = asyncio.create_task(completion.finish(other, id, endpoints=()))
        await blocked(other, by=conn)
    assert await second == []
    await ended(conn, id)


async def test_a_job_whose_end_is_rolled_back_is_finished_by_another_worker(conn, other):
    """If the transaction that makes the job final is rolled back, another worker does it."""
    id = await queued(conn, users(1))
    await perform(conn, await claim(conn))
    async with conn.transaction(force_rollback=True):
        assert await completion.finish(conn, id, endpoints=()) != []
        second = asyncio.create_task(completion.finish(other, id, endpoints=()))
        await blocked(other, by=conn)
    [end] = await second
    assert end.status == "completed"


async def test_two_workers_queue_one_settle_chunk(conn, other):
    """The settle chunk is queued once, and the job is not final before it is done."""
    id = await queued(conn, [user(1), user(1)], sizes=[1, 1])
    await perform(conn, await claim(conn))
    await perform(conn, await claim(conn))
    async with conn.transaction():
        assert await completion.finish(conn, id, endpoints=()) == []
        second = asyncio.create_task(completion.finish(other, id, endpoints=()))
        await blocked(other, by=conn)
    assert await second == []
    settle = await claim(conn)
    assert settle.kind == "settle"
    assert await queue.claim(other, worker="late") is None
    await perform(conn, settle)
    assert (await finished(conn, id)).failed == 1
    await ended(conn, id)


async def test_an_end_without_a_budget(conn):
    """It needs no statement before it, unless the job has deferred records, was cancelled, or has a chunk that failed."""
    plain = await queued(conn, users(1))
    await perform(conn, await claim(conn))
    [end] = await completion.finish(conn, plain, endpoints=(), has_budget=False)
    assert end.status == "completed"
    deferred = await queued(conn, [user(2), user(2)], sizes=[1, 1])
    await perform(conn, await claim(conn))
    await perform(conn, await claim(conn))
    assert await completion.finish(conn, deferred, endpoints=(), has_budget=False) == []
    await perform(conn, await claim(conn))
    [end] = await completion.finish(conn, deferred, endpoints=(), has_budget=False)
    assert (end.status, end.failed) == ("completed", 1)
    cancelled = await queued(conn, users(1, first=3))
    await request_cancel(conn, cancelled)
    [end] = await completion.finish(conn, cancelled, endpoints=(), has_budget=False)
    assert end.status == "cancelled"
    failed = await queued(conn, users(1, first=4))
    await conn.execute("UPDATE chunks SET state = 'failed', finished_at = now() WHERE job_id = %s", (failed,))
    [end] = await completion.finish(conn, failed, endpoints=(), has_budget=False)
    assert end.status == "failed"


async def test_maintenance_finishes_the_job_of_a_dead_worker(conn):
    """Maintenance of any worker finishes a job whose last worker died between its commit and the end of the job."""
    id = await queued(conn, users(1))
    assert await completion.unfinished(conn) == []
    claimed = await claim(conn)
    assert await completion.unfinished(conn) == []
    await perform(conn, claimed)
    assert await completion.unfinished(conn) == [id]
    await completion.finish(conn, id, endpoints=())
    assert await completion.unfinished(conn) == []
    await ended(conn, id)


async def test_a_cancelled_job_starts_no_further_chunk(conn, other):
    """Running chunks are finished, claimed ones without a fence are dropped, pending ones are cancelled."""
    id = await queued(conn, users(6), sizes=[1, 2, 3])
    begun, unbegun = await claim(conn), await claim(conn)
    async with conn.transaction():
        await perform(conn, begun)
        await request_cancel(other, id)
        assert await queue.claim(other, worker="late") is None
    assert await perform(other, unbegun) is None
    assert (await finished(conn, id)).status == "cancelled"
    assert [(await chunk(conn, id, seq))["state"] for seq in (1, 2, 3)] == ["done", "cancelled", "cancelled"]
    assert (await ended(conn, id)).created == 1


async def test_a_claim_races_a_cancellation(conn, other):
    """A chunk that is being claimed while its job is cancelled is skipped, and dropped at its fence."""
    id = await queued(conn, users(2), sizes=[1, 1])
    async with conn.transaction():
        claimed = await claim(conn)
        cancelling = asyncio.create_task(request_cancel(other, id))
        await blocked(other, by=conn)
    await cancelling
    assert await completion.finish(other, id, endpoints=()) == []
    async with conn.transaction():
        assert not await queue.fence(conn, claimed)
        await queue.drop(conn, claimed)
    assert (await finished(other, id)).status == "cancelled"
    job = await ended(conn, id)
    assert (job.created, job.failed, job.total_records) == (0, 0, 2)


async def test_a_cancelled_job_is_settled_too(conn):
    """The duplicates of a cancelled import are settled too, among the records that were processed."""
    id = await queued(conn, [user(1), user(1, name="later"), user(2)], sizes=[1, 1, 1])
    await claim(conn)
    await perform(conn, await claim(conn))
    await pass_time(conn, GRACE_SECONDS)
    await perform(conn, await reclaimed(conn))
    await request_cancel(conn, id)
    assert await completion.finish(conn, id, endpoints=()) == []
    await perform(conn, await claim(conn))
    assert (await finished(conn, id)).status == "cancelled"
    job = await ended(conn, id)
    assert (job.created, job.failed) == (1, 1)
    assert await rows(conn, "SELECT name FROM users") == [("User 1",)]
