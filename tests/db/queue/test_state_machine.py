"""The queue compared with a model: workers claim, stall, die and finish in any order, on real connections."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from psycopg import AsyncConnection

from db import queue
from db.connections.pool import Connection
from db.imports import completion
from db.queue import Claim, ClaimLost, Counts
from tests.support import factories

T = TypeVar("T")

WORKERS = 3
JOBS_MAX = 3
ATTEMPTS_MAX = 3
CRASHES_MAX = 2
# No sum of time steps is within a minute of a grace or a delay, so the duration of the test itself has no effect.
STEP_SECONDS = 180
GRACE_SECONDS = 300
REST_SECONDS = 600
# more than any grace and any delay
LONG = 100

# an index that selects one of the workers that can do a step, or one of the jobs
places = st.integers(0, max(WORKERS, JOBS_MAX) - 1)


@dataclass
class Chunk:
    """The model of a chunk: the columns of the protocol, and times as elapsed seconds."""

    job: UUID
    seq: int
    state: str = "pending"
    lease: int = 0
    attempt: int = 0
    crashes: int = 0
    # since its claim; among equals the order of all claims decides
    age: int = 0
    claimed: int = 0
    rest: int = 0

    @property
    def is_orphan(self) -> bool:
        return self.state == "running" and self.age > GRACE_SECONDS * 2 ** max(0, self.crashes - 1)


@dataclass
class Job:
    """A job, whether it is to stop, and its final status if it has one."""

    is_cancelled: bool = False
    has_problem: bool = False
    end: str | None = None


@dataclass
class Hand:
    """A worker: its connection, its claim, valid or not, and whether its transaction is open."""

    conn: Connection
    claim: Claim | None = None
    is_open: bool = False

    async def begin(self) -> None:
        if not self.is_open:
            await self.conn.execute("BEGIN")
        self.is_open = True

    async def commit(self) -> None:
        await self.conn.execute("COMMIT")
        self.is_open = False

    async def roll_back(self) -> None:
        if self.is_open:
            await self.conn.execute("ROLLBACK")
        self.is_open = False


@dataclass
class Database:
    """The connections, which are reused by all runs of the machine, and their event loop."""

    runner: asyncio.Runner
    conn: Connection
    workers: list[Connection]
    # the events so far, over all runs
    seen: Counter[str] = field(default_factory=Counter)


class Queue(RuleBasedStateMachine):
    """Each rule does one step of one worker in the database and in the model, and compares the results.

    A rule that does not apply does nothing. Preconditions are not possible: a claim selects its job at random, so a repeated run
    may reach another state, but Hypothesis requires the same rules to be enabled.
    """

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.conn = database.conn
        self.hands = [Hand(conn) for conn in database.workers]
        self.jobs: dict[UUID, Job] = {}
        self.chunks: dict[int, Chunk] = {}
        self.claims = 0

    def run(self, steps: Coroutine[Any, Any, T]) -> T:
        return self.database.runner.run(steps)

    def saw(self, what: str) -> None:
        self.database.seen[what] += 1

    def live(self) -> list[UUID]:
        return [id for id, job in self.jobs.items() if job.end is None]

    def idle(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.claim is None]

    def holding(self, *, is_open: bool | None = None) -> list[tuple[Hand, Claim]]:
        """The workers with a claim, valid or not. `is_open`: only those with, or without, a transaction."""
        return [(hand, hand.claim) for hand in self.hands if hand.claim and is_open in (None, hand.is_open)]

    # ── the model ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def of(self, job: UUID, *states: str) -> list[Chunk]:
        return [chunk for chunk in self.chunks.values() if chunk.job == job and chunk.state in states]

    def is_stopped(self, job: UUID) -> bool:
        return self.jobs[job].is_cancelled or self.jobs[job].has_problem

    def valid(self, claim: Claim) -> list[Chunk]:
        """The chunks of a claim that it still holds."""
        chunks = [self.chunks[id] for id in claim.ids]
        return [chunk for chunk in chunks if chunk.state == "running" and chunk.lease == claim.lease]

    def is_valid(self, claim: Claim) -> bool:
        return len(self.valid(claim)) == len(claim.ids)

    def is_locked(self, id: int) -> bool:
        return any(hand.is_open and hand.claim and id in hand.claim.ids for hand in self.hands)

    def claimable(self) -> list[Chunk]:
        """The first chunk of each job that the next claim may select."""
        first: dict[UUID, Chunk] = {}
        for job, about in self.jobs.items():
            ready = [chunk for chunk in self.of(job, "pending") if chunk.rest == 0]
            if ready and about.end is None and not self.is_stopped(job):
                first[job] = min(ready, key=lambda chunk: chunk.seq)
        running = {job: len(self.of(job, "running")) for job in first}
        return [chunk for job, chunk in first.items() if running[job] == min(running.values())]

    def following(self, chunk: Chunk, chunks_max: int) -> list[Chunk]:
        """The chunks that are claimed together with this one: none of them was claimed before."""
        fresh = [other for other in self.of(chunk.job, "pending") if other.lease == 0 and other.seq > chunk.seq]
        return sorted(fresh, key=lambda other: other.seq)[: chunks_max - 1] if chunk.lease == 0 else []

    def orphans(self) -> list[Chunk]:
        """The chunks with the oldest abandoned claim. There is no order among chunks of one claim."""
        orphans = [chunk for id, chunk in self.chunks.items() if chunk.is_orphan and not self.is_locked(id)]
        first = min(((-chunk.age, chunk.claimed) for chunk in orphans), default=None)
        return [chunk for chunk in orphans if (-chunk.age, chunk.claimed) == first]

    def take(self, chunks: Sequence[Chunk]) -> None:
        self.claims += 1
        for chunk in chunks:
            chunk.lease += 1
            chunk.age, chunk.claimed = 0, self.claims

    # ── steps of a worker ─────────────────────────────────────────────────────────────────────────────────────────────

    @rule(place=places, chunks_max=st.sampled_from([1, 2, 3]))
    def claim(self, place: int, chunks_max: int) -> None:
        if not self.idle():
            return
        hand = pick(self.idle(), place)
        claimable = self.claimable()
        claim = self.run(queue.claim(hand.conn, worker="me", chunks_max=chunks_max, bytes_max=1 << 20))
        if claim is None:
            assert not claimable
            return
        chunks = [self.chunks[id] for id in claim.ids]
        assert chunks[0] in claimable
        assert chunks[1:] == self.following(chunks[0], chunks_max)
        self.take(chunks)
        for chunk in chunks:
            chunk.state = "running"
            chunk.attempt += 1
        self.saw("claim" if len(chunks) == 1 else "claim of several")
        hand.claim = claim

    @rule(place=places, steps=st.sampled_from([0, 1, 2, 4]))
    def reclaim(self, place: int, steps: int) -> None:
        if not self.idle():
            return
        hand = pick(self.idle(), place)
        self.time_passes(steps)
        orphans = self.orphans()
        claim = self.run(
            queue.reclaim(
                hand.conn,
                worker="me",
                grace_seconds=GRACE_SECONDS,
                attempts_max=ATTEMPTS_MAX,
                crashes_max=CRASHES_MAX,
            )
        )
        if claim is None:
            assert not orphans
            return
        orphan = self.chunks[claim.id]
        assert orphan in orphans
        self.take([orphan])
        orphan.crashes += 1
        if orphan.crashes == CRASHES_MAX or orphan.attempt == ATTEMPTS_MAX:
            orphan.state = "failed"
            self.saw("poison")
        else:
            orphan.attempt += 1
            self.saw("reclaim")
            hand.claim = claim
        assert claim.state == orphan.state

    @rule(place=places)
    def fence(self, place: int) -> None:
        """The chunk of a stopped job is dropped instead."""
        if not self.holding(is_open=False):
            return
        hand, claim = pick(self.holding(is_open=False), place)
        self.run(hand.begin())
        if not self.is_valid(claim):
            self.loses(hand, queue.fence(hand.conn, claim))
            return
        is_wanted = self.run(queue.fence(hand.conn, claim))
        assert is_wanted is not self.is_stopped(claim.job_id)
        if not is_wanted:
            self.run(queue.drop(hand.conn, claim))
            self.run(hand.commit())
            for chunk in self.valid(claim):
                chunk.state = "cancelled"
            self.saw("drop")
            hand.claim = None

    @rule(place=places, is_answered=st.booleans())
    def finish(self, place: int, is_answered: bool) -> None:
        """With or without a fence. A worker that lost the reply to its COMMIT gives the chunk back, which changes nothing."""
        if not self.holding():
            return
        hand, claim = pick(self.holding(), place)
        self.run(hand.begin())
        chunks = [self.chunks[id] for id in claim.ids]
        if not self.is_valid(claim):
            self.loses(hand, store_and_finish(hand.conn, claim, chunks))
            return
        self.run(store_and_finish(hand.conn, claim, chunks))
        self.run(hand.commit())
        for chunk in chunks:
            chunk.state = "done"
        self.saw("done")
        if not is_answered:
            self.give_back(self.holding().index((hand, claim)), None, 0)
        hand.claim = None

    @rule(place=places, error=st.sampled_from([None, "disk full"]), rest=st.sampled_from([0, REST_SECONDS]))
    def give_back(self, place: int, error: str | None, rest: int) -> None:
        if not self.holding():
            return
        hand, claim = pick(self.holding(), place)
        self.run(hand.roll_back())
        own = self.valid(claim)
        state = self.run(queue.give_back(hand.conn, claim, error=error, delay_seconds=rest, attempts_max=ATTEMPTS_MAX))
        hand.claim = None
        if not own:
            assert state is None
            self.saw("given back too late")
        for chunk in own:
            chunk.state = "failed" if error and chunk.attempt == ATTEMPTS_MAX else "pending"
            chunk.attempt -= 0 if error else 1
            chunk.rest = rest
            assert state == chunk.state
            self.saw("given back")

    @rule(place=places)
    def die(self, place: int) -> None:
        """The server terminates the session, and with it the transaction; another worker replaces this one."""
        if not self.holding():
            return
        hand, _ = pick(self.holding(), place)
        self.run(hand.roll_back())
        hand.claim = None

    def loses(self, hand: Hand, steps: Coroutine[Any, Any, object]) -> None:
        with pytest.raises(ClaimLost):
            self.run(steps)
        self.run(hand.roll_back())
        hand.claim = None
        self.saw("lost")

    # ── other steps ───────────────────────────────────────────────────────────────────────────────────────────────────

    @initialize(chunks=st.integers(2, 4))
    def first_job(self, chunks: int) -> None:
        """Two workers have claims from the start, because most faults need one."""
        self.run(self.conn.execute("DELETE FROM import_jobs"))
        self.run(self.conn.execute("DELETE FROM users"))
        self.new_job(chunks)
        self.claim(0, 1)
        self.claim(0, 2)

    @rule(chunks=st.integers(1, 3))
    def new_job(self, chunks: int) -> None:
        if len(self.live()) == JOBS_MAX:
            return
        id = self.run(factories.queued(self.conn, factories.users(chunks), sizes=[1] * chunks))
        self.jobs[id] = Job()
        for chunk_id, seq in self.run(
            factories.rows(self.conn, "SELECT id, seq FROM chunks WHERE job_id = %(id)s", id=id)
        ):
            self.chunks[chunk_id] = Chunk(id, seq)

    @rule(steps=st.sampled_from([1, 1, 2, 4, LONG]))
    def time_passes(self, steps: int) -> None:
        """For all chunks except fenced ones, whose rows are locked, and whose age is not used while they are."""
        seconds = steps * STEP_SECONDS
        self.run(
            self.conn.execute(
                """
                UPDATE chunks
                SET claimed_at = claimed_at - %(seconds)s * interval '1 second',
                    retry_at = retry_at - %(seconds)s * interval '1 second'
                WHERE id IN (SELECT id FROM chunks FOR NO KEY UPDATE SKIP LOCKED)
                """,
                {"seconds": seconds},
            )
        )
        for id, chunk in self.chunks.items():
            if not self.is_locked(id):
                chunk.age += seconds
                chunk.rest = max(0, chunk.rest - seconds)

    @rule(place=places)
    def cancel(self, place: int) -> None:
        if not self.live():
            return
        id = pick(self.live(), place)
        if not self.of(id, "running"):
            # so that most jobs end without being cancelled
            return
        self.run(self.conn.execute("UPDATE import_jobs SET cancel_requested_at = now() WHERE id = %(id)s", {"id": id}))
        self.jobs[id].is_cancelled = True

    @rule(place=places)
    def end(self, place: int) -> None:
        """A worker tries to finish the job after each chunk; it may do so too early, twice or never."""
        self.end_job(pick(list(self.jobs), place))

    @rule()
    def sweep(self) -> None:
        found = set(self.run(completion.unfinished(self.conn)))
        assert found == {
            id
            for id, job in self.jobs.items()
            if job.end is None and not self.of(id, "running") and (self.is_stopped(id) or not self.of(id, "pending"))
        }
        for id in found:
            self.end_job(id)

    def end_job(self, id: UUID) -> None:
        ends = self.run(completion.finish(self.conn, id))
        expected = self.expected_end(id)
        assert [end.status for end in ends] == ([expected] if expected else [])
        if expected:
            self.jobs[id].end = expected
            self.saw(f"job {expected}")

    def expected_end(self, id: UUID) -> str | None:
        """Applies the error budget and cancels pending chunks, as the database does; the status if the job becomes final."""
        job, pending, broken = self.jobs[id], self.of(id, "pending"), self.of(id, "failed")
        if job.end or self.of(id, "running") or (pending and not self.is_stopped(id)):
            return None
        job.has_problem = job.has_problem or bool(broken and not pending)
        for chunk in pending:
            chunk.state = "cancelled"
        if broken and not job.has_problem:
            # the next call applies the budget, since the pending chunks have become final only in this one
            return None
        return "cancelled" if job.is_cancelled else "failed" if job.has_problem else "completed"

    # ── invariants ────────────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def chunks_are_as_modelled(self) -> None:
        """State and all three counters of every chunk."""
        stored = self.run(factories.rows(self.conn, "SELECT id, state, lease, attempt, crashes FROM chunks"))
        assert {id: numbers for id, *numbers in stored} == {
            id: [chunk.state, chunk.lease, chunk.attempt, chunk.crashes] for id, chunk in self.chunks.items()
        }

    @invariant()
    def a_chunk_has_one_holder(self) -> None:
        """At most one worker has a valid claim to a chunk."""
        held = Counter((chunk.job, chunk.seq) for hand in self.hands if hand.claim for chunk in self.valid(hand.claim))
        assert not held or max(held.values()) == 1

    @invariant()
    def effects_are_those_of_done_chunks(self) -> None:
        """Each record of a done chunk is stored once, and no record of any other chunk."""
        stored = self.run(factories.rows(self.conn, "SELECT import_id, import_record FROM users"))
        assert sorted(stored) == sorted((c.job, c.seq) for c in self.chunks.values() if c.state == "done")

    @invariant()
    def counts_are_those_of_done_chunks(self) -> None:
        """Also where the counters of a chunk are in the row of another."""
        counted = self.run(factories.rows(self.conn, "SELECT job_id, sum(created) FROM chunks GROUP BY job_id"))
        assert dict(counted) == {job: len(self.of(job, "done")) for job in self.jobs}

    def teardown(self) -> None:
        """All workers die. A single new one then finishes every job, and the counters balance."""
        while self.holding():
            self.die(0)
        # each pass finishes one chunk; the last ones finish the jobs, also those that need a second call
        for _ in range(len(self.chunks) + 3):
            self.time_passes(LONG)
            self.reclaim(0, 0)
            if not self.holding():
                self.claim(0, 1)
            if self.holding():
                self.finish(0, is_answered=True)
            self.sweep()
        for id, job in self.jobs.items():
            assert job.end == self.run(factories.ended(self.conn, id)).status


def pick(several: Sequence[T], place: int) -> T:
    return several[place % len(several)]


async def store_and_finish(conn: Connection, claim: Claim, chunks: Sequence[Chunk]) -> None:
    """Processes the chunks of a claim, each of one record with the number of its chunk."""
    await conn.execute(
        """
        INSERT INTO users (id, email, name, role, active, import_id, import_record, import_action)
        SELECT gen_random_uuid(), seq || '@' || gen_random_uuid(), 'name', 'reader', true, %(job)s, seq, 'created'
        FROM unnest(%(seqs)s::int[]) AS seq
        """,
        {"job": claim.job_id, "seqs": [chunk.seq for chunk in chunks]},
    )
    await queue.finish(conn, claim, Counts(created=len(chunks)))


async def _connect(stack: AsyncExitStack, url: str) -> Connection:
    conn = await stack.enter_async_context(await AsyncConnection.connect(url, autocommit=True))
    # no statement here waits for a lock
    await conn.execute("SET lock_timeout = '10s'")
    # makes the random choice of claims the same in every run
    await conn.execute("SELECT setseed(0.5)")
    return conn


@pytest.mark.slow
def test_the_queue_is_as_its_model(database_url):
    """For any order of steps: a chunk has one valid lease, no chunk is done twice, every job becomes final."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        connections = [runner.run(_connect(stack, database_url)) for _ in range(WORKERS + 1)]
        database = Database(runner, connections[0], connections[1:])
        try:
            run_state_machine_as_test(
                # called for each run; the annotation asks for a class
                lambda: Queue(database),  # pyright: ignore[reportArgumentType]
                settings=settings(
                    max_examples=150, stateful_step_count=50, deadline=None, derandomize=True, database=None
                ),
            )
        finally:
            runner.run(stack.aclose())
    # an event that never occurred is not tested
    wanted = {"claim of several", "reclaim", "poison", "lost", "drop", "job failed", "job cancelled"}
    wanted |= {"given back", "given back too late"}
    assert wanted <= database.seen.keys(), database.seen
