"""When a connection gives a silent server up, and when it waits."""

import asyncio
import time

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from db.connections import liveness, pool
from db.settings import Settings
from tests.support.eventually import eventually
from tests.support.fault_proxy import FaultProxy, fault_proxy


@pytest.fixture
async def proxy(database_url):
    async with fault_proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
async def line(request, proxy, monkeypatch):
    """A connection through the proxy that doubts soon."""
    proxy.gives_numbers = getattr(request, "param", False)
    monkeypatch.setattr(liveness, "DOUBT_SECONDS", 0.2)
    monkeypatch.setattr(liveness, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(liveness, "ASK_SECONDS", 5)
    async with await pool.connect(Settings(database_url=proxy.url), name="doubtful") as conn:
        yield conn


async def test_a_server_that_is_at_work_is_waited_for(line, proxy, other):
    """Silence alone ends nothing: the server says that it is busy, or waits for a lock, as often as it is asked."""
    await line.execute("SELECT pg_sleep(1)")
    await other.execute("SELECT pg_advisory_lock(1)")
    async with asyncio.TaskGroup() as group:
        group.create_task(line.execute("SELECT pg_advisory_lock(1)"))
        await asked(proxy)
        await other.execute("SELECT pg_advisory_unlock(1)")


async def test_a_server_that_waits_for_us_is_given_up(line, proxy):
    """A line that is dead while the server can be reached: each would wait for the other for ever."""
    proxy.black_hole()
    proxy.heal()
    start = time.monotonic()
    with pytest.raises(psycopg.OperationalError):
        await line.execute("SELECT 1")
    assert time.monotonic() - start < 5
    assert line.broken


async def test_a_server_that_cannot_be_asked_is_given_up(line, proxy, monkeypatch):
    """When nobody answers on a second connection either, the first is not waited for."""
    monkeypatch.setattr(liveness, "ASK_SECONDS", 0.5)
    proxy.black_hole()
    start = time.monotonic()
    with pytest.raises(psycopg.OperationalError):
        await line.execute("SELECT 1")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("line", [True], indirect=True, ids=["renumbered"])
async def test_a_pooler_that_gives_numbers_of_its_own_is_believed(line, proxy, other):
    """A session that the server does not know by our number is not taken for gone."""
    assert line.info.backend_pid == 0x7FFFFFFF
    await other.execute("SELECT pg_advisory_lock(1)")
    async with asyncio.TaskGroup() as group:
        group.create_task(line.execute("SELECT pg_advisory_lock(1)"))
        await asked(proxy)
        await other.execute("SELECT pg_advisory_unlock(1)")


async def test_a_slow_line_is_not_a_dead_one(line, proxy):
    """What was sent and has not arrived yet keeps the server waiting for us, and us for it: that is no reason to give up."""
    await line.execute("CREATE TEMPORARY TABLE t (v text)")
    async with asyncio.TaskGroup() as group:
        begun = asyncio.Event()
        writing = group.create_task(write(line, megabytes=32, begun=begun))
        await begun.wait()
        proxy.stall()
        await asked(proxy)
        assert not writing.done()
        proxy.resume()
    cursor = await line.execute("SELECT sum(length(v)) FROM t")
    assert await cursor.fetchone() == (32 * 2**20,)


async def write(line, *, megabytes: int, begun: asyncio.Event) -> None:
    async with line.cursor().copy("COPY t FROM STDIN") as copy:
        begun.set()
        for _ in range(megabytes):
            # lets the test stall the line
            await asyncio.sleep(0)
            await copy.write("y" * 2**20 + "\n")


async def asked(proxy: FaultProxy) -> None:
    """Waits until the server has been asked about the line more often than it takes to give it up."""
    carried = proxy.carried
    await eventually(lambda: proxy.carried > carried + 2 * liveness.BAD_ANSWERS)


async def test_a_server_that_lets_nobody_in_is_there(line, proxy, other, server_url):
    """A server that refuses the second connection, as one that is full does, is not taken for one that has gone."""
    await other.execute("SELECT pg_advisory_lock(1)")
    [(name,)] = await (await other.execute("SELECT current_database()")).fetchall()
    async with await psycopg.AsyncConnection.connect(server_url, autocommit=True) as admin:
        await admin.execute(SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(Identifier(name)))
    async with asyncio.TaskGroup() as group:
        group.create_task(line.execute("SELECT pg_advisory_lock(1)"))
        await asked(proxy)
        await other.execute("SELECT pg_advisory_unlock(1)")


async def test_a_copy_that_waits_in_vain_is_ended(conn, database_url, monkeypatch):
    """No limit of the server's own ends a COPY whose client has stopped; the upkeep does, and the chunk's row is free."""
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
