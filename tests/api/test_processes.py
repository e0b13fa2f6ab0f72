"""Several processes of the API, which share its listening socket."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api_client import PATH, post_one
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.service import Service, backlog
from tests.support.workers import is_running

# longer than any test lasts
LONG_SECONDS = 600


async def started(service, **settings) -> Service:
    """An API of two processes, both of which accept connections."""
    running = await service(run=["api"], api_processes=2, **settings)
    await eventually(lambda: len(running.api.logged("listening")) == 2)
    return running


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def clients(running: Service) -> AsyncIterator[dict[int, httpx.AsyncClient]]:
    """A client with an open connection to each process, by its pid: the others were frozen when it connected."""
    async with AsyncExitStack() as stack:
        connected = {}
        pids = running.api.children()
        for pid in pids:
            client = httpx.AsyncClient(
                base_url=running.url, timeout=PATIENCE_SECONDS, limits=httpx.Limits(max_connections=1)
            )
            connected[pid] = await stack.enter_async_context(client)
            with frozen([other for other in pids if other != pid]):
                assert (await client.get("/live")).status_code == 200
        yield connected


async def test_a_process_that_dies_is_replaced(service):
    """After kill -9 the connections of the other process and the port are not touched, and two processes serve again."""
    running = await started(service)
    async with clients(running) as connected:
        victim, survivor = connected
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: running.api.logged("API process died, replacing it"))
        assert (await connected[survivor].get("/live")).status_code == 200
    await eventually(lambda: len(running.api.logged("listening")) == 3)
    async with clients(running) as connected:
        assert len(connected) == 2
        assert survivor in connected
    [died] = running.api.logged("API process died, replacing it")
    assert died["exit_code"] == -signal.SIGKILL


async def test_a_scrape_has_the_numbers_of_all_processes(service, conn):
    """Whichever process answers it: requests are summed, and so are the connections of the pools."""
    running = await started(service)
    async with clients(running) as connected:
        for count, client in enumerate(connected.values(), 1):
            for _ in range(count):
                assert (await client.get(PATH)).status_code == 200
        for client in connected.values():
            await eventually(lambda client=client: has_all(client, conn))


async def has_all(client: httpx.AsyncClient, conn) -> bool:
    cursor = await conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'bulk api'"
    )
    [sessions] = await cursor.fetchone()
    samples = [
        sample
        for family in text_string_to_metric_families((await client.get("/metrics")).text)
        for sample in family.samples
    ]
    [requests] = [
        sample.value
        for sample in samples
        if sample.name == "http_requests_total" and (sample.labels["route"], sample.labels["method"]) == (PATH, "GET")
    ]
    [size] = [sample.value for sample in samples if sample.name == "db_pool_size"]
    return requests == 3 and size == sessions >= 2


async def test_all_processes_drain(service):
    """Each says so on its own connections, and new ones are accepted meanwhile. A second signal kills them."""
    running = await started(service, drain_seconds=LONG_SECONDS)
    async with clients(running) as connected:
        running.api.send(signal.SIGTERM)
        for client in connected.values():
            await eventually(lambda client=client: is_draining(client))
        async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_SECONDS) as late:
            assert (await post_one(late)).status_code == 202
        # another signal, because two of a kind may arrive as one
        running.api.send(signal.SIGINT)
        await eventually(lambda: running.api.exit_code == 0)
        assert not [pid for pid in connected if is_running(pid)]


async def is_draining(client: httpx.AsyncClient) -> bool:
    ready = await client.get("/ready")
    return (ready.status_code, ready.json()["status"]) == (503, "draining")


@pytest.mark.parametrize("to_all", [False, True], ids=["TERM to the parent", "INT to all"])
async def test_requests_in_flight_are_completed(service, conn, to_all):
    """As by one process. A terminal sends Ctrl-C to the parent and to its children, which get the parent's signal besides."""
    running = await started(service, stop_seconds=LONG_SECONDS)
    async with clients(running) as connected:
        waiting = [
            asyncio.create_task(post_one(client, headers={"Prefer": "wait=20"})) for client in connected.values()
        ]
        await eventually(lambda: jobs(conn, 2))
        if to_all:
            os.killpg(running.api.pid, signal.SIGINT)
        else:
            running.api.send(signal.SIGTERM)
        answers = await asyncio.gather(*waiting)
    assert [(answer.status_code, answer.headers["connection"]) for answer in answers] == [(202, "close")] * 2
    await eventually(lambda: running.api.exit_code == 0)
    assert "Traceback" not in running.api.output
    assert len(running.api.logged("stopped")) == 2


async def jobs(conn, count: int) -> bool:
    cursor = await conn.execute("SELECT count(*) FROM import_jobs WHERE status = 'pending'")
    return await cursor.fetchone() == (count,)


async def test_the_accept_backlog_is_served(service):
    """Connections that no process has accepted yet when the API is stopped are answered."""
    running = await started(service)
    async with AsyncExitStack() as stack:
        with frozen(running.api.children()):
            requests = []
            for _ in range(20):
                client = httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_SECONDS)
                requests.append(asyncio.create_task((await stack.enter_async_context(client)).get("/live")))
            await eventually(lambda: backlog(running) == len(requests))
            running.api.send(signal.SIGTERM)
            # the parent has passed it on: a process that continues before it would still keep connections alive
            await eventually(lambda: all(is_pending(pid, signal.SIGTERM) for pid in running.api.children()))
        answers = await asyncio.gather(*requests)
    assert {(answer.status_code, answer.headers["connection"]) for answer in answers} == {(200, "close")}
    await eventually(lambda: running.api.exit_code == 0)


def is_pending(pid: int, signum: signal.Signals) -> bool:
    """Whether the signal was sent to the process, which is frozen and has not handled it yet."""
    [pending] = re.findall(r"^ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(pending, 16) & 1 << signum - 1)


async def test_processes_end_with_their_parent(service):
    running = await started(service)
    children = running.api.children()
    running.api.send(signal.SIGKILL)
    await eventually(lambda: not [pid for pid in children if is_running(pid)])
    assert len(running.api.logged("supervisor is gone, stopping")) == 2
