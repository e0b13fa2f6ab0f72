"""The cost of the queue's statements with a million finished chunks in the table, and during an old open transaction.

The functions run unchanged; auto_explain logs the plan and the buffers of each statement that they send.
"""

from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import AsyncConnection, IsolationLevel

from db import health, migrate, queue
from db.connections import pool
from db.imports import backlog, completion, jobs, uploads
from db.queue import Claim, Counts
from tests.support import factories, postgres
from tests.support.eventually import eventually
from tests.support.history import add_finished, add_live
from tests.support.plans import Plan, Plans, enable_plans

DONE_JOBS = 1000
DONE_CHUNKS_A_JOB = 1000
LIVE_CHUNKS = 4000
LIVE_JOBS = 2000

# for statements on one chunk or a few
FEW_BUFFERS = 60
# chunks of one claim
CLAIM_CHUNKS = 8
# psycopg prepares a statement at its sixth execution, and the server may use a generic plan for it five executions later
ROUNDS = 12

pytestmark = pytest.mark.slow


def dearest(plans: list[Plan]) -> int:
    return max(plan.buffers for plan in plans)


# ── the database ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def history_url(server_url: str) -> Iterator[str]:
    """A migrated database with a million chunks of finished imports."""
    name = postgres.create_database(server_url)
    url = postgres.database_url(server_url, name)
    migrate.up(url)
    with psycopg.connect(url, autocommit=True) as conn:
        [(is_superuser,)] = conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        if is_superuser:
            _make_history(conn)
    yield url
    postgres.drop_database(server_url, name)


def _make_history(conn: psycopg.Connection) -> None:
    # so that no other process changes the planner's statistics during the test
    conn.execute("ALTER TABLE import_jobs SET (autovacuum_enabled = off)")
    conn.execute("ALTER TABLE chunks SET (autovacuum_enabled = off)")
    add_finished(conn, first=1, last=DONE_JOBS, chunks=DONE_CHUNKS_A_JOB)
    conn.execute("VACUUM ANALYZE import_jobs, chunks")


@pytest.fixture
async def history(history_url: str) -> AsyncIterator[pool.Connection]:
    """A connection that reports its plans."""
    async with reporting(history_url) as conn:
        yield conn
        # the next test begins with an idle queue
        await conn.execute("DELETE FROM import_jobs WHERE finished_at IS NULL")


@asynccontextmanager
async def reporting(url: str) -> AsyncIterator[pool.Connection]:
    async with await AsyncConnection.connect(url, autocommit=True) as conn:
        try:
            await enable_plans(conn)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFile) as error:
            pytest.skip(f"plans are logged by auto_explain, which only a superuser may load: {error}")
        await pool.configure(conn)
        yield conn


@asynccontextmanager
async def old_transaction(url: str) -> AsyncIterator[None]:
    """While it is open, vacuum cannot remove rows that died after its start."""
    async with await AsyncConnection.connect(url) as conn:
        await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await conn.execute("SELECT FROM chunks LIMIT 1")
        yield


async def live_job(conn: pool.Connection, *, chunks: int) -> UUID:
    """A sealed import of `chunks` chunks, with `after` a finished one."""
    id = uuid4()
    await conn.execute(
        """
        INSERT INTO import_jobs (
            id, status, resource, format, file_bytes, file_sha256, total_records, total_chunks, request_digest, sealed_at,
            after_id
        )
        SELECT %(id)s, 'pending', 'users', 'ndjson', 1, '', %(chunks)s, %(chunks)s, '', now(),
            (SELECT id FROM import_jobs WHERE finished_at IS NOT NULL LIMIT 1)
        """,
        {"id": id, "chunks": chunks},
    )
    await conn.execute(
        """
        INSERT INTO chunks (import_id, seq, first_record, records)
        SELECT %(id)s, seq, seq, 1
        FROM generate_series(1, %(chunks)s) AS seq
        """,
        {"id": id, "chunks": chunks},
    )
    return id


