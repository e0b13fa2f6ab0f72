"""The queue protocol, on two connections whose steps are interleaved by the tests."""

import asyncio
import json
from uuid import UUID

import pytest

from db import queue
from db.imports import completion, jobs
from db.queue import ClaimLost, Counts
from tests.support import factories
from tests.support.factories import blocked, chunk, claim, ended, perform, queued, rows, user, users

# see tests/README.md
THROUGH_PGBOUNCER = True

GRACE_SECONDS = 5.0
ATTEMPTS_MAX = 12
CRASHES_MAX = 4


async def reclaim(conn, *, attempts_max: int = ATTEMPTS_MAX):
    return await queue.reclaim(
        conn, worker="heir", grace_seconds=GRACE_SECONDS, attempts_max=attempts_max, crashes_max=CRASHES_MAX
    )


async def reclaimed(conn, **limits: int) -> queue.Claim:
    claimed = await reclaim(conn, **limits)
    assert claimed is not None
    return claimed


async def finished(conn, id: UUID) -> completion.Finished:
    [end] = await completion.finish(conn, id)
    return end


async def give_back(conn, claimed, *, error: str | None, delay_seconds: float = 0.0):
    return await queue.give_back(conn, claimed, error=error, delay_seconds=delay_seconds, attempts_max=ATTEMPTS_MAX)


async def pass_time(conn, seconds: float) -> None:
    """Lets claims and rests have begun so much earlier."""
    await conn.execute(
        """
        UPDATE chunks
        SET claimed_at = claimed_at - %(seconds)s * interval '1 second',
            retry_at = retry_at - %(seconds)s * interval '1 second'
        """,
        {"seconds": seconds},
    )


async def abandoned(conn, *, chunks: int = 1) -> UUID:
    """An import whose first chunk was claimed by a worker that died."""
    id = await queued(conn, users(chunks), sizes=[1] * chunks)
    await claim(conn, worker="dead")
    await pass_time(conn, GRACE_SECONDS)
    return id


# ── claim ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── reclaim ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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
async def test_chunks_that_follow_come_along(conn, limits, job, expected):
    """A claim of several chunks includes the next ones of the same import, within its limits."""
    await queued(conn, users(6), sizes=[1] * 6, **job)
    await queued(conn, users(6), sizes=[1] * 6, **job)
    claimed = await queue.claim(conn, worker="me", **{"bytes_max": factories.BYTES_MAX} | limits)
    assert claimed is not None
    found = await rows(conn, "SELECT id, job_id, seq, state, worker FROM chunks WHERE lease = 1 ORDER BY seq")
    assert found == [(id, claimed.job_id, seq, "running", "me") for id, seq in zip(claimed.ids, expected, strict=True)]


async def test_chunks_that_came_along_are_done_together(conn):
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


async def test_chunks_that_came_along_are_lost_together_and_taken_over_singly(conn, other):
    """If one chunk of a claim was taken over, none of its work is stored; after a crash each chunk is processed alone."""
    id = await queued(conn, users(4), sizes=[1] * 4)
    lost = await claim(conn, chunks_max=3)
    await pass_time(conn, GRACE_SECONDS)
    heirs = [await reclaimed(other)]
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
        heirs.append(claimed)
    for heir in heirs:
        await perform(conn, heir)
    await finished(conn, id)
    assert (await ended(conn, id)).created == 4


async def test_chunks_of_a_stopped_job_are_dropped_together(conn):
    id = await queued(conn, users(3), sizes=[1] * 3)
    claimed = await claim(conn, chunks_max=3)
    await cancel(conn, id)
    assert await perform(conn, claimed) is None
    assert await rows(conn, "SELECT DISTINCT state FROM chunks") == [("cancelled",)]
    assert (await finished(conn, id)).status == "cancelled"


async def test_claim_and_reclaim_pass_each_other_by(conn, other):
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
        heir = await reclaimed(conn)
        assert await reclaim(other) is None
    assert (heir.lease, heir.attempt, heir.crashes, heir.state) == (2, 2, 1, "running")
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
    heir = await reclaimed(other)
    # as if it had got past the fence before
    with pytest.raises(ClaimLost):
        async with conn.transaction():
            await factories.stored_user(conn, 1)
            await queue.finish(conn, lost, Counts(created=1))
    with pytest.raises(ClaimLost):
        await queue.fence(conn, lost)
    assert await give_back(conn, lost, error="late") is None
    assert await rows(conn, "SELECT FROM users") == []
    await perform(other, heir)
    await completion.finish(other, id)
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
    assert (await chunk(conn, id))["worker"] == "heir"


async def test_the_grace_grows_with_the_crashes(conn):
    """The first two crashes are reclaimed after the same grace period; later ones after a longer one, by the server's clock."""
    await queued(conn, users(1))
    await claim(conn)
    for crashes in range(CRASHES_MAX - 1):
        await pass_time(conn, GRACE_SECONDS * 2 ** max(0, crashes - 1) - 1)
        assert await reclaim(conn) is None
        await pass_time(conn, 1)
        assert (await reclaimed(conn)).crashes == crashes + 1


# ── the end of a chunk that cannot be done ────────────────────────────────────────────────────────────────────────────


