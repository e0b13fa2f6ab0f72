"""PostgreSQL is replaced by its standby, or restarted, while chunks are running."""

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from db import migrate, queue
from tests.support import postgres
from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.factories import chunk, claim, queued, rows, users
from tests.support.postgres_outage import finished
from tests.support.service import running_service
from tests.support.standby import Server, replayed, started
from tests.support.workers import HELD, ended, install_hold, stuck

OPTIONS = postgres.FAST | {"autovacuum": "off"}


@pytest.fixture
def servers():
    """A primary and a standby, with the service's tables."""
    with started(OPTIONS) as (primary, standby):
        migrate.up(primary.url)
        yield primary, standby


async def connected(server: Server) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(server.url, autocommit=True)


async def promoted(standby: Server) -> psycopg.AsyncConnection:
    """A connection to the standby, which is the primary from now on."""
    conn = await connected(standby)
    await conn.execute("SELECT pg_promote()")
    return conn


async def flush(conn) -> None:
    """Writes the claims so far to disk: their commits did not wait for it, and this one does."""
    await conn.execute("CREATE TABLE flushed ()")


async def reclaimed(conn) -> queue.Claim | None:
    """A single counted crash makes a chunk fail."""
    return await queue.reclaim(conn, worker="successor", grace_seconds=0, attempts_max=12, crashes_max=1)


async def test_a_failover_is_not_a_crash(servers):
    """A chunk that was running on the old primary is reclaimed without a crash; the next one, on the new primary, counts."""
    primary, standby = servers
    async with await connected(primary) as conn, await connected(standby) as reader:
        id = await queued(conn, users(1))
        await claim(conn)
        await flush(conn)
        await replayed(conn, reader)
        await primary.crash()
    async with await promoted(standby) as conn:
        successor = await reclaimed(conn)
        assert successor is not None
        assert (successor.state, successor.is_crash, successor.crashes, successor.attempt) == ("running", False, 0, 2)
        successor = await reclaimed(conn)
        assert successor is not None
        assert (successor.state, successor.is_crash, successor.crashes) == ("failed", True, 1)
        assert (await chunk(conn, id))["last_error"] == "1 workers died over it"


async def test_a_restart_is_not_a_crash(servers):
    """A chunk that was running when PostgreSQL was restarted is reclaimed without a crash."""
    primary, _ = servers
    async with await connected(primary) as conn:
        await queued(conn, users(1))
        await claim(conn)
        await flush(conn)
        await primary.crash()
    primary.restart()
    async with await connected(primary) as conn:
        successor = await reclaimed(conn)
        assert successor is not None
        assert (successor.state, successor.is_crash, successor.crashes) == ("running", False, 0)


async def test_the_last_attempt_counts_also_after_a_restart(servers):
    """A chunk that is interrupted in its last attempt fails, whatever has interrupted it."""
    primary, _ = servers
    async with await connected(primary) as conn:
        id = await queued(conn, users(1))
        await claim(conn)
        await flush(conn)
        await primary.crash()
    primary.restart()
    async with await connected(primary) as conn:
        successor = await queue.reclaim(conn, worker="successor", grace_seconds=0, attempts_max=1, crashes_max=4)
        assert successor is not None
        assert (successor.state, successor.crashes) == ("failed", 0)
        assert (await chunk(conn, id))["last_error"] == "attempt 1 was interrupted, and was the last"


async def test_an_import_goes_on_on_the_promoted_standby(servers, tmp_path):
    """Workers and API find the new primary by the URL of both. Each record is stored once, and no chunk has crashed."""
    primary, standby = servers
    settings = {
        "worker_pool_size": 2,
        "batch_size": 10,
        "poll_seconds": 0.2,
        "crashes_max": 1,
        "claim_grace_seconds": 0.1,
    }
    data = USERS_HEADER + b"".join(user_row(n) for n in range(30)) + f"held@example.org,{HELD},reader,true\n".encode()
    async with (
        running_service(tmp_path, both(primary, standby), **settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=PATIENCE_SECONDS) as client,
    ):
        async with await connected(primary) as conn, await connected(standby) as reader:
            hold = await install_hold(conn, primary.url)
            async with hold(HELD):
                posted = await client.post(
                    PATH, params={"resource": "users"}, headers={"Content-Type": "text/csv"}, content=data
                )
                id = posted.json()["id"]
                await stuck(conn, id, 4)
                await flush(conn)
                await replayed(conn, reader)
                await primary.crash()
        async with await promoted(standby) as conn:
            job = await finished(client, posted)
            assert (job["status"], job["counts"]["created"]) == ("completed", 31)
            await ended(conn, id)
            assert await rows(conn, "SELECT DISTINCT crashes FROM chunks") == [(0,)]
        accepted = await client.post(
            PATH, params={"resource": "users"}, headers={"Content-Type": "text/csv"}, content=data
        )
        assert accepted.status_code == 202


def both(primary: Server, standby: Server) -> str:
    """The URL of whichever is the primary."""
    first, second = conninfo_to_dict(primary.url), conninfo_to_dict(standby.url)
    return (
        f"postgresql://{first['user']}:{first['password']}@{first['host']}:{first['port']},{second['host']}:{second['port']}"
        f"/{first['dbname']}?target_session_attrs=read-write"
    )