async def work_off(conn: pool.Connection, id: UUID, *, chunks: int) -> None:
    """Claims and finishes the first chunks of a job in two statements, which leaves as many dead entries as one by one."""
    for change in (
        "state = 'running', lease = lease + 1, worker = 'me', claimed_at = clock_timestamp()",
        "state = 'done', created = 1, finished_at = clock_timestamp()",
    ):
        await conn.execute(
            f"UPDATE chunks SET {change} WHERE job_id = %(id)s AND seq <= %(chunks)s",  # noqa: S608
            {"id": id, "chunks": chunks},
        )


def reclaim(conn: pool.Connection) -> Awaitable[Claim | None]:
    return queue.reclaim(conn, worker="heir", grace_seconds=5, attempts_max=12, crashes_max=4)


async def work_on(conn: pool.Connection, claim: Claim) -> None:
    """The steps of a worker that has a claim: give back and drop, both rolled back, then finish."""
    async with conn.transaction(force_rollback=True):
        await queue.give_back(conn, claim, error=None, delay_seconds=0, attempts_max=12)
    async with conn.transaction(force_rollback=True):
        await queue.drop(conn, claim)
    async with conn.transaction():
        await queue.fence(conn, claim)
        await queue.finish(conn, claim, Counts(created=1))


# ── the tests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_million_done_chunks_have_no_effect(history):
    """Every step of the queue reads a few pages, by indexes that contain only live chunks, also with generic plans."""
    plans = Plans(history)
    id = await live_job(history, chunks=LIVE_CHUNKS)
    found: list[Plan] = []
    for _ in range(ROUNDS):
        found += await plans.of(factories.claim(history, worker="dead", chunks_max=CLAIM_CHUNKS))
        found += await plans.of(reclaim(history))
        found += await plans.of(work_on(history, await factories.claim(history, chunks_max=CLAIM_CHUNKS)))
        found += await plans.of(completion.finish(history, id, endpoints=()))
        found += await plans.of(completion.unfinished(history))
        found += await plans.of(completion.stop_dependents(history))
        found += await plans.of(uploads.sweep(history, grace_seconds=60))
        found += await plans.of(backlog.measure(history))
    for plan in found:
        assert not plan.read_whole & {"chunks", "import_jobs"}, plan
        assert plan.indexes.isdisjoint({"chunks_job_id_seq_key", "chunks_import"}), plan
        assert plan.buffers <= FEW_BUFFERS + 20 * CLAIM_CHUNKS, plan


async def test_a_claim_does_not_read_all_live_jobs(database_url):
    """With two thousand live imports a claim reads the pages of a sample, also with a generic plan."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        add_live(conn, imports=LIVE_JOBS, chunks=2)
        conn.execute("VACUUM ANALYZE import_jobs, chunks")
    async with reporting(database_url) as conn:
        plans = Plans(conn)
        for _ in range(ROUNDS):
            [plan] = await plans.of(queue.claim(conn, worker="me"))
            assert "import_jobs_by_hash" in plan.indexes, plan
            assert not plan.read_whole & {"chunks", "import_jobs"}, plan
            assert plan.buffers <= 2 * FEW_BUFFERS, plan


async def test_the_numbers_of_the_queue_cost_what_is_live(history):
    """The cost of a scrape of the metrics grows with the pending chunks, not with those that are done."""
    plans = Plans(history)
    await live_job(history, chunks=LIVE_CHUNKS)
    for _ in range(ROUNDS):
        for plan in await plans.of(health.queue_numbers(history, endpoints=())):
            assert not plan.read_whole & {"chunks", "import_jobs"}, plan
            assert plan.buffers <= FEW_BUFFERS + LIVE_CHUNKS / 10, plan


async def test_reports_of_live_jobs_do_not_read_finished_ones(database_url):
    """Neither the metrics nor the view of live imports, also if the statistics are those of a queue with many pending chunks."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        add_finished(conn, first=1, last=DONE_JOBS, chunks=2)
        add_live(conn, imports=1, chunks=LIVE_CHUNKS)
        conn.execute("VACUUM ANALYZE import_jobs, chunks")
    view = "SELECT * FROM import_progress WHERE status IN ('uploading', 'pending', 'processing')"
    async with reporting(database_url) as conn:
        plans = Plans(conn)
        for _ in range(ROUNDS):
            for plan in [
                *await plans.of(health.queue_numbers(conn, endpoints=())),
                *await plans.of(conn.execute(view)),
            ]:
                assert "import_jobs" not in plan.read_whole, plan


