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
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from psycopg import AsyncConnection

from db import queue
from db.connections.pool import Connection
from db.imports import completion
from db.queue import Claim, ClaimLost, Counts
from tests.support import factories
from tests.support.queue_model import (
    ATTEMPTS_MAX,
    CRASHES_MAX,
    DELAY_SECONDS,
    GRACE_SECONDS,
    JOBS_MAX,
    LONG,
    STEP_SECONDS,
    WORKERS,
    Chunk,
    Job,
    Model,
    Worker,
)

T = TypeVar("T")

# an index that selects one of the workers that can do a step, or one of the jobs
places = st.integers(0, max(WORKERS, JOBS_MAX) - 1)


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
        self.model = Model([Worker(conn) for conn in database.workers])

    def run(self, steps: Coroutine[Any, Any, T]) -> T:
        return self.database.runner.run(steps)

    def saw(self, what: str) -> None:
        self.database.seen[what] += 1

    # ── steps of a worker ─────────────────────────────────────────────────────────────────────────────────────────────

    @rule(place=places, chunks_max=st.sampled_from([1, 2, 3]))
    def claim(self, place: int, chunks_max: int) -> None:
        if not self.model.idle():
            return
        worker = pick(self.model.idle(), place)
        claimable = self.model.claimable()
        claim = self.run(queue.claim(worker.conn, worker="me", chunks_max=chunks_max, bytes_max=1 << 20))
        if claim is None:
            assert not claimable
            return
        chunks = [self.model.chunks[id] for id in claim.ids]
        assert chunks[0] in claimable
        assert chunks[1:] == self.model.following(chunks[0], chunks_max)
        self.model.take(chunks)
        for chunk in chunks:
            chunk.state = "running"
            chunk.attempt += 1
        self.saw("claim" if len(chunks) == 1 else "claim of several")
        worker.claim = claim

    @rule(place=places, steps=st.sampled_from([0, 1, 2, 4]))
    def reclaim(self, place: int, steps: int) -> None:
        if not self.model.idle():
            return
        worker = pick(self.model.idle(), place)
        self.time_passes(steps)
        orphans = self.model.orphans()
        claim = self.run(
            queue.reclaim(
                worker.conn,
                worker="me",
                grace_seconds=GRACE_SECONDS,
                attempts_max=ATTEMPTS_MAX,
                crashes_max=CRASHES_MAX,
            )
        )
        if claim is None:
            assert not orphans
            return
        orphan = self.model.chunks[claim.id]
        assert orphan in orphans
        self.model.take([orphan])
        orphan.crashes += 1
        if orphan.crashes == CRASHES_MAX or orphan.attempt == ATTEMPTS_MAX:
            orphan.state = "failed"
            self.saw("poison")
        else:
            orphan.attempt += 1
            self.saw("reclaim")
            worker.claim = claim
        assert claim.state == orphan.state

    @rule(place=places)
    def fence(self, place: int) -> None:
        """The chunk of a stopped job is dropped instead."""
        if not self.model.holding(is_open=False):
            return
        worker, claim = pick(self.model.holding(is_open=False), place)
        self.run(worker.begin())
        if not self.model.is_valid(claim):
            self.loses(worker, queue.fence(worker.conn, claim))
            return
        is_wanted = self.run(queue.fence(worker.conn, claim))
        assert is_wanted is not self.model.is_stopped(claim.job_id)
        if not is_wanted:
            self.run(queue.drop(worker.conn, claim))
            self.run(worker.commit())
            for chunk in self.model.valid(claim):
                chunk.state = "cancelled"
            self.saw("drop")
            worker.claim = None

    @rule(place=places, is_answered=st.booleans())
    def finish(self, place: int, is_answered: bool) -> None:
        """With or without a fence. A worker that lost the reply to its COMMIT gives the chunk back, which changes nothing."""
        if not self.model.holding():
            return
        worker, claim = pick(self.model.holding(), place)
        self.run(worker.begin())
        chunks = [self.model.chunks[id] for id in claim.ids]
        if not self.model.is_valid(claim):
            self.loses(worker, store_and_finish(worker.conn, claim, chunks))
            return
        self.run(store_and_finish(worker.conn, claim, chunks))
        self.run(worker.commit())
        for chunk in chunks:
            chunk.state = "done"
        self.saw("done")
        if not is_answered:
            self.give_back(self.model.holding().index((worker, claim)), None, 0)
        worker.claim = None

    @rule(place=places, error=st.sampled_from([None, "disk full"]), delay=st.sampled_from([0, DELAY_SECONDS]))
    def give_back(self, place: int, error: str | None, delay: int) -> None:
        if not self.model.holding():
            return
        worker, claim = pick(self.model.holding(), place)
        self.run(worker.roll_back())
        own = self.model.valid(claim)
        state = self.run(
            queue.give_back(worker.conn, claim, error=error, delay_seconds=delay, attempts_max=ATTEMPTS_MAX)
        )
        worker.claim = None
        if not own:
            assert state is None
            self.saw("given back too late")
        for chunk in own:
            chunk.state = "failed" if error and chunk.attempt == ATTEMPTS_MAX else "pending"
            chunk.attempt -= 0 if error else 1
            chunk.delay = delay
            assert state == chunk.state
            self.saw("given back")

    @rule(place=places)
    def die(self, place: int) -> None:
        """The server terminates the session, and with it the transaction; another worker replaces this one."""
        if not self.model.holding():
            return
        worker, _ = pick(self.model.holding(), place)
        self.run(worker.roll_back())
        worker.claim = None

    def loses(self, worker: Worker, steps: Coroutine[Any, Any, object]) -> None:
        with pytest.raises(ClaimLost):
            self.run(steps)
        self.run(worker.roll_back())
        worker.claim = None
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
        if len(self.model.live()) == JOBS_MAX:
            return
        id = self.run(factories.queued(self.conn, factories.users(chunks), sizes=[1] * chunks))
        self.model.jobs[id] = Job()
        for chunk_id, seq in self.run(
            factories.rows(self.conn, "SELECT id, seq FROM chunks WHERE job_id = %(id)s", id=id)
        ):
            self.model.chunks[chunk_id] = Chunk(id, seq)

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
        for id, chunk in self.model.chunks.items():
            if not self.model.is_locked(id):
                chunk.age += seconds
                chunk.delay = max(0, chunk.delay - seconds)

    @rule(place=places)
    def cancel(self, place: int) -> None:
        if not self.model.live():
            return
        id = pick(self.model.live(), place)
        if not self.model.of(id, "running"):
            # so that most jobs end without being cancelled
            return
        self.run(self.conn.execute("UPDATE import_jobs SET cancel_requested_at = now() WHERE id = %(id)s", {"id": id}))
        self.model.jobs[id].is_cancelled = True

    @rule(place=places)
    def end(self, place: int) -> None:
        """A worker tries to finish the job after each chunk; it may do so too early, twice or never."""
        self.end_job(pick(list(self.model.jobs), place))

    @rule()
    def sweep(self) -> None:
        found = set(self.run(completion.unfinished(self.conn)))
        assert found == {
            id
            for id, job in self.model.jobs.items()
            if job.end is None
            and not self.model.of(id, "running")
            and (self.model.is_stopped(id) or not self.model.of(id, "pending"))
        }
        for id in found:
            self.end_job(id)

    def end_job(self, id: UUID) -> None:
        ends = self.run(completion.finish(self.conn, id, endpoints=()))
        expected = self.model.expected_end(id)
        assert [end.status for end in ends] == ([expected] if expected else [])
        if expected:
            self.model.jobs[id].end = expected
            self.saw(f"job {expected}")

    # ── invariants ────────────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def chunks_are_as_modelled(self) -> None:
        """State and all three counters of every chunk."""
        stored = self.run(factories.rows(self.conn, "SELECT id, state, lease, attempt, crashes FROM chunks"))
        assert {id: numbers for id, *numbers in stored} == {
            id: [chunk.state, chunk.lease, chunk.attempt, chunk.crashes] for id, chunk in self.model.chunks.items()
        }

    @invariant()
    def a_chunk_has_one_holder(self) -> None:
        """At most one worker has a valid claim to a chunk."""
        held = Counter(
            (chunk.job, chunk.seq)
            for worker in self.model.workers
            if worker.claim
            for chunk in self.model.valid(worker.claim)
        )
        assert not held or max(held.values()) == 1

    @invariant()
    def effects_are_those_of_done_chunks(self) -> None:
        """Each record of a done chunk is stored once, and no record of any other chunk."""
        stored = self.run(factories.rows(self.conn, "SELECT import_id, import_record FROM users"))
        assert sorted(stored) == sorted((c.job, c.seq) for c in self.model.chunks.values() if c.state == "done")

    @invariant()
    def counts_are_those_of_done_chunks(self) -> None:
        """Also where the counters of a chunk are in the row of another."""
        counted = self.run(factories.rows(self.conn, "SELECT job_id, sum(created) FROM chunks GROUP BY job_id"))
        assert dict(counted) == {job: len(self.model.of(job, "done")) for job in self.model.jobs}

    def teardown(self) -> None:
        """All workers die. A single new one then finishes every job, and the counters balance."""
        while self.model.holding():
            self.die(0)
        # each pass finishes one chunk; the last ones finish the jobs, also those that need a second call
        for _ in range(len(self.model.chunks) + 3):
            self.time_passes(LONG)
            self.reclaim(0, 0)
            if not self.model.holding():
                self.claim(0, 1)
            if self.model.holding():
                self.finish(0, is_answered=True)
            self.sweep()
        for id, job in self.model.jobs.items():
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