async def test_a_poison_chunk_fails_and_the_job_ends(conn):
    """After its last allowed crash the chunk fails and its records are unprocessed; the other chunks are not affected."""
    id = await queued(conn, users(5), sizes=[2, 3])
    await claim(conn)
    await perform(conn, await claim(conn))
    for crash in range(1, CRASHES_MAX + 1):
        assert await completion.finish(conn, id) == []
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


async def test_giving_back_without_an_error_costs_nothing(conn):
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


# ── the end of a job ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_job_with_work_left_does_not_end(conn, other):
    """A job is not finished while its last chunk is not committed."""
    id = await queued(conn, users(1))
    claimed = await claim(conn)
    async with conn.transaction():
        await perform(conn, claimed)
        assert await completion.finish(other, id) == []
    assert (await finished(other, id)).status == "completed"


async def test_the_last_two_finish_the_job_once(conn, other):
    """Two workers that finish the last two chunks concurrently make the job final exactly once."""
    id = await queued(conn, users(2), sizes=[1, 1])
    one, two = await claim(conn), await claim(conn)
    async with conn.transaction():
        await perform(conn, one)
        await perform(other, two)
        # the first chunk is not committed yet
        assert await completion.finish(other, id) == []
    assert (await finished(conn, id)).created == 2
    assert await completion.finish(other, id) == []
    await ended(conn, id)


async def test_two_ends_at_once_are_one(conn, other):
    """If two workers make the job final at the same time, the second waits for the first and returns nothing."""
    id = await queued(conn, users(2), sizes=[1, 1])
    await perform(conn, await claim(conn))
    await perform(conn, await claim(conn))
    async with conn.transaction():
        assert (await finished(conn, id)).status == "completed"
        second = asyncio.create_task(completion.finish(other, id))
        await blocked(other, by=conn)
    assert await second == []
    await ended(conn, id)


async def test_an_end_that_is_rolled_back_falls_to_the_other(conn, other):
    """If the transaction that makes the job final is rolled back, another worker does it."""
    id = await queued(conn, users(1))
    await perform(conn, await claim(conn))
    async with conn.transaction(force_rollback=True):
        assert await completion.finish(conn, id) != []
        second = asyncio.create_task(completion.finish(other, id))
        await blocked(other, by=conn)
    [end] = await second
    assert end.status == "completed"


async def test_two_workers_queue_one_settle_chunk(conn, other):
    """The settle chunk is queued once, and the job is not final before it is done."""
    id = await queued(conn, [user(1), user(1)], sizes=[1, 1])
    await perform(conn, await claim(conn))
    await perform(conn, await claim(conn))
    async with conn.transaction():
        assert await completion.finish(conn, id) == []
        second = asyncio.create_task(completion.finish(other, id))
        await blocked(other, by=conn)
    assert await second == []
    settle = await claim(conn)
    assert settle.kind == "settle"
    assert await queue.claim(other, worker="late") is None
    await perform(conn, settle)
    assert (await finished(conn, id)).failed == 1
    await ended(conn, id)


async def test_the_sweep_ends_what_a_dead_worker_left(conn):
    """Maintenance of any worker finishes a job whose last worker died between its commit and the end of the job."""
    id = await queued(conn, users(1))
    assert await completion.unfinished(conn) == []
    claimed = await claim(conn)
    assert await completion.unfinished(conn) == []
    await perform(conn, claimed)
    assert await completion.unfinished(conn) == [id]
    await completion.finish(conn, id)
    assert await completion.unfinished(conn) == []
    await ended(conn, id)


# ── a stopped job ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def cancel(conn, id: UUID) -> None:
    await conn.execute("UPDATE import_jobs SET cancel_requested_at = now() WHERE id = %(id)s", {"id": id})


async def test_a_cancelled_job_starts_no_further_chunk(conn, other):
    """Running chunks are finished, claimed ones without a fence are dropped, pending ones are cancelled."""
    id = await queued(conn, users(6), sizes=[1, 2, 3])
    begun, unbegun = await claim(conn), await claim(conn)
    async with conn.transaction():
        await perform(conn, begun)
        await cancel(other, id)
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
        cancelling = asyncio.create_task(cancel(other, id))
        await blocked(other, by=conn)
    await cancelling
    assert await completion.finish(other, id) == []
    async with conn.transaction():
        assert not await queue.fence(conn, claimed)
        await queue.drop(conn, claimed)
    assert (await finished(other, id)).status == "cancelled"
    job = await ended(conn, id)
    assert (job.created, job.failed, job.total_records) == (0, 0, 2)


async def test_a_cancelled_job_is_settled_all_the_same(conn):
    """The duplicates of a cancelled import are settled too, among the records that were processed."""
    id = await queued(conn, [user(1), user(1, name="later"), user(2)], sizes=[1, 1, 1])
    await claim(conn)
    await perform(conn, await claim(conn))
    await pass_time(conn, GRACE_SECONDS)
    await perform(conn, await reclaimed(conn))
    await cancel(conn, id)
    assert await completion.finish(conn, id) == []
    await perform(conn, await claim(conn))
    assert (await finished(conn, id)).status == "cancelled"
    job = await ended(conn, id)
    assert (job.created, job.failed) == (1, 1)
    assert await rows(conn, "SELECT name FROM users") == [("User 1",)]
