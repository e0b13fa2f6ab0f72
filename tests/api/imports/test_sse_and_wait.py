"""Following an import: server-sent events, and answers that wait for the end."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from db import queue
from db.connections import pool
from db.imports import completion
from db.settings import Settings
from tests.support import api_client
from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.eventually import eventually
from tests.support.factories import perform
from tests.support.sse import Events

USERS = USERS_HEADER + b"".join(user_row(n) for n in range(4)) + b"?,Name,reader,true\n"
UNKNOWN_ID = "0192f0c1-0000-7000-8000-000000000000"

# without workers: an import proceeds only when the test processes it
SERVICE = {"run": ["api"], "batch_size": 1}


@pytest.fixture
async def worker(shared):
    """A connection to work with."""
    settings = Settings(database_url=shared.environment["DATABASE_URL"])
    async with await pool.connect(settings, name="test worker") as conn:
        yield conn


async def post(api, **headers: str) -> httpx.Response:
    return await api.post(USERS, type="text/csv", params={"resource": "users"}, headers=headers)


async def work(conn, chunks: int) -> None:
    """Works on so many chunks, as a worker does."""
    for _ in range(chunks):
        claim = await queue.claim(conn, worker="test")
        assert claim is not None
        await perform(conn, claim)
        await completion.finish(conn, claim.job_id, endpoints=())


@asynccontextmanager
async def events(api, id: str, **headers: str):
    async with api.client.stream("GET", f"{PATH}/{id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        yield Events(response)


async def test_progress_then_done(api, worker):
    """The stream sends the state at once, then each change, then the final job with its errors, and ends."""
    id = (await post(api)).json()["id"]
    async with events(api, id) as stream:
        first = await stream.next()
        assert (first["event"], first["data"]["status"], first["data"]["processed_records"]) == (
            "progress",
            "pending",
            0,
        )
        await work(worker, 2)
        seen = [first]
        while seen[-1]["data"]["processed_records"] < 2:
            seen.append(await stream.next())
        assert {event["event"] for event in seen} == {"progress"}
        assert seen[-1]["data"]["progress"]["percent"] == 40
        assert "errors" not in seen[-1]["data"]
        await work(worker, 3)
        while seen[-1]["event"] == "progress":
            seen.append(await stream.next())
        assert await stream.next() is None
    done = seen[-1]
    assert done["event"] == "done"
    assert done["data"] == (await api.get(f"/{id}")).json()
    assert (done["data"]["outcome"], done["data"]["errors"][0]["line"]) == ("partial", 6)
    assert len({event["id"] for event in seen}) == len(seen)


async def test_a_client_that_reconnects(api, worker):
    """A client that reconnects gets the current state; after `done` it gets 204."""
    id = (await post(api)).json()["id"]
    async with events(api, id) as stream:
        lost = await stream.next()
    await work(worker, 3)
    async with events(api, id, **{"Last-Event-ID": lost["id"]}) as stream:
        event = await stream.next()
        assert (event["event"], event["data"]["processed_records"]) == ("progress", 3)
    await work(worker, 2)
    for headers in ({}, {"Last-Event-ID": event["id"]}, {"Last-Event-ID": "what?"}):
        async with events(api, id, **headers) as stream:
            done = await stream.next()
            assert (done["event"], done["data"]["status"]) == ("done", "completed")
            assert await stream.next() is None
    again = await api.get(f"/{id}/events", headers={"Last-Event-ID": done["id"]})
    assert (again.status_code, again.content) == (204, b"")


async def test_no_import_no_events(api):
    """An id of nothing is 404, a parameter is 400, and an import that is removed ends its stream."""
    for id in (UNKNOWN_ID, "x"):
        answer = await api.get(f"/{id}/events")
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
    id = (await post(api)).json()["id"]
    answer = await api.get(f"/{id}/events", params={"since": "1"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "since")
    async with events(api, id) as stream:
        assert (await stream.next())["event"] == "progress"
        await api.conn.execute("DELETE FROM import_jobs")
        assert await stream.next() is None


def is_over(api, request_id: str) -> bool:
    """Whether the log has the end of a request."""
    return any(line.get("request_id") == request_id for line in api.service.api.logged("request"))


async def test_a_stream_ends_when_its_client_disconnects(api):
    """A stream ends when its client disconnects, although the import continues."""
    id = (await post(api)).json()["id"]
    async with events(api, id, **{"X-Request-Id": "follower"}) as stream:
        await stream.next()
        assert not is_over(api, "follower")
    await eventually(lambda: is_over(api, "follower"))


# (what the client prefers, for how long it waits then)
PREFERENCES = [
    ("wait=0", "0"),
    ("wait=1", "1"),
    ('Wait = "1"; x=y', "1"),
    ("respond-async, wait=0", "0"),
    ('x="a, wait=9", wait=0, wait=1', "0"),
    ("wait", None),
    ("wait=", None),
    ("wait=-1", None),
    ("wait=1.5", None),
    ("wait=soon, wait=1", None),
    ("wait=\u0661".encode(), None),
    ('x="wait=1', None),
    ("wait=1," + "x," * 600, None),
    ("", None),
]


@pytest.mark.parametrize(("prefer", "applied"), PREFERENCES)
async def test_the_seconds_of_a_wait(api, prefer, applied):
    """The response comes after the requested number of seconds; an invalid number is ignored."""
    started = asyncio.get_running_loop().time()
    answer = await post(api, Prefer=prefer)
    assert answer.status_code == 202, answer.text
    assert answer.headers.get("preference-applied") == (applied and f"wait={applied}")
    assert answer.json()["status"] == "pending"
    assert asyncio.get_running_loop().time() - started >= int(applied or 0)


async def test_wait_is_answered_when_the_job_is_final(api, worker):
    """A job that becomes final during the wait is returned immediately with 200; the wait is at most 30 s."""
    waiting = asyncio.create_task(post(api, Prefer="wait=3600", **{"Idempotency-Key": "k"}))

    async def is_there():
        return await api.value("SELECT count(*) FROM import_jobs WHERE status = 'pending'")

    await eventually(is_there)
    repeated = asyncio.create_task(post(api, Prefer="wait=20", **{"Idempotency-Key": "k"}))
    await work(worker, 5)
    answer = await waiting
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=30")
    assert "retry-after" not in answer.headers
    job = answer.json()
    assert (job["status"], job["counts"]["created"], job["error_count"]) == ("completed", 4, 1)
    assert answer.headers["location"] == job["links"]["self"]
    again = await repeated
    assert (again.status_code, again.json()) == (200, job)
    assert (again.headers["preference-applied"], again.headers["idempotent-replayed"]) == ("wait=20", "true")


async def test_an_empty_file_is_final_at_once(api):
    """An empty file is final when it is accepted: 202, or 200 with `Prefer: wait`."""
    for headers, status in (({}, 202), ({"Prefer": "wait=5"}, 200)):
        answer = await api.post(b"", type="text/csv", params={"resource": "users"}, headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (status, "completed")


async def test_a_waiting_client_that_leaves(api):
    """When a waiting client disconnects its request ends, and its import remains."""
    waiting = asyncio.create_task(post(api, Prefer="wait=30", **{"X-Request-Id": "waiting"}))
    await eventually(lambda: api.value("SELECT count(*) FROM import_jobs WHERE status = 'pending'"))
    # a request that is cancelled closes its connection
    waiting.cancel()
    await eventually(lambda: is_over(api, "waiting"))
    assert await api.value("SELECT status FROM import_jobs") == "pending"


async def test_followers_of_a_process_that_stops(server_url, tmp_path):
    """When the process stops, streams end cleanly and waiting clients get the current state of their job."""
    async with api_client.service(server_url, tmp_path, run=["api"]) as service, api_client.connected(service) as api:
        id = (await post(api)).json()["id"]
        async with events(api, id) as stream:
            assert (await stream.next())["event"] == "progress"
            waiting = asyncio.create_task(post(api, Prefer="wait=30"))

            async def are_two():
                return await api.value("SELECT count(*) FROM import_jobs WHERE status = 'pending'") == 2

            await eventually(are_two)
            stopping = asyncio.create_task(service.api.stop())
            assert await stream.next() is None
            answer = await waiting
        assert (answer.status_code, answer.json()["status"]) == (202, "pending")
        assert await stopping == 0
