"""Limits of exports: slow readers and many exports do not affect other requests and imports."""

from contextlib import AsyncExitStack

import httpx

from db import queue
from db.exports import completion, jobs
from db.settings import Settings
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.exports import EXPORTS, SEVERAL, STREAM, completed, create, many_articles, resume, stall

IMPORTS = "/api/v1/imports"
USER = b"email,name,role,active\nann@example.com,Ann,admin,true\n"


async def post_user(client, **options) -> httpx.Response:
    return await client.post(
        IMPORTS, params={"resource": "users"}, content=USER, headers={"Content-Type": "text/csv"}, **options
    )


def refused(response: httpx.Response, limit: str, maximum: int) -> None:
    problem = response.json()
    assert response.status_code == 429, problem
    assert (problem["type"], problem["limit"], problem["maximum"]) == ("/problems/too-many-requests", limit, maximum)
    assert limit in problem["detail"]
    assert int(response.headers["retry-after"]) >= 1


async def test_streams_leave_the_connections_of_the_api_alone(service, conn):
    """While all streams are in use, a further stream is refused immediately and other requests are served."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(run=["api"], api_pool_size=1, streams_max=3)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        async with AsyncExitStack() as readers:
            for _ in range(3):
                response = await readers.enter_async_context(client.stream("GET", STREAM.format("articles")))
                assert response.status_code == 200
            refused(await client.get(STREAM.format("users")), "streams_max", 3)
            for address in ("/live", IMPORTS, EXPORTS):
                assert (await client.get(address)).status_code == 200

            async def is_ready():
                return (await client.get("/ready")).status_code == 200

            await eventually(is_ready)
            assert (await post_user(client)).status_code == 202

        async def is_free():
            return (await client.get(STREAM.format("users"))).status_code == 200

        await eventually(is_free)


async def test_a_stream_that_fails_to_start_is_not_counted(service, conn):
    """A request that is answered with a problem does not count as a stream afterwards."""
    await conn.execute("ALTER TABLE comments RENAME COLUMN body TO text")
    url = (await service(run=["api"], streams_max=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get(STREAM.format("comments"))).status_code == 503
        assert (await client.get(STREAM.format("users"))).status_code == 200


async def test_a_full_queue_of_exports(service, conn):
    """Only jobs that are not final count. A refused job stores nothing, and its key can be used again."""
    url = (await service(run=["api"], export_jobs_max=2)).url
    order = {"resource": "users"}
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        first = await client.post(EXPORTS, json=order, headers={"Idempotency-Key": "first"})
        assert [first.status_code, (await client.post(EXPORTS, json=order)).status_code] == [202, 202]
        refused(await client.post(EXPORTS, json=order, headers={"Idempotency-Key": "third"}), "export_jobs_max", 2)
        replayed = await client.post(EXPORTS, json=order, headers={"Idempotency-Key": "first"})
        assert (replayed.status_code, replayed.json()["id"]) == (200, first.json()["id"])
        assert len((await client.get(EXPORTS)).json()["exports"]) == 2
        assert (await client.post(first.json()["links"]["cancel"])).json()["status"] == "cancelled"
        assert (await client.post(EXPORTS, json=order, headers={"Idempotency-Key": "third"})).status_code == 202


async def test_exports_leave_a_worker_to_imports(service, conn):
    """While exports occupy every worker that they may have, an import is finished, and no second export is begun."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(worker_pool_size=2)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        orders = [await client.post(EXPORTS, json={"resource": "articles"}) for _ in range(3)]

        async def running() -> int:
            cursor = await conn.execute("SELECT count(*) FROM chunks WHERE kind = 'export' AND state = 'running'")
            [count] = await cursor.fetchone() or (0,)
            return count

        await eventually(running)
        location = (await post_user(client)).headers["location"]

        async def import_status() -> bool:
            return (await client.get(location)).json()["status"] == "completed"

        await eventually(import_status)
        assert await running() == 1
        await resume(conn)
        for order in orders:
            await completed(client, order.headers["location"])


async def test_a_worker_without_exports_reclaims_none(conn):
    """Neither a new export nor one whose worker died is claimed by a worker that is reserved for imports."""
    id = await create(conn)
    assert await queue.claim(conn, worker="reserved", takes_exports=False) is None
    assert await queue.claim(conn, worker="first") is not None
    limits = {"grace_seconds": 0, "attempts_max": 12, "crashes_max": 4}
    assert await queue.reclaim(conn, worker="reserved", takes_exports=False, **limits) is None
    claim = await queue.reclaim(conn, worker="second", **limits)
    assert claim is not None
    assert claim.job_id == id
    assert await completion.unfinished(conn) == []
    assert await jobs.live(conn) == 1


def test_the_workers_that_exports_may_have():
    """Exports may have at least one worker, at most the number of the setting, and never all of several workers."""
    settings = [(1, None), (2, None), (10, None), (10, 3), (10, 10), (1, 5)]
    numbers = [Settings(worker_pool_size=size, export_workers_max=most).export_workers for size, most in settings]
    assert numbers == [1, 1, 9, 3, 9, 1]
