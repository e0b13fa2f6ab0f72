"""What people with psql see: how far jobs are and why, who holds what, whether the queue is healthy."""

import re
from contextlib import asynccontextmanager
from typing import LiteralString
from uuid import UUID, uuid4

import pytest
from psycopg.rows import dict_row

import db.jobs
from db import queue
from db.connections import pool
from db.exports import claimed as claimed_export
from db.imports import completion
from db.settings import Settings
from tests.support import ROOT
from tests.support.eventually import eventually
from tests.support.exports import create
from tests.support.factories import claim, perform, queued, run, stored_user, user, users
from tests.support.workers import session_has_ended

README = ROOT / "db" / "README.md"
IMPORT = "SELECT * FROM import_progress WHERE id = %(id)s"
EXPORT = "SELECT * FROM export_progress WHERE id = %(id)s"


@asynccontextmanager
async def worker(database_url: str, name: str):
    """The session of a worker process of this name."""
    async with await pool.connect(Settings(database_url=database_url), name=f"bulk worker {name}") as conn:
        yield conn
        pid = conn.info.backend_pid
    async with await pool.connect(Settings(database_url=database_url), name="observer") as conn:
        # a server process takes a moment to end
        await eventually(lambda: session_has_ended(conn, pid))


async def row(conn, query: LiteralString, id: UUID | None = None) -> dict:
    """The one row of the answer, by the names of its columns."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(query, {"id": id})
    (found,) = await cursor.fetchall()
    return found


async def waiting_for(conn, id: UUID) -> str | None:
    return (await row(conn, IMPORT, id))["waiting_for"]


async def waits_for_its_turn(conn, id: UUID, reason: str) -> bool:
    """Whether `waiting_for` is this reason, in the view and for an import that is created now."""
    return await waiting_for(conn, id) == await db.jobs.waiting_for_turn(conn) == reason


async def give_back(conn, claimed, *, error: str | None, delay_seconds: float) -> None:
    await queue.give_back(conn, claimed, error=error, delay_seconds=delay_seconds, attempts_max=12)


async def test_why_an_import_is_not_finished(conn, database_url):
    """`waiting_for` names the one thing that an import waits for, from its seal to its end."""
    id = await queued(conn, users(4), sizes=[2, 2])
    assert await waits_for_its_turn(conn, id, "no worker is connected")
    async with worker(database_url, "host:1:1"):
        assert await waits_for_its_turn(conn, id, "it waits for its turn; 0 of 1 workers are busy")
        claimed = await claim(conn, worker="host:1:1")
        assert await waiting_for(conn, id) == "1 worker is processing it"
    assert await waiting_for(conn, id) == "the workers of its 1 running chunks are gone; others will take them over"
    await perform(conn, claimed)
    await give_back(conn, await claim(conn), error="DataError: no", delay_seconds=60)
    async with worker(database_url, "host:1:2"):
        why = await waiting_for(conn, id)
    assert why is not None
    assert re.fullmatch(r"its chunks were given back and rest until .*: DataError: no", why)
    await conn.execute("UPDATE chunks SET retry_at = NULL")
    await perform(conn, await claim(conn))
    assert await waiting_for(conn, id) == "nothing is left to do; its end is about to be written"
    await completion.finish(conn, id, endpoints=())
    assert await waiting_for(conn, id) is None


async def test_a_worker_with_several_chunks_counts_once(conn, database_url):
    """`waiting_for` counts workers, however many chunks each of them has."""
    first = await queued(conn, users(6), sizes=[2, 2, 2])
    async with worker(database_url, "host:1:1"), worker(database_url, "host:1:2"):
        for name in ("host:1:1", "host:1:1", "host:1:2"):
            await claim(conn, worker=name)
        assert await waiting_for(conn, first) == "2 workers are processing it"
        second = await queued(conn, users(1, first=100))
        assert await waits_for_its_turn(conn, second, "it waits for its turn; 2 of 2 workers are busy")


async def test_why_an_import_waits_or_was_stopped(conn):
    """An upload under way, an import that waits for another, one that is cancelled and one that failed say so."""
    uploading = uuid4()
    await conn.execute("INSERT INTO import_jobs (id) VALUES (%(id)s)", {"id": uploading})
    assert re.fullmatch(
        r"its file is being received; the last sign of life was \d+ s ago", await waiting_for(conn, uploading)
    )
    first = await queued(conn, [user(1), user(1)], sizes=[1, 1], max_errors=0)
    second = await queued(conn, users(1), after_id=first)
    assert await waiting_for(conn, second) == f"it waits for import {first}, which is pending"
    await run(conn, first)
    assert await waiting_for(conn, first) == "Too many records were refused: 1 records were refused; the maximum is 0"
    third = await queued(conn, users(1))
    claimed = await claim(conn)
    assert await db.jobs.cancel(conn, "import", third)
    assert await waiting_for(conn, third) == "it is being cancelled; 1 chunks that were begun are still worked on"
    await perform(conn, claimed)
    await completion.finish(conn, third, endpoints=())
    assert await waiting_for(conn, third) == "it was cancelled"


async def test_progress_of_an_import(conn):
    """Numbers of a running import are the sums of its chunks, those of a final one its own."""
    await stored_user(conn, 1)
    id = await queued(conn, users(4), sizes=[1, 3])
    await perform(conn, await claim(conn))
    half = await row(conn, IMPORT, id)
    assert (half["processed_records"], half["failed_records"], half["percent"]) == (1, 1, 25)
    assert (half["pending_chunks"], half["running_chunks"], half["done_chunks"]) == (1, 0, 1)
    assert half["records_per_second"] > 0
    assert half["time_left"].total_seconds() > 0
    await run(conn, id)
    whole = await row(conn, IMPORT, id)
    assert (whole["processed_records"], whole["failed_records"], whole["percent"]) == (4, 1, 100)
    assert (whole["outcome"], whole["time_left"], whole["pending_chunks"]) == ("partial", None, None)


async def test_which_worker_holds_what_since_when(conn, other, database_url):
    """A running chunk has its worker, whether that is connected, and the session that blocks it."""
    id = await queued(conn, users(2), sizes=[1, 1])
    async with worker(database_url, "host:1:1") as session:
        await claim(conn, worker="host:1:1")
        await claim(conn, worker="host:1:2")
        cursor = other.cursor(row_factory=dict_row)
        await cursor.execute("SELECT * FROM running_chunks ORDER BY seq")
        alive, dead = await cursor.fetchall()
        assert (alive["worker"], alive["has_session"], alive["pid"]) == ("host:1:1", True, session.info.backend_pid)
        assert (alive["job_id"], alive["resource"], alive["seq"], alive["blocked_by"]) == (id, "users", 1, [])
        assert 0 <= alive["held_for"].total_seconds() < 60
        assert (dead["worker"], dead["has_session"]) == ("host:1:2", False)


async def test_progress_of_an_export(conn, database_url):
    """The view shows the progress that the worker reports, and why an export does not begin."""
    id = await create(conn, "users")
    assert (await row(conn, EXPORT, id))["waiting_for"] == "no worker is connected"
    async with worker(database_url, "host:1:1"):
        assert (await row(conn, EXPORT, id))["waiting_for"] == "it waits for its turn; 1 workers are connected"
        claimed = await claim(conn, worker="host:1:1")
        await claimed_export.report_progress(conn, claimed, total_records=200, records=50)
        found = await row(conn, EXPORT, id)
        assert (found["waiting_for"], found["percent"], found["worker"]) == ("a worker writes it", 25, "host:1:1")
        assert found["time_left"].total_seconds() > 0
    gone = await row(conn, EXPORT, id)
    assert gone["waiting_for"] == "the worker that wrote it is gone; another will begin it again"


async def test_whether_the_queue_is_healthy(conn, other, database_url):
    """One row has the pending chunks and their age, abandoned chunks, and the age of the oldest transaction."""
    idle = await row(conn, "SELECT * FROM queue_health")
    assert (idle["workers"], idle["pending_chunks"], idle["oldest_pending_for"]) == (0, 0, None)
    await queued(conn, users(4), sizes=[1, 1, 1, 1])
    await conn.execute("UPDATE import_jobs SET sealed_at = sealed_at - interval '10 minutes'")
    async with worker(database_url, "host:1:1"), other.transaction():
        await claim(conn, worker="host:1:1")
        await claim(conn, worker="dead")
        await give_back(conn, await claim(conn), error="no", delay_seconds=60)
        await other.execute("SELECT FROM users")
        busy = await row(conn, "SELECT * FROM queue_health")
    counts = ("workers", "pending_chunks", "resting_chunks", "running_chunks", "abandoned_chunks", "live_imports")
    assert [busy[name] for name in counts] == [1, 2, 1, 2, 1, 1]
    assert 600 <= busy["oldest_pending_for"].total_seconds() < 660
    assert busy["oldest_transaction_for"].total_seconds() > 0


def documented() -> list[str]:
    """The queries that db/README.md gives to people."""
    return re.findall(r"^```sql\n(.+?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("query", documented())
async def test_documented_queries_answer(conn, query):
    """Every query of db/README.md can be pasted, and finds something where there is a live, a final and a refused record.

    There is also a webhook.
    """
    await run(conn, await queued(conn, [user(email="ada@example.org"), user(role="king")], file_name="users.ndjson"))
    await queued(conn, users(2, first=2), sizes=[1, 1])
    await claim(conn)
    await conn.execute(
        """
        INSERT INTO webhook_deliveries (import_id, endpoint, event)
        SELECT id, 'crm', 'import.completed'
        FROM import_jobs
        WHERE status = 'completed'
        """
    )
    assert await (await conn.execute(query)).fetchall()


def test_every_view_is_documented():
    """Each view is described in db/README.md."""
    migrations = "".join(path.read_text() for path in (ROOT / "db/migrations").glob("*.sql"))
    views = re.findall(r"CREATE VIEW (\w+)", migrations)
    assert {"import_progress", "webhook_health"} <= set(views)
    assert [view for view in views if view not in README.read_text()] == []
