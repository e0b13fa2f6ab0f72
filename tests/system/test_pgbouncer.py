"""The whole service behind PgBouncer in transaction mode."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest
from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier

from tests.support import api_client, pgbouncer
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.factories import chunk, queued, user, users
from tests.support.postgres_outage import is_ready
from tests.support.service import running_service
from tests.support.workers import HELD, ended, ended_without_its_worker, stuck

pytestmark = pytest.mark.needs("pgbouncer")

IMPORTS = "/api/v1/imports"
EXPORTS = "/api/v1/exports"


@asynccontextmanager
async def service(through: pgbouncer.Bouncer, folder, database_url: str, **settings):
    """The service with all of its connections through the pooler."""
    given = {"database_pooler": "transaction", "worker_pool_size": 2, "poll_seconds": 0.2, **settings}
    async with running_service(folder, through.url(database_url), **given) as started:
        yield started


@pytest.fixture
async def through(server_url):
    with pgbouncer.prepared(server_url) as prepared:
        await prepared.start()
        yield prepared


async def test_imports_exports_and_streams_pass_through(through, tmp_path, database_url):
    """A file of many chunks, and small ones, are imported, streamed and exported in the background.

    No reason about missing workers is given.
    """
    file = USERS_HEADER + b"".join(map(user_row, range(2000)))
    async with (
        service(through, tmp_path, database_url, batch_size=50) as running,
        httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_SECONDS) as client,
        await AsyncConnection.connect(database_url, autocommit=True) as conn,
    ):
        api = api_client.Api(running, client, conn)
        job = await api.finished(await api.post(file, type="text/csv", params={"resource": "users"}))
        assert job["counts"]["created"] == 2000
        streamed = await client.get(f"{EXPORTS}/users/stream", params={"format": "ndjson"})
        assert len(streamed.content.splitlines()) == 2000
        ordered = await client.post(EXPORTS, json={"resource": "users", "format": "ndjson"})
        address = ordered.headers["location"]

        async def file_of_export() -> bytes | None:
            answer = await client.get(f"{address}/download")
            return answer.content if answer.status_code == 200 else None

        assert await eventually(file_of_export) == streamed.content
        smalls = [{"resource": "users", "records": [user(email=f"small{n}@example.com")]} for n in range(5)]
        posted = await asyncio.gather(*(client.post(IMPORTS, json=small) for small in smalls))
        assert [small.json()["waiting_for"] for small in posted] == [None] * 5
        assert [(await api.finished(small))["counts"]["created"] for small in posted] == [1] * 5
        await eventually(lambda: is_ready(client))


async def test_a_service_that_cannot_work_says_so(through, tmp_path, conn, database_url):
    """With another default isolation level, API and workers name the remedy; nothing is stored until it is applied."""
    database = SQL("ALTER DATABASE {} ").format(Identifier(conn.info.dbname))
    isolation = SQL("default_transaction_isolation")
    await conn.execute(database + SQL("SET ") + isolation + SQL(" = 'serializable'"))
    async with (
        service(through, tmp_path, database_url) as running,
        httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_SECONDS) as client,
    ):
        remedy = "SET default_transaction_isolation = 'read committed'"

        async def names_the_remedy() -> bool:
            return remedy in str((await client.get("/ready")).json()["checks"]["database"])

        await eventually(names_the_remedy)
        refused = await client.post(IMPORTS, files={"file": USERS_HEADER + user_row(1)}, data={"resource": "users"})
        assert (refused.status_code, "see /ready" in refused.text) == (503, True)
        await eventually(lambda: remedy in running.workers.output)
        await conn.execute(database + SQL("RESET ") + isolation)
        # PgBouncer's sessions keep the earlier default
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await eventually(lambda: is_ready(client))
        api = api_client.Api(running, client, conn)
        job = await api.finished(
            await api.post(USERS_HEADER + user_row(1), type="text/csv", params={"resource": "users"})
        )
        assert job["counts"]["created"] == 1


async def test_a_suspended_worker_behind_pgbouncer_loses_its_chunk(through, tmp_path, conn, database_url, hold):
    """The limits of each transaction end that of a worker that is silent, and another takes its chunk over."""
    async with service(through, tmp_path, database_url, run=["workers"]) as running:
        job = await ended_without_its_worker(conn, hold)
        assert (job.status, job.created) == ("completed", 1)
        assert (await chunk(conn, job.id))["crashes"] == 1
        await eventually(lambda: "database is reachable again" in running.workers.output)


async def test_a_restart_of_pgbouncer_has_no_effect(through, tmp_path, conn, database_url, hold):
    """After a kill of the pooler during a chunk, the workers reconnect when it is back, and every record is stored once."""
    async with service(through, tmp_path, database_url, run=["workers"]) as running:
        await eventually(lambda: len(running.workers.children()) == 2)
        workers = running.workers.children()
        async with hold(HELD):
            id = await queued(conn, [user(1, name=HELD), *users(39, first=2)], sizes=[4] * 10)
            await stuck(conn, id, 1)
            through.kill()
            await eventually(lambda: "database is unreachable" in running.workers.output)
            await through.start()
        job = await ended(conn, id)
        assert (job.status, job.created) == ("completed", 40)
        assert running.workers.children() == workers
