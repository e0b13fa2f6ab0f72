"""Claims of the queue protocol, on two connections whose steps are interleaved by the tests."""

import asyncio
import json

import pytest

from db import queue
from db.imports import jobs
from db.queue import ClaimLost, Counts
from tests.support import factories
from tests.support.claims import GRACE_SECONDS, finished, give_back, pass_time, reclaim, reclaimed, request_cancel
from tests.support.factories import blocked, chunk, claim, ended, perform, queued, rows, user, users

# see tests/README.md
THROUGH_PGBOUNCER = True


async def test_two_claims_at_once_get_two_chunks(conn, other):
    """A claim skips the chunk of an uncommitted claim, and waits only for the short update that starts the job."""
    id = await queued(conn, users(2), sizes=[1, 1])
    await conn.execute("UPDATE import_jobs SET status = 'processing', started_at = now()")
    async with conn.transaction():
        assert (await claim(conn)).seq == 1
        assert (await claim(other)).seq == 2
    assert [(await chunk(conn, id, seq))["state"] for seq in (1, 2)] == ["running", "running"]


async def test_two_claims_at_once_start_a_job_once(conn, other):
    """The second of the two first claims waits for the first one's start of the job, and does not write it again."""
    id = await queued(conn, users(2), sizes=[1, 1])
    async with conn.transaction():
        await claim(conn)
        second = asyncio.create_task(claim(other))
        await blocked(other, by=conn)
    assert (await second).seq == 2
    job = await jobs.get(conn, id)
    assert job is not None
    assert job.status == "processing"
    assert job.started_at < (await chunk(conn, id, 2))["claimed_at"]


async def test_a_single_chunk_is_claimed_once(conn, other):
    """A second claim of the only chunk finds nothing, without waiting; it finds the chunk if the first is rolled back."""
    await queued(conn, users(1))
    async with conn.transaction(force_rollback=True):
        await claim(conn)
        assert await queue.claim(other, worker="late") is None
    assert (await claim(other, worker="late")).attempt == 1


async def test_a_committed_claim_is_not_repeated(conn, other):
    """A claimed chunk is not claimed again during its grace period."""
    await queued(conn, users(1))
    await claim(conn)
    assert await queue.claim(other, worker="late") is None
    assert await reclaim(other) is None


async def test_a_small_job_does_not_wait_behind_a_large_one(conn):
    """A claim takes a chunk of the job with the fewest running chunks, however many are pending."""
    large = await queued(conn, users(9), sizes=[1] * 9)
    assert [(await claim(conn)).job_id for _ in range(2)] == [large] * 2
    small = await queued(conn, users(2, first=10), sizes=[1, 1])
    order = [(await claim(conn)).job_id for _ in range(3)]
    assert order == [small, small, large]


async def test_the_only_chunk_among_many_jobs_is_found(conn):
    """Also if none of the jobs of the random sample has a chunk that can be claimed."""
    ids = {await queued(conn, users(1, first=n)) for n in range(1, 61)}
    assert {(await claim(conn)).job_id for _ in ids} == ids
    assert await queue.claim(conn, worker="me") is None


async def test_each_of_many_jobs_may_be_next(conn):
    """The sample begins at a random place: 100 claims among 64 equal jobs take chunks of many more jobs than a sample has."""
    for n in range(64):
        await queued(conn, users(2, first=2 * n + 1), sizes=[1, 1])
    claimed = set()
    for _ in range(100):
        async with conn.transaction(force_rollback=True):
            claimed.add((await claim(conn)).job_id)
    assert len(claimed) > 32


