"""The client's deadline for a reply, and sessions whose client has stopped."""

import psycopg
import pytest

from db.connections import liveness, pool
from db.connections.liveness import WatchdogConnection
from db.settings import Settings
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.factories import rows
from tests.support.fault_proxy import FaultProxy, fault_proxy


@pytest.fixture
async def proxy(database_url):
    async with fault_proxy(database_url) as proxy:
        yield proxy


async def connected(proxy: FaultProxy, deadline_seconds: float) -> WatchdogConnection:
    conn = await pool.connect(Settings(database_url=proxy.url), name="watched")
    assert isinstance(conn, WatchdogConnection)
    conn.deadline_seconds = deadline_seconds
    return conn


async def test_a_session_has_a_deadline(database_url):
    """The deadline is a little later than the time limit of a statement, so that a server that can reply has done so."""
    async with await pool.connect(Settings(database_url=database_url, statement_seconds=7), name="watched") as conn:
        assert isinstance(conn, WatchdogConnection)
        assert conn.deadline_seconds == 7 + liveness.REPLY_SECONDS
        assert await rows(conn, "SHOW statement_timeout") == [("7s",)]
        async with conn.transaction():
            liveness.allow_silence(conn, 100)
            async with conn.transaction():
                assert conn.deadline_seconds == 100 + liveness.REPLY_SECONDS
        assert conn.deadline_seconds == 7 + liveness.REPLY_SECONDS


async def test_a_reply_that_does_not_come_closes_the_connection(proxy):
    """On a half-open connection the statement fails as if the server had closed the connection."""
    async with await connected(proxy, 0.5) as conn:
        proxy.black_hole()
        with pytest.raises(psycopg.OperationalError):
            await conn.execute("SELECT 1")
        assert conn.broken


async def test_a_connection_has_its_deadline_from_the_start(proxy, monkeypatch):
    """A connection that becomes half-open before the session has its settings does not block a worker or a pool."""
    monkeypatch.setattr(pool, "REPLY_SECONDS", 0.1)
    async with await WatchdogConnection.connect(proxy.url, autocommit=True) as conn:
        proxy.black_hole()
        with pytest.raises(psycopg.OperationalError):
            await pool.configure(conn, statement_seconds=0.1)


async def test_a_check_has_a_shorter_deadline(proxy, monkeypatch):
    """A pool does not hand out a half-open connection, and detects it within the shorter deadline."""
    async with await connected(proxy, 600) as conn:
        await conn.check()
        monkeypatch.setattr(liveness, "CHECK_SECONDS", 0.2)
        proxy.black_hole()
        with pytest.raises(psycopg.OperationalError):
            await conn.check()


async def test_a_wait_for_notifications_has_no_deadline(proxy):
    """The wait lasts as long as its caller requests."""
    async with await connected(proxy, 0.1) as conn:
        assert [notify async for notify in conn.notifies(timeout=0.5)] == []
        conn.deadline_seconds = PATIENCE_SECONDS
        await conn.execute("SELECT 1")


async def test_a_copy_without_progress_is_ended(conn, database_url, monkeypatch):
    """Maintenance ends a COPY whose client has stopped, which no limit of the server does, and the chunk's row is unlocked."""
    monkeypatch.setattr(liveness, "WORKER_COPY_SECONDS", 0.2)
    async with (
        await pool.connect(Settings(database_url=database_url), name="bulk worker stopped") as stopped,
        await pool.connect(Settings(database_url=database_url), name="bulk worker idle") as idle,
    ):
        await stopped.execute("CREATE TEMPORARY TABLE t (v text)")
        with pytest.raises(psycopg.OperationalError):
            async with stopped.transaction():
                await stopped.execute("SELECT pg_advisory_xact_lock(1)")
                async with stopped.cursor().copy("COPY t FROM STDIN") as copy:
                    await copy.write("x\n")
                    await eventually(lambda: liveness.end_silent_copies(conn))
                    await conn.execute("SELECT pg_advisory_lock(1)")
        await idle.execute("SELECT 1")
