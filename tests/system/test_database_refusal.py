"""PostgreSQL refuses connections or writes: the reason is logged, and the service continues when it accepts them again."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator

import httpx
import pytest

from db import migrate
from db.settings import Settings
from tests.support import postgres_outage
from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.eventually import eventually
from tests.support.factories import queued, rows, users
from tests.support.postgres import database_url
from tests.support.postgres_outage import Server, finished, is_ready, running
from tests.support.service import Process, Service
from workers import session, worker

UPLOAD = {
    "content": USERS_HEADER + user_row(1),
    "params": {"resource": "users"},
    "headers": {"Content-Type": "text/csv"},
}
LEAVE = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'app'"
# how the server is made to refuse, how it accepts again, and the reason in the log
REFUSALS = {
    "a wrong password": (
        ("ALTER ROLE app PASSWORD 'other'", LEAVE),
        ("ALTER ROLE app PASSWORD 'secret'",),
        "password authentication failed",
    ),
    "too many clients": (
        ("ALTER ROLE app CONNECTION LIMIT 0", LEAVE),
        ("ALTER ROLE app CONNECTION LIMIT -1",),
        "too many connections",
    ),
    "no such database": (
        ("ALTER DATABASE app ALLOW_CONNECTIONS false", LEAVE, "ALTER DATABASE app RENAME TO gone"),
        ("ALTER DATABASE gone RENAME TO app", "ALTER DATABASE app ALLOW_CONNECTIONS true"),
        "does not exist",
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_outage.server() as server:
        # not a superuser, because connection limits do not apply to superusers
        server.execute("CREATE ROLE app LOGIN PASSWORD 'secret'", "CREATE DATABASE app OWNER app")
        migrate.up(url(server))
        yield server


def url(server: Server) -> str:
    host = server.url.rpartition("@")[2]
    return database_url(f"postgresql://app:secret@{host}", "app")


async def is_reported(service: Service, client: httpx.AsyncClient, reason: str) -> None:
    """API and workers have logged the reason, in few lines, and the service is not ready."""

    async def is_unready() -> bool:
        return (await client.get("/ready")).status_code == 503

    await eventually(is_unready)
    assert (await client.get("/live")).status_code == 200
    for process in (service.api, service.workers):

        def says_why(process: Process = process) -> bool:
            return any(reason in str(line.get("error")) for line in process.log_lines())

        await eventually(says_why)
        assert len(process.logged("database is unreachable")) <= 8
        assert "Traceback" not in process.output
        assert "secret" not in process.output


async def is_refused(client: httpx.AsyncClient) -> bool:
    answer = await client.post(PATH, **UPLOAD)
    return (answer.status_code, answer.headers.get("retry-after")) == (503, "5")


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_server_that_refuses_connections(server, tmp_path, refusal):
    """The reason is logged. The service continues without a restart when connections are accepted again."""
    refuse, relent, reason = REFUSALS[refusal]
    async with running(tmp_path, url(server)) as (service, client):
        await eventually(lambda: is_ready(client))
        workers = service.workers.children()
        server.execute(*refuse)
        try:
            await is_reported(service, client, reason)
        finally:
            server.execute(*relent)
        await eventually(lambda: is_ready(client))
        assert service.workers.children() == workers


async def test_a_server_that_takes_no_writes(server, tmp_path):
    """On a read-only server reads are served, writes are 503 and close their session, and the service is not ready."""
    async with running(tmp_path, url(server)) as (service, client):
        await eventually(lambda: is_ready(client))
        workers = service.workers.children()
        server.execute("ALTER ROLE app SET default_transaction_read_only = on", LEAVE)
        try:
            await eventually(lambda: is_refused(client))
            await is_reported(service, client, "ReadOnlySqlTransaction")
            assert (await client.get(PATH)).status_code == 200
            answer = (await client.get("/ready")).json()
            assert answer["checks"]["database"] == {"status": "failed", "detail": "does not accept writes"}
        finally:
            server.execute("ALTER ROLE app RESET default_transaction_read_only")
        await eventually(lambda: is_ready(client))
        assert (await finished(client, await client.post(PATH, **UPLOAD)))["status"] == "completed"
        assert service.workers.children() == workers


async def test_a_server_that_is_starting(tmp_path):
    """A server that is starting refuses connections: the reason is logged, and the service waits."""
    async with await asyncio.start_server(_is_starting, "127.0.0.1", 0) as starting:
        port = starting.sockets[0].getsockname()[1]
        async with running(tmp_path, f"postgresql://app@127.0.0.1:{port}/app") as (service, client):
            assert await is_refused(client)
            await is_reported(service, client, "the database system is starting up")


async def _is_starting(reader: StreamReader, writer: StreamWriter) -> None:
    """PostgreSQL's protocol, as far as a server speaks it that is not up yet: no encryption, then an error."""
    while True:
        size = int.from_bytes(await reader.readexactly(4))
        message = await reader.readexactly(size - 4)
        if int.from_bytes(message[:4]) not in (80877103, 80877104):
            break
        writer.write(b"N")
    fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
    writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)
    writer.close()


async def test_an_unexpected_error_does_not_end_a_worker(conn, database_url, monkeypatch):
    """An error of a statement outside the work on a chunk, here of the claim: the worker reconnects and continues."""
    monkeypatch.setattr(session, "BACKOFF_SECONDS_MAX", 0.1)
    await conn.execute(
        """
        CREATE SEQUENCE claims;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM nextval('claims'); RAISE EXCEPTION 'refused'; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON chunks FOR EACH ROW WHEN (NEW.state = 'running') EXECUTE FUNCTION refuse()
        """
    )
    id = await queued(conn, users(1))
    stopping = asyncio.Event()
    working = asyncio.create_task(
        worker.Worker(Settings(database_url=database_url, poll_seconds=0.1), name="steady", stopping=stopping).run()
    )
    await eventually(lambda: rows(conn, "SELECT 1 FROM claims WHERE last_value >= 2"))
    await conn.execute("DROP TRIGGER refuse ON chunks")
    await eventually(lambda: rows(conn, "SELECT 1 FROM import_jobs WHERE id = %(id)s AND status = 'completed'", id=id))
    stopping.set()
    await working
