"""Shutdown: in flight requests, draining behind a balancer, a second signal, a hang-up, the end of the supervisor."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.support import api_client
from tests.support.api_client import PATH, USERS_HEADER, post_one
from tests.support.balancer import balancer
from tests.support.eventually import PATIENCE_SECONDS, broken_off, eventually
from tests.support.exports import SEVERAL, STREAM, many_articles, resume, stall
from tests.support.service import Process, Service, backlog, running_service

# longer than any test lasts: what ends sooner was not waited for
LONG_SECONDS = 60


async def stopped(process: Process) -> int:
    """Its exit code."""
    await eventually(lambda: process.exit_code is not None)
    assert process.exit_code is not None
    return process.exit_code


def client_of(service: Service) -> httpx.AsyncClient:
    # nothing packed, so that each block is sent as it comes
    return httpx.AsyncClient(base_url=service.url, timeout=PATIENCE_SECONDS, headers={"Accept-Encoding": "identity"})


async def test_requests_in_flight_are_completed(service, conn):
    """`Prefer: wait` returns the job, events end, a running stream is completed, and the listener closes."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    started = await service(run=["api"], stop_seconds=LONG_SECONDS)
    async with client_of(started) as client:
        id = (await post_one(client)).json()["id"]
        waiting = asyncio.create_task(post_one(client, headers={"Prefer": "wait=30"}))
        await eventually(lambda: waiting_jobs(conn))
        async with (
            client.stream("GET", f"{PATH}/{id}/events") as events,
            client.stream("GET", STREAM.format("articles")) as export,
        ):
            blocks = export.aiter_bytes()
            first = await anext(blocks)
            started.api.send(signal.SIGTERM)
            # the end, and not a broken connection
            async for _ in events.aiter_lines():
                pass
            answer = await waiting
            assert (answer.status_code, answer.headers["connection"]) == (202, "close")
            await eventually(lambda: is_refused(started))
            await resume(conn)
            rest = b"".join([block async for block in blocks])
            assert (first + rest).count(b"\n") == SEVERAL
    assert await stopped(started.api) == 0
    assert_nothing_unusual(started.api)


async def is_refused(service: Service) -> bool:
    """Whether nothing listens any more. A connection that is accepted at the last moment is served, so ask again."""
    async with client_of(service) as client:
        try:
            await client.get("/live")
        except httpx.ConnectError:
            return True
    return False


async def test_draining(service):
    """For DRAIN_SECONDS the API is not ready, accepts and answers requests, and closes each connection behind its answer."""
    started = await service(run=["api"], drain_seconds=LONG_SECONDS)
    async with client_of(started) as client:
        before = await client.get("/live")
        started.api.send(signal.SIGTERM)

        async def is_draining() -> bool:
            ready = await client.get("/ready")
            return (ready.status_code, ready.json()["status"]) == (503, "draining")

        await eventually(is_draining)
        created = await post_one(client)
        assert (created.status_code, created.headers["connection"]) == (202, "close")
        assert (before.status_code, before.headers.get("connection")) == (200, None)
    started.api.send(signal.SIGTERM)
    assert await stopped(started.api) == -signal.SIGTERM


async def test_the_accept_backlog_is_served(service):
    """Connections that the kernel has accepted and the API has not are answered before the listener closes."""
    started = await service(run=["api"])
    os.kill(started.api.pid, signal.SIGSTOP)
    async with AsyncExitStack() as stack:
        requests = []
        for _ in range(20):
            client = await stack.enter_async_context(client_of(started))
            requests.append(asyncio.create_task(client.get("/live")))
        await eventually(lambda: backlog(started) == len(requests))
        started.api.send(signal.SIGTERM)
        os.kill(started.api.pid, signal.SIGCONT)
        answers = await asyncio.gather(*requests)
    assert {(answer.status_code, answer.headers["connection"]) for answer in answers} == {(200, "close")}
    assert await stopped(started.api) == 0


RESTARTS = 20