async def test_the_counts_of_lists_read_an_index_only(history):
    """The numbers of jobs by status are read from an index, which is much smaller than the table."""
    plans = Plans(history)
    for wanted in (jobs.ImportFilter(), jobs.ImportFilter(resource="users", dry_run=False)):
        for _ in range(ROUNDS):
            [plan] = await plans.of(jobs.counts(history, wanted))
            assert (plan.read_whole, plan.indexes) == (frozenset(), {"import_jobs_by_status"}), plan


async def test_the_end_of_a_job_costs_its_own_chunks(history):
    """Finishing a job after its last chunk does not read chunks of other jobs."""
    plans = Plans(history)
    for _ in range(ROUNDS):
        id = await live_job(history, chunks=100)
        await work_off(history, id, chunks=99)
        await work_on(history, await factories.claim(history))
        found = await plans.of(completion.finish(history, id, endpoints=()))
        assert any(plan.query.lstrip().startswith("WITH done") for plan in found)
        for plan in found:
            assert not plan.read_whole & {"chunks", "import_jobs"}, plan
            # a page for each version of each of the 100 chunks, since the server may not have removed any yet
            assert plan.buffers <= FEW_BUFFERS + 1000, plan
        [(status,)] = await factories.rows(history, "SELECT status FROM import_jobs WHERE id = %(id)s", id=id)
        assert status == "completed"


async def test_an_old_transaction_slows_claims_only(history, history_url):
    """While it is open every finished chunk leaves an entry in both partial indexes, which claim and reclaim skip.

    They read up to a fifth of a page for each. Statements on one chunk, or that check for a pending one, read no more pages.
    """
    plans = Plans(history)
    id = await live_job(history, chunks=LIVE_CHUNKS + ROUNDS + 1)
    async with old_transaction(history_url):
        await work_off(history, id, chunks=LIVE_CHUNKS)
        for _ in range(ROUNDS):
            assert dearest(await plans.of(reclaim(history))) <= FEW_BUFFERS + LIVE_CHUNKS / 5
            claim = await factories.claim(history)
            assert dearest(await plans.of(work_on(history, claim))) <= FEW_BUFFERS
            assert dearest(await plans.of(completion.finish(history, id, endpoints=()))) <= FEW_BUFFERS
            assert dearest(await plans.of(completion.unfinished(history))) <= FEW_BUFFERS + LIVE_CHUNKS / 5
        claimed = await plans.of(queue.claim(history, worker="me"))
        assert dearest(claimed) <= FEW_BUFFERS + LIVE_CHUNKS / 5
        assert not claimed[0].read_whole & {"chunks", "import_jobs"}


async def test_a_claim_is_cheap_after_the_transaction_has_ended(history, history_url):
    """Scans mark the dead entries that they pass, so no vacuum is needed.

    Not always the first scan: while other transactions start and end, the horizon of dead rows is only approximate.
    """
    plans = Plans(history)
    id = await live_job(history, chunks=LIVE_CHUNKS + 2)
    async with old_transaction(history_url):
        await work_off(history, id, chunks=LIVE_CHUNKS)
        before = dearest(await plans.of(queue.claim(history, worker="me")))
    assert await queue.claim(history, worker="me") is not None

    async def is_cheap() -> bool:
        return dearest(await plans.of(reclaim(history))) < before / 4

    await eventually(is_cheap)