@pytest.mark.parametrize(
    ("limits", "job", "expected"),
    [
        ({"chunks_max": 4}, {}, [1, 2, 3, 4]),
        ({"chunks_max": 9}, {}, [1, 2, 3, 4, 5, 6]),
        # what is left is shared among the workers
        ({"chunks_max": 9, "workers": 2}, {}, [1, 2, 3]),
        ({"chunks_max": 9, "workers": 10}, {}, [1]),
        # of chunks that have the same size
        ({"chunks_max": 9, "bytes_max": 6 * len(json.dumps(user(1))) + 5}, {}, [1, 2, 3, 4, 5]),
        ({"chunks_max": 9, "bytes_max": 1}, {}, [1]),
        # nothing may be stored that a refused record before it would have stopped
        ({"chunks_max": 9}, {"on_error": "stop"}, [1]),
        ({"chunks_max": 9}, {"max_errors": 5}, [1]),
        ({"chunks_max": 9}, {"max_error_rate": 0.5}, [1]),
    ],
)
async def test_a_claim_includes_the_chunks_that_follow(conn, limits, job, expected):
    """A claim of several chunks includes the next ones of the same import, within its limits."""
    await queued(conn, users(6), sizes=[1] * 6, **job)
    await queued(conn, users(6), sizes=[1] * 6, **job)
    claimed = await queue.claim(conn, worker="me", **{"bytes_max": factories.BYTES_MAX} | limits)
    assert claimed is not None
    found = await rows(conn, "SELECT id, job_id, seq, state, worker FROM chunks WHERE lease = 1 ORDER BY seq")
    assert found == [(id, claimed.job_id, seq, "running", "me") for id, seq in zip(claimed.ids, expected, strict=True)]


async def test_chunks_of_one_claim_are_finished_together(conn):
    """Their records are stored and checked as if they were one chunk, and counted with the first; errors keep their lines."""
    id = await queued(conn, [user(1), user(2, role="nobody"), user(3), user(4), user(1)], sizes=[1, 1, 1, 1, 1])
    done = await perform(conn, await claim(conn, chunks_max=4))
    assert done is not None
    assert (done.counts.created, done.counts.failed, done.is_followed) == (3, 1, True)
    counted = await rows(conn, "SELECT seq, state, created, failed, counted_in_seq FROM chunks ORDER BY seq")
    assert counted == [
        (1, "done", 3, 1, None),
        (2, "done", 0, 0, 1),
        (3, "done", 0, 0, 1),
        (4, "done", 0, 0, 1),
        (5, "pending", 0, 0, None),
    ]
    job = await factories.run(conn, id)
    assert (job.created, job.failed) == (3, 2)
    assert await factories.errors(conn, id) == [(2, "role", "invalid_enum"), (5, "email", "duplicate_in_file")]


async def test_an_import_that_is_claimed_whole_needs_no_settling(conn):
    """If one claim has all chunks of an import, its duplicates are decided in it."""
    id = await queued(conn, [user(1), user(2), user(1, name="again")], sizes=[1, 1, 1], mode="upsert")
    await perform(conn, await claim(conn, chunks_max=3))
    assert (await finished(conn, id)).created == 2
    assert (await ended(conn, id)).skipped == 1
    assert await rows(conn, "SELECT seq FROM chunks WHERE kind = 'settle'") == []


async def test_chunks_of_one_claim_are_lost_together_and_reclaimed_one_by_one(conn, other):
    """If one chunk of a claim was taken over, none of its work is stored; after a crash each chunk is processed alone."""
    id = await queued(conn, users(4), sizes=[1] * 4)
    lost = await claim(conn, chunks_max=3)
    await pass_time(conn, GRACE_SECONDS)
    successors = [await reclaimed(other)]
    with pytest.raises(ClaimLost):
        async with conn.transaction():
            await factories.stored_user(conn, 1)
            await queue.finish(conn, lost, Counts(created=3))
    with pytest.raises(ClaimLost):
        await queue.fence(conn, lost)
    assert await rows(conn, "SELECT FROM users") == []
    # only what is still its own is given back
    assert await give_back(conn, lost, error="late") == "pending"
    found = await rows(conn, "SELECT seq, state, attempt, crashes FROM chunks ORDER BY seq")
    assert found == [(1, "running", 2, 1), (2, "pending", 1, 0), (3, "pending", 1, 0), (4, "pending", 0, 0)]
    while claimed := await queue.claim(conn, worker="me", chunks_max=9, bytes_max=factories.BYTES_MAX):
        assert not claimed.followers
        successors.append(claimed)
    for successor in successors:
        await perform(conn, successor)
    await finished(conn, id)
    assert (await ended(conn, id)).created == 4


async def test_chunks_of_a_stopped_job_are_dropped_together(conn):
    id = await queued(conn, users(3), sizes=[1] * 3)
    claimed = await claim(conn, chunks_max=3)
    await request_cancel(conn, id)
    assert await perform(conn, claimed) is None
    assert await rows(conn, "SELECT DISTINCT state FROM chunks") == [("cancelled",)]
    assert (await finished(conn, id)).status == "cancelled"