# a balancer that is kept from its probes for DRAIN_SECONDS sends requests to what has gone
@pytest.mark.timing
@pytest.mark.timeout(600)
async def test_rolling_restarts_without_a_failed_request(tmp_path, database_url):
    """Behind a balancer that follows `/ready`, APIs of one and of two processes replace each other and no request fails."""
    answered = []
    async with balancer() as front, AsyncExitStack() as stack:

        async def start(number: int) -> Service:
            folder = tmp_path / f"api-{number}"
            folder.mkdir()
            api = await stack.enter_async_context(
                running_service(
                    folder,
                    database_url,
                    run=["api"],
                    api_processes=1 + number % 2,
                    drain_seconds=3,
                    queue_jobs_max=1_000_000,
                )
            )
            front.backends[api.url] = False
            await eventually(lambda: api.url in front.ready)
            return api

        current = await start(0)
        # one that fails ends the test
        group = await stack.enter_async_context(asyncio.TaskGroup())
        clients = [
            group.create_task(keep_asking(front.url, answered, keep_alive=keep_alive, post=post))
            for keep_alive, post in ((True, True), (True, False), (False, True), (False, False))
        ]
        replaced: list[Service] = []
        for number in range(1, RESTARTS + 1):
            following = await start(number)
            current.api.send(signal.SIGTERM)
            replaced.append(current)
            current = following
        for service in replaced:
            assert await stopped(service.api) == 0
            assert_nothing_unusual(service.api)
        for client in clients:
            client.cancel()
    assert set(answered) == {200, 202}
    assert len(answered) > 10 * RESTARTS


async def keep_asking(url: str, answered: list[int], *, keep_alive: bool, post: bool) -> None:
    """Requests without a pause, until it is cancelled; raises on the first that fails."""
    limits = httpx.Limits(max_keepalive_connections=1 if keep_alive else 0)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE_SECONDS) as client:
        while True:
            answer = await (post_one(client) if post else client.get(PATH, params={"limit": 1}))
            answer.raise_for_status()
            answered.append(answer.status_code)


async def waiting_jobs(conn) -> bool:
    cursor = await conn.execute("SELECT count(*) FROM import_jobs WHERE status = 'pending'")
    return await cursor.fetchone() == (2,)


async def test_what_takes_longer_than_the_time_to_stop(service, conn):
    """A stream that does not end is broken off within STOP_SECONDS, without an error in the log."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    started = await service(run=["api"], stop_seconds=2)
    async with client_of(started) as client:
        with broken_off():
            async with client.stream("GET", STREAM.format("articles")) as export:
                blocks = export.aiter_raw()
                await anext(blocks)
                started.api.send(signal.SIGTERM)
                assert await stopped(started.api) == 0
                async for _ in blocks:
                    pass
    assert_nothing_unusual(started.api)


def assert_nothing_unusual(process: Process) -> None:
    assert "Traceback" not in process.output


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_the_api_at_once(service, conn, again):
    """A second signal ends the API immediately. An unfinished upload is swept, as after a crash."""
    started = await service(run=["api"], stop_seconds=LONG_SECONDS)
    async with api_client.connected(started) as api:
        posting = asyncio.create_task(api.post(trickle(), type="text/csv", params={"resource": "users"}))
        await eventually(lambda: api.value("SELECT count(*) FROM import_jobs WHERE status = 'uploading'"))
        started.api.send(signal.SIGTERM)
        await eventually(lambda: '"event": "stopping"' in started.api.output)
        started.api.send(again)
        assert await stopped(started.api) == -again
        # it still waits for something to send
        posting.cancel()


async def trickle() -> AsyncIterator[bytes]:
    yield USERS_HEADER
    await asyncio.Event().wait()


async def test_sighup_stops_the_service(service):
    """SIGHUP stops API and workers in good order."""
    started = await service(worker_pool_size=2)
    await eventually(lambda: len(started.workers.children()) == 2)
    for process in (started.api, started.workers):
        process.send(signal.SIGHUP)
    assert [await stopped(started.api), await stopped(started.workers)] == [0, 0]
    assert "worker pool stopped" in started.workers.output
    assert '"event": "stopped"' in started.api.output


@pytest.fixture
def supervisor() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


async def test_processes_stop_when_the_supervisor_ends(service, supervisor):
    """When the process SUPERVISOR_PID is killed, API and workers stop in good order."""
    started = await service(worker_pool_size=2, supervisor_pid=supervisor.pid)
    await eventually(lambda: len(started.workers.children()) == 2)
    supervisor.kill()
    supervisor.wait(PATIENCE_SECONDS)
    assert [await stopped(started.api), await stopped(started.workers)] == [0, 0]
    for process in (started.api, started.workers):
        assert "supervisor is gone, stopping" in process.output


async def test_workers_that_fail_are_replaced_less_and_less_often(service):
    """Workers that exit with an error at their start are replaced with growing delays."""
    started = await service(run=["workers"], worker_pool_size=1)
    await eventually(started.workers.children)
    # a worker needs the folder for its metrics
    shutil.rmtree(started.folder / "data" / "metrics")
    begun = time.monotonic()
    os.kill(started.workers.children()[0], signal.SIGKILL)
    await eventually(lambda: started.workers.output.count("worker died, replacing it") >= 5)
    # 0.2 after the kill, then 0.2, 0.4 and 0.8 s
    assert time.monotonic() - begun > 1.2
    started.workers.send(signal.SIGTERM)
    assert await stopped(started.workers) == 0
