"""Reclaims and give-backs: the chunk of a dead worker is taken over once; after too many attempts it fails."""

import asyncio

import pytest

from db import queue
from db.imports import completion
from db.queue import ClaimLost, Counts
from tests.support import factories
from tests.support.claims import (
    ATTEMPTS_MAX,
    CRASHES_MAX,
    GRACE_SECONDS,
    abandoned,
    finished,
    give_back,
    pass_time,
    reclaim,
    reclaimed,
)
from tests.support.factories import blocked, chunk, claim, ended, perform, queued, rows, users

# see tests/README.md
THROUGH_PGBOUNCER = True


async def test_claims_and_reclaims_do_not_block_each_other(conn, other):
    """A claim takes no running chunk, a reclaim no pending one, and neither waits for the other."""
    await abandoned(conn, chunks=3)
    async with conn.transaction(force_rollback=True):
        assert (await reclaimed(conn)).seq == 1
        assert (await claim(other)).seq == 2
    async with conn.transaction():
        assert (await claim(conn)).seq == 3
        assert (await reclaimed(other)).seq == 1


async def test_two_reclaims_at_once_take_over_once(conn, other):
    """The chunk of a dead worker is taken over once, whether the second reclaim comes before or after the commit."""
    await abandoned(conn)
    async with conn.transaction():
        successor = await reclaimed(conn)
        assert await reclaim(other) is None
    assert (successor.lease, successor.attempt, successor.crashes, successor.state) == (2, 2, 1, "running")
    assert await reclaim(other) is None


async def test_a_locked_chunk_is_not_reclaimed(conn, other):
    """A chunk whose worker holds the fence is not reclaimed, however old the claim is."""
    id = await queued(conn, users(1))
    mine = await claim(conn)
    await pass_time(conn, GRACE_SECONDS)
    async with conn.transaction():
        await queue.fence(conn, mine)
        assert await reclaim(other) is None
        await queue.finish(conn, mine, Counts())
        assert await reclaim(other) is None
    assert await reclaim(other) is None
    assert (await chunk(conn, id))["state"] == "done"


async def test_a_lost_claim_stores_nothing(conn, other):
    """A worker whose chunk was reclaimed cannot finish it, and its records are rolled back; those of the other count once."""
    id = await queued(conn, users(1))
    lost = await claim(conn)
    await pass_time(conn, GRACE_SECONDS)
    successor = await reclaimed(other)
    # as if the worker had passed the fence before
    with pytest.raises(ClaimLost):
        async with conn.transaction():
            await factories.stored_user(conn, 1)
            await queue.finish(conn, lost, Counts(created=1))
    with pytest.raises(ClaimLost):
        await queue.fence(conn, lost)
    assert await give_back(conn, lost, error="late") is None
    assert await rows(conn, "SELECT FROM users") == []
    await perform(other, successor)
    await completion.finish(other, id, endpoints=())
    assert (await ended(conn, id)).created == 1


@pytest.mark.parametrize("undone", [False, True])
async def test_the_fence_waits_for_a_reclaim(conn, other, undone):
    """The fence waits for a concurrent reclaim; the claim is lost if that one is committed."""
    id = await queued(conn, users(1))
    mine = await claim(conn)
    await pass_time(conn, GRACE_SECONDS)
    async with other.transaction(force_rollback=undone):
        assert await reclaim(other) is not None
        work = asyncio.create_task(perform(conn, mine))
        await blocked(conn, by=other)
    if undone:
        await work
    else:
        with pytest.raises(ClaimLost):
            await work
    assert (await chunk(conn, id))["state"] == ("done" if undone else "running")


async def test_giving_back_and_reclaiming_exclude_each_other(conn, other):
    """Of a late give-back and a reclaim only the first has an effect."""
    id = await queued(conn, users(1))
    first = await claim(conn)
    await pass_time(conn, GRACE_SECONDS)
    async with conn.transaction():
        assert await give_back(conn, first, error=None) == "pending"
        assert await reclaim(other) is None
    second = await claim(conn)
    await pass_time(conn, GRACE_SECONDS)
    async with other.transaction():
        assert await reclaim(other) is not None
        late = asyncio.create_task(give_back(conn, second, error="late"))
        await blocked(conn, by=other)
    assert await late is None
    assert (await chunk(conn, id))["state"] == "running"
    assert (await chunk(conn, id))["worker"] == "successor"


async def test_the_grace_grows_with_the_crashes(conn):
    """The first two crashes are reclaimed after the same grace period; later ones after a longer one, by the server's clock."""
    await queued(conn, users(1))
    await claim(conn)
    for crashes in range(CRASHES_MAX - 1):
        await pass_time(conn, GRACE_SECONDS * 2 ** max(0, crashes - 1) - 1)
        assert await reclaim(conn) is None
        await pass_time(conn, 1)
        assert (await reclaimed(conn)).crashes == crashes + 1


async def test_a_poison_chunk_fails_and_the_job_ends(conn):
    """After its last allowed crash the chunk fails and its records are unprocessed; the other chunks are not affected."""
    id = await queued(conn, users(5), sizes=[2, 3])
    await claim(conn)
    await perform(conn, await claim(conn))
    for crash in range(1, CRASHES_MAX + 1):
        assert await completion.finish(conn, id, endpoints=()) == []
        await pass_time(conn, 1000)
        assert (await reclaimed(conn)).state == ("failed" if crash == CRASHES_MAX else "running")
    assert (await finished(conn, id)).status == "failed"
    job = await ended(conn, id)
    assert (job.status, job.outcome, job.created, job.failed) == ("failed", None, 3, 0)
    assert job.problem is not None
    assert job.problem["type"] == "/problems/chunk-failed"
    assert "1 of 2 chunks" in job.problem["detail"]
    assert (await chunk(conn, id))["last_error"] == "4 workers died over it"


async def test_a_reclaim_past_the_last_attempt_fails_the_chunk(conn):
    """Claims are counted however they end: a chunk fails if its worker crashes in the last attempt."""
    id = await abandoned(conn)
    assert (await reclaimed(conn, attempts_max=1)).state == "failed"
    assert (await chunk(conn, id))["attempt"] == 1
    assert (await finished(conn, id)).status == "failed"
    await ended(conn, id)


async def test_a_chunk_given_back_without_an_error_loses_no_attempt(conn):
    """A give-back without an error changes only the lease, which never shrinks."""
    id = await queued(conn, users(1))
    assert await give_back(conn, await claim(conn), error=None) == "pending"
    row = await chunk(conn, id)
    assert (row["attempt"], row["crashes"], row["lease"], row["last_error"]) == (0, 0, 1, None)
    assert (await claim(conn)).attempt == 1


async def test_an_error_delays_the_chunk_and_the_last_attempt_fails_it(conn):
    """A chunk given back after an error is not claimed before retry_at, and ATTEMPTS_MAX times at most."""
    id = await queued(conn, users(1))
    for attempt in range(1, ATTEMPTS_MAX + 1):
        claimed = await claim(conn)
        assert (claimed.attempt, claimed.crashes) == (attempt, 0)
        state = await give_back(conn, claimed, error="disk full", delay_seconds=60)
        assert state == ("failed" if attempt == ATTEMPTS_MAX else "pending")
        assert await queue.claim(conn, worker="me") is None
        await pass_time(conn, 60)
    assert (await finished(conn, id)).status == "failed"
    assert (await ended(conn, id)).problem is not None
    assert (await chunk(conn, id))["last_error"] == "disk full"
