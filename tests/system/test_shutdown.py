"""Processes that are told to stop, once, twice, by a hang-up, or by the end of who looks after them."""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import httpx
import pytest
from psycopg.sql import SQL, Identifier

from tests.support import api_client
from tests.support.api_client import PATH, USERS_HEADER
from tests.support.factories import user
from tests.support.servers import Process, Service, eventually

# longer than any test lasts: what ends sooner was not waited for
LONG_SECONDS = 60
# enough that most of it has to wait for its client
ARTICLES = """
    WITH author AS (
        INSERT INTO users (email, name, role, active) VALUES ('author@example.com', 'An Author', 'author', true)
        RETURNING id
    )
    INSERT INTO articles (slug, title, body, author_id, status)
    SELECT format('article-%s', n), 'Title', repeat('x', 20000), author.id, 'draft'
    FROM author, generate_series(1, 3000) AS n
"""


async def stopped(process: Process, *, timeout: float = 10) -> int:  # noqa: ASYNC109  it fails, not cancels
    """Its exit code."""
    await eventually(lambda: process.exit_code is not None, timeout)
    assert process.exit_code is not None
    return process.exit_code


def client_of(service: Service) -> httpx.AsyncClient:
    # nothing packed: what is sent shall be large
    return httpx.AsyncClient(base_url=service.url, timeout=20, headers={"Accept-Encoding": "identity"})


async def job(client: httpx.AsyncClient, **options) -> httpx.Response:
    """An import that nobody works on."""
    return await client.post(PATH, json={"resource": "users", "records": [user(1)]}, **options)


async def test_what_the_api_has_begun(service, conn):
    """Who waits for a job gets it, events end, an export that is read to its end is whole, and new clients find nobody."""
    await conn.execute(ARTICLES)
    started = await service(run=["api"], stop_seconds=8)
    async with client_of(started) as client:
        id = (await job(client)).json()["id"]
        waiting = asyncio.create_task(job(client, headers={"Prefer": "wait=30"}))
        await eventually(lambda: waiting_jobs(conn))
        async with (
            client.stream("GET", f"{PATH}/{id}/events") as events,
            client.stream("GET", "/api/v1/exports/articles/stream?format=ndjson") as export,
        ):
            blocks = export.aiter_bytes()
            first = await anext(blocks)
            started.api.send(signal.SIGTERM)
            # the end, and not a broken connection
            async for _ in events.aiter_lines():
                pass
            answer = await waiting
            assert (answer.status_code, answer.headers["connection"]) == (202, "close")
            async with client_of(started) as another:

                async def is_refused() -> bool:
                    try:
                        await another.get("/live")
                    except httpx.ConnectError:
                        return True
                    return False

                assert await eventually(is_refused)
            rest = b"".join([block async for block in blocks])
            assert (first + rest).count(b"\n") == 3000
    assert await stopped(started.api) == 0
    assert_nothing_unusual(started.api)


async def waiting_jobs(conn) -> bool:
    cursor = await conn.execute("SELECT count(*) FROM import_jobs WHERE status = 'pending'")
    return await cursor.fetchone() == (2,)


async def test_what_cannot_be_ended_in_time(service, conn):
    """A client that does not take its export is left with a broken one, within STOP_SECONDS, and that is no error of ours."""
    await conn.execute(ARTICLES)
    started = await service(run=["api"], stop_seconds=2)
    async with client_of(started) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            async with client.stream("GET", "/api/v1/exports/articles/stream") as export:
                blocks = export.aiter_raw()
                await anext(blocks)
                started.api.send(signal.SIGTERM)
                assert await stopped(started.api, timeout=5) == 0
                async for _ in blocks:
                    pass
    assert_nothing_unusual(started.api)


def assert_nothing_unusual(process: Process) -> None:
    assert "Traceback" not in process.output


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_the_api_at_once(service, conn, again):
    """Whatever it has begun. What is left of an upload is swept, as after any crash."""
    started = await service(run=["api"], stop_seconds=LONG_SECONDS)
    async with api_client.connected(started) as api:
        posting = asyncio.create_task(api.post(trickle(), type="text/csv", params={"resource": "users"}))
        await eventually(lambda: api.value("SELECT count(*) FROM import_jobs WHERE status = 'uploading'"))
        started.api.send(signal.SIGTERM)
        await eventually(lambda: "Shutting down" in started.api.output)
        started.api.send(again)
        assert await stopped(started.api, timeout=5) == -again
        # it still waits for something to send
        posting.cancel()


async def trickle() -> AsyncIterator[bytes]:
    yield USERS_HEADER
    await asyncio.Event().wait()


async def test_a_hang_up_is_an_order_to_stop(service):
    """The terminal is gone: API and workers stop in good order."""
    started = await service(worker_pool_size=2)
    await eventually(lambda: len(started.workers.children()) == 2)
    for process in (started.api, started.workers):
        process.send(signal.SIGHUP)
    assert [await stopped(started.api), await stopped(started.workers)] == [0, 0]
    assert "worker pool stopped" in started.workers.output
    assert "Finished server process" in started.api.output


@pytest.fixture
def supervisor() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


async def test_who_has_lost_the_supervisor_stops(service, supervisor):
    """SUPERVISOR_PID names who would stop them: when that process is killed, and so cannot, they stop in good order."""
    started = await service(worker_pool_size=2, supervisor_pid=supervisor.pid)
    await eventually(lambda: len(started.workers.children()) == 2)
    supervisor.kill()
    supervisor.wait()
    assert [await stopped(started.api), await stopped(started.workers)] == [0, 0]
    for process in (started.api, started.workers):
        assert "supervisor is gone, stopping" in process.output


@pytest.fixture
async def powerless_url(conn, database_url):
    """For a role that may connect, and nothing else."""
    name = f"powerless_{uuid4().hex}"
    await conn.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(Identifier(name)))
    yield database_url.replace(database_url.partition("://")[2].partition("@")[0], f"{name}:secret")
    await conn.execute(SQL("DROP ROLE {}").format(Identifier(name)))


async def test_workers_that_fail_are_replaced_less_and_less_often(service, powerless_url):
    """A broken installation costs a few processes, and does not keep the machine busy with starting them."""
    started = await service(run=["workers"], worker_pool_size=1, database_url=powerless_url)
    begun = time.monotonic()
    await eventually(lambda: started.workers.output.count("worker died, replacing it") == 4, timeout=20)
    # 0.2, 0.4 and 0.8 s
    assert time.monotonic() - begun > 1.2
    started.workers.send(signal.SIGTERM)
    assert await stopped(started.workers) == 0
