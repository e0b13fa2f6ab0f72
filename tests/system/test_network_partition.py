"""Half-open connections: both sides detect them, and the work continues."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from uuid import UUID

import httpx
import pytest

from db.queue import failpoints
from db.settings import Settings
from tests.support import factories
from tests.support.api_client import PATH
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.factories import chunk, queued, rows, users
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.service import running_service
from workers.worker import Worker

# the deadline for a reply is 5 s later; both ends are tested with real time limits
LIMITS = {"statement_seconds": 2}


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def at_point() -> Iterator[Callable]:
    """`at_point("mid_merge", act)`: the first worker of this process to reach the point does `act`."""

    def install(wanted: failpoints.Point, act: Callable[[], None]) -> None:
        async def fault(point: failpoints.Point, _: object) -> None:
            if point == wanted:
                failpoints.install(None)
                act()

        failpoints.install(fault)

    yield install
    failpoints.install(None)


@asynccontextmanager
async def working(url: str, name: str, **settings) -> AsyncIterator[Worker]:
    """A worker in this process, which has to stop within seconds at the end."""
    stopping = asyncio.Event()
    worker = Worker(
        Settings(database_url=url, **{"poll_seconds": 0.2, **LIMITS, **settings}), name=name, stopping=stopping
    )
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        stopping.set()
        # to notice a dead connection takes 7 s, and a new attempt to connect at most 5 s more
        await asyncio.wait_for(running, PATIENCE_SECONDS)


async def ended(conn, id: UUID):
    async def is_final() -> bool:
        [(is_final,)] = await rows(conn, "SELECT finished_at IS NOT NULL FROM import_jobs WHERE id = %(id)s", id=id)
        return is_final

    await eventually(is_final)
    return await factories.ended(conn, id)


async def session(conn, name: str) -> int | None:
    """The pid of the newest session of a worker."""
    found = await rows(
        conn,
        """
        SELECT pid
        FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = %(name)s
        ORDER BY backend_start DESC
        """,
        name=f"bulk worker {name}",
    )
    return found[0][0] if found else None


async def test_a_worker_that_loses_its_connection_during_a_chunk(conn, database_url, proxy, at_point):
    """The chunk is taken over within 15 s, no record is stored twice, and the worker continues when the network is back."""
    at_point("mid_merge", proxy.black_hole)
    id = await queued(conn, users(20), sizes=[5] * 4)
    async with working(proxy.url, "far", claim_chunks_max=1):
        await eventually(lambda: proxy.is_black_hole)
        async with working(database_url, "near"):
            await eventually(lambda: is_taken_over(conn, id))
            job = await ended(conn, id)
        assert (job.status, job.created) == ("completed", 20)
        assert [(await chunk(conn, id, seq))["crashes"] for seq in range(1, 5)] == [1, 0, 0, 0]
        await eventually(lambda: proxy.is_left)
        proxy.heal()
        assert (await ended(conn, await queued(conn, users(5, first=21)))).created == 5


async def is_taken_over(conn, id: UUID) -> bool:
    return (await chunk(conn, id, 1))["lease"] > 1


async def test_an_idle_worker_that_loses_its_connection(conn, proxy):
    """A worker that waits for notifications detects the half-open connection, and waits on a new one when the network is back."""
    async with working(proxy.url, "far") as worker:
        before = await eventually(lambda: session(conn, "far"))
        proxy.black_hole()
        await eventually(lambda: proxy.is_left)
        # from now on it is a notification that finds it, or nothing
        worker.settings = Settings(database_url=proxy.url, poll_seconds=600, **LIMITS)
        proxy.heal()
        await eventually(lambda: is_waiting(conn, "far", but=before))
        assert (await ended(conn, await queued(conn, users(5)))).created == 5


async def is_waiting(conn, name: str, *, but: int) -> bool:
    """Whether a worker has listened and looked, in another session than that, and is silent now."""
    pid = await session(conn, name)
    found = await rows(
        conn,
        """
        SELECT
        FROM pg_stat_activity
        WHERE pid = %(pid)s AND pid <> %(but)s AND state = 'idle' AND state_change < clock_timestamp() - interval '1 second'
        """,
        pid=pid,
        but=but,
    )
    return bool(found)


async def test_an_api_that_loses_its_connections(conn, proxy, tmp_path):
    """Requests are answered 503 within seconds, also those under way; and 200 again when the network is back."""
    async with (
        running_service(tmp_path, proxy.url, run=["api"], **LIMITS) as service,
        httpx.AsyncClient(base_url=service.url, timeout=PATIENCE_SECONDS) as client,
    ):
        assert (await client.get(PATH)).status_code == 200
        async with conn.transaction():
            await conn.execute("LOCK TABLE import_jobs")
            under_way = asyncio.create_task(client.get(PATH))
            await eventually(lambda: is_waited_for(conn))
            proxy.black_hole()
        answers = await asyncio.gather(under_way, *(client.get(PATH) for _ in range(5)))
        assert [answer.status_code for answer in answers] == [503] * 6
        assert (await client.get("/live")).status_code == 200
        assert (await client.get("/ready")).status_code == 503
        proxy.heal()
        await eventually(lambda: is_answered(client))


async def is_waited_for(conn) -> bool:
    """Whether a session waits for a lock of this test."""
    return bool(await rows(conn, "SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"))


async def is_answered(client: httpx.AsyncClient) -> bool:
    return (await client.get(PATH)).status_code == 200
