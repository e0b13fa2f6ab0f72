"""The result for duplicates in a file (table, counters, errors) is defined by the file, whatever the order of its chunks."""

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from db.connections import pool
from db.imports import completion
from db.merge import copying
from db.settings import Settings
from tests.support import factories
from tests.support.duplicates import EXAMPLES, IDS, Case, answer, prepare, random_case
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.factories import blocked, chunk, claim, errors, perform, queued, rows, run, user
from workers.worker import Worker

# see tests/README.md
THROUGH_PGBOUNCER = True
SEEDS = range(max(8, EXAMPLES // 10))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """So that the few records of a case are copied in several batches."""
    monkeypatch.setattr(copying, "BATCH_RECORDS", 2)


@pytest.mark.slow
def test_the_order_of_chunks_has_no_effect(database_url):
    """For random files, tables, chunks and orders the result is that of the definition, and a dry run gives the same counts."""
    with asyncio.Runner() as runner:

        async def connect() -> pool.Connection:
            conn = await AsyncConnection.connect(database_url, autocommit=True)
            await pool.configure(conn)
            return conn

        conn = runner.run(connect())

        async def check(case: Case) -> None:
            id = await prepare(conn, case)
            await run(conn, id, order=case.order, chunks_max=case.chunks_max)
            assert await answer(conn, id) == case.answer

        @settings(max_examples=EXAMPLES, deadline=None, database=None)
        # choices that Hypothesis makes one by one are too often the same
        @given(st.randoms(use_true_random=True).map(random_case))
        def holds(case: Case) -> None:
            runner.run(check(case))

        holds()
        runner.run(conn.close())


async def test_two_open_transactions_give_the_defined_result(conn, other):
    """Each chunk runs while another one is done but not committed; that one is committed when the chunk waits for it or ends."""
    waits = 0
    for seed in SEEDS:
        case = random_case(Random(seed))
        id = await prepare(conn, case)
        claims = [await claim(conn) for _ in case.sizes]
        free, holder = conn, other
        async with asyncio.timeout(PATIENCE_SECONDS):
            await holder.execute("BEGIN")
            for place in case.order:
                await free.execute("BEGIN")
                work = asyncio.create_task(perform(free, claims[place]))
                await eventually(lambda work=work, by=holder: is_done_or_blocked(work, by))
                waits += not work.done()
                await holder.execute("COMMIT")
                await work
                free, holder = holder, free
            await holder.execute("COMMIT")
        await completion.finish(conn, id, endpoints=())
        while settle := await factories.queue.claim(conn, worker="me"):
            await perform(conn, settle)
            await completion.finish(conn, id, endpoints=())
        assert await answer(conn, id) == case.answer, f"seed {seed}"
    assert waits


async def is_done_or_blocked(work: asyncio.Task, by: pool.Connection) -> bool:
    return bool(await factories.those_blocked(by)) or work.done()


async def test_two_workers_give_the_defined_result(conn, other):
    """Two concurrent workers, which retry after conflicts, give the result of the definition."""
    workers = [worker("one"), worker("two")]
    for seed in SEEDS:
        case = random_case(Random(1000 + seed))
        id = await prepare(conn, case)
        await asyncio.gather(drain(workers[0], conn), drain(workers[1], other))
        await drain(workers[0], conn)
        assert await answer(conn, id) == case.answer, f"seed {1000 + seed}"


def worker(name: str) -> Worker:
    # with few workers each claims several chunks
    return Worker(Settings(worker_pool_size=2), name=name, stopping=asyncio.Event())


async def drain(of: Worker, conn) -> None:
    while await of.run_once(conn):
        pass


async def test_a_deadlock_is_retried_in_place(conn, other, third):
    """If two chunks deadlock, one is rolled back and repeated immediately, without counting an attempt."""
    await third.execute(
        """
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock_shared(1);
            RETURN NEW;
        END $$
        """
    )
    await third.execute(
        """
        CREATE TRIGGER wait BEFORE INSERT ON users
        FOR EACH ROW WHEN (NEW.name = 'second') EXECUTE FUNCTION wait()
        """
    )
    x, y = map(str, IDS[:2])
    records = [user(1, id=x), user(4, id=y, name="second"), user(2, id=y), user(3, id=x, name="second")]
    id = await queued(conn, records, sizes=[2, 2])
    await third.execute("SELECT pg_advisory_lock(1)")
    workers = [asyncio.create_task(worker(str(n)).run_once(on)) for n, on in enumerate([conn, other])]
    await blocked(conn, by=third)
    await blocked(other, by=third)
    await third.execute("SELECT pg_advisory_unlock(1)")
    await asyncio.gather(*workers)
    assert await eventually(lambda: rows(third, DEADLOCKS))
    await run(conn, id)
    assert [(await chunk(conn, id, seq))["attempt"] for seq in (1, 2)] == [1, 1]
    assert await errors(conn, id) == [(3, "id", "duplicate_in_file"), (4, "id", "duplicate_in_file")]


# backends report their statistics when they are idle, after a delay
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database() AND deadlocks > 0"
