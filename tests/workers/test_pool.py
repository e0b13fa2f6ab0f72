"""The worker pool with real processes: crashes, signals, lost connections."""

import asyncio
import os
import signal
from ctypes import c_double
from uuid import UUID

import pytest

from db.connections import pool
from db.imports import jobs
from db.settings import Settings
from tests.support import api_client
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.eventually import eventually
from tests.support.factories import chunk, claim, perform, queued, user, users
from tests.support.workers import HELD, ended, ended_without_its_worker, is_running, started, stuck
from workers.worker import Worker

# longer than any test lasts
LONG_SECONDS = 600


async def test_a_killed_worker_is_replaced_and_its_chunk_taken_over(service, conn, hold):
    """After kill -9 during a chunk the chunk is reclaimed, and no record counts twice."""
    id = await queued(conn, [*users(9), user(10, name=HELD), *users(10, first=11)], sizes=[5, 5, 5, 5])
    async with hold(HELD):
        processes = await started(service, workers=2)
        victim = await stuck(conn, id, 2)
        os.kill(victim, signal.SIGKILL)
        assert await stuck(conn, id, 2, attempt=2) != victim
    job = await ended(conn, id)
    assert (job.status, job.created) == ("completed", 20)
    row = await chunk(conn, id, 2)
    assert (row["crashes"], row["attempt"], row["lease"]) == (1, 2, 2)
    await eventually(lambda: len(processes.children()) == 2)
    assert victim not in processes.children()
    assert "worker died, replacing it" in processes.output


async def test_a_chunk_that_kills_its_workers_fails_alone(service, conn, hold):
    """After four crashes the chunk fails, its job ends as failed, and all other chunks are done."""
    id = await queued(conn, [*users(2), user(3, name=HELD), *users(3, first=4)], sizes=[2, 1, 3])
    async with hold(HELD):
        processes = await started(service, workers=2)
        for attempt in range(1, 5):
            pid = await stuck(conn, id, 2, attempt=attempt)
            os.kill(pid, signal.SIGKILL)
            await forget(conn, id)
        job = await ended(conn, id)
    assert (job.status, job.created, job.failed, job.total_records) == ("failed", 5, 0, 6)
    assert job.problem is not None
    assert job.problem["type"] == "/problems/chunk-failed"
    assert processes.logged("import stopped by record errors") == []
    row = await chunk(conn, id, 2)
    assert (row["state"], row["crashes"], row["attempt"]) == ("failed", 4, 4)


async def forget(conn, id: UUID) -> None:
    """Ends the session of a dead worker and its grace period immediately."""
    await conn.execute(
        """
        SELECT pg_terminate_backend(pid, 5000)
        FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event = 'advisory'
        """
    )
    await conn.execute(
        "UPDATE chunks SET claimed_at = claimed_at - interval '1 hour' WHERE job_id = %(id)s AND seq = 2",
        {"id": id},
    )


async def test_term_ends_the_pool_in_good_order(service, conn, hold):
    """After TERM a worker finishes its chunk, and the pool exits with 0."""
    id = await queued(conn, [user(1, name=HELD)])
    async with hold(HELD):
        processes = await started(service, workers=2, stop_seconds=LONG_SECONDS)
        await stuck(conn, id, 1)
        workers = processes.children()
        processes.send(signal.SIGTERM)
        # the other one has no chunk
        await eventually(lambda: len([pid for pid in workers if is_running(pid)]) == 1)
    await eventually(lambda: processes.exit_code is not None)
    assert processes.exit_code == 0
    assert not [pid for pid in workers if is_running(pid)]
    row = await chunk(conn, id, 1)
    assert (row["state"], row["attempt"], row["crashes"]) == ("done", 1, 0)


async def test_chunks_that_are_not_finished_in_time_are_given_back(service, conn, hold):
    """After half of STOP_SECONDS a chunk is given back without counting an attempt."""
    id = await queued(conn, [user(1, name=HELD)])
    async with hold(HELD):
        # half of it passes; the other half is there for the worker to end
        processes = await started(service, workers=1, stop_seconds=12)
        await stuck(conn, id, 1)
        processes.send(signal.SIGTERM)
        await eventually(lambda: processes.exit_code is not None)
        assert processes.exit_code == 0
    row = await chunk(conn, id, 1)
    assert (row["state"], row["attempt"], row["crashes"], row["last_error"]) == ("pending", 0, 0, None)
    await started(service, workers=1)
    assert (await ended(conn, id)).created == 1


async def test_a_second_signal_ends_the_pool_at_once(service, conn, hold):
    """A second signal kills the workers; their chunks are recovered as after a crash."""
    id = await queued(conn, [user(1, name=HELD)])
    async with hold(HELD):
        processes = await started(service, workers=1, stop_seconds=LONG_SECONDS)
        worker = await stuck(conn, id, 1)
        processes.send(signal.SIGTERM)
        # another signal, because two of a kind may arrive as one
        processes.send(signal.SIGINT)
        await eventually(lambda: processes.exit_code is not None)
        assert processes.exit_code == 0
        assert not is_running(worker)
    assert (await chunk(conn, id))["state"] == "running"


async def test_term_during_the_start_stops_them_all(service):
    """A signal during the start of the workers stops all of them."""
    processes = (await service(run=["workers"], worker_pool_size=12, stop_seconds=LONG_SECONDS)).workers
    workers = await eventually(processes.children)
    processes.send(signal.SIGTERM)
    await eventually(lambda: processes.exit_code is not None)
    assert processes.exit_code == 0
    assert "did not stop in time" not in processes.output
    assert not [pid for pid in workers if is_running(pid)]


SESSIONS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'bulk worker %'"


async def both_are_connected(conn) -> bool:
    cursor = await conn.execute(f"SELECT count(*) >= 2 {SESSIONS}")
    [is_enough] = await cursor.fetchone()
    return is_enough


async def test_lost_connections_have_no_effect(service, conn, hold):
    """If the server terminates all sessions, the workers reconnect, and every record is stored once."""
    id = await queued(conn, [user(1, name=HELD), *users(39, first=2)], sizes=[4] * 10)
    async with hold(HELD):
        processes = await started(service, workers=2)
        workers = set(processes.children())
        await stuck(conn, id, 1)
        # a worker that is a process already may still be connecting
        await eventually(lambda: both_are_connected(conn))
        await conn.execute(f"SELECT pg_terminate_backend(pid, 5000) {SESSIONS}")
    job = await ended(conn, id)
    assert (job.status, job.created) == ("completed", 40)
    row = await chunk(conn, id, 1)
    assert (row["attempt"], row["crashes"]) == (2, 0)
    assert set(processes.children()) == workers
    assert "database is reachable again" in processes.output


async def test_a_suspended_worker_has_lost_its_chunk(service, conn, hold):
    """The server terminates the session of a suspended worker; another one takes over its chunk, and it reconnects later."""
    processes = await started(service, workers=2)
    workers = set(processes.children())
    job = await ended_without_its_worker(conn, hold)
    assert (job.status, job.created) == ("completed", 1)
    await eventually(lambda: "database is reachable again" in processes.output)
    assert (await chunk(conn, job.id))["crashes"] == 1
    assert set(processes.children()) == workers


async def test_a_session_ended_by_its_limits_does_not_end_the_worker(conn, database_url, hold, monkeypatch):
    """If transaction_timeout ends its session, the worker reconnects and gives the chunk back."""
    if conn.info.server_version < 170000:
        pytest.skip("this server does not limit transactions")
    monkeypatch.setitem(pool.SESSION, "transaction_timeout", "2000")
    stopping = asyncio.Event()
    id = await queued(conn, [user(1, name=HELD)])
    async with hold(HELD):
        worker = Worker(Settings(database_url=database_url, poll_seconds=0.2), name="h:1:1", stopping=stopping)
        running = asyncio.create_task(worker.run())
        await eventually(lambda: has_accident(conn, id, running))
    assert (await ended(conn, id)).created == 1
    assert (await chunk(conn, id))["crashes"] == 0
    stopping.set()
    await running


async def test_maintenance_runs_when_the_pool_has_a_round_due(conn, database_url):
    """A worker leaves maintenance alone until the shared time, and moves the time on when it runs a round."""
    maintenance_at = c_double(float("inf"))
    unfinished = await queued(conn, users(1))
    await perform(conn, await claim(conn))
    stopping = asyncio.Event()
    settings = Settings(database_url=database_url, poll_seconds=0.1)
    running = asyncio.create_task(
        Worker(settings, name="h:1:1", stopping=stopping, maintenance_at=maintenance_at).run()
    )
    await ended(conn, await queued(conn, users(1, first=2)))
    assert await status(conn, unfinished) == "processing"
    maintenance_at.value = 0.0
    assert (await ended(conn, unfinished)).status == "completed"
    assert maintenance_at.value > 0.0
    stopping.set()
    await running


async def status(conn, id: UUID) -> str:
    job = await jobs.get(conn, id)
    assert job
    return job.status


async def has_accident(conn, id: UUID, running: asyncio.Task) -> bool:
    assert not running.done(), running.exception()
    return (await chunk(conn, id))["last_error"] is not None


async def test_workers_do_not_outlive_their_pool(service, conn, hold):
    """Workers whose parent was killed stop, and give back their chunks."""
    id = await queued(conn, [user(1, name=HELD)])
    async with hold(HELD):
        processes = await started(service, workers=2, stop_seconds=1)
        await stuck(conn, id, 1)
        workers = processes.children()
        os.kill(processes.pid, signal.SIGKILL)
        await eventually(lambda: not [pid for pid in workers if is_running(pid)])
    row = await chunk(conn, id)
    assert (row["state"], row["attempt"], row["crashes"]) == ("pending", 0, 0)


async def test_an_upload_is_traced_by_its_id(service, conn):
    """The request id is in the job, in each log line about its chunks and its end, and in error responses."""
    running = await service(worker_pool_size=1, batch_size=2, claim_chunks_max=1, log_level="debug")
    async with api_client.connected(running) as api:
        file = USERS_HEADER + b"".join(map(user_row, range(4)))
        posted = await api.post(
            file, type="text/csv", params={"resource": "users"}, headers={"X-Request-Id": "trace-1"}
        )
        job = await api.finished(posted)
        assert await api.value("SELECT request_id FROM import_jobs WHERE id = %s", job["id"]) == "trace-1"

        def lines() -> list[tuple[str, str]]:
            return [
                (line["event"], line["request_id"])
                for line in running.workers.log_lines()
                if line.get("job_id") == job["id"]
            ]

        await eventually(lambda: lines() == [("chunk done", "trace-1")] * 2 + [("import finished", "trace-1")])
        refused = await api.get("/no-id", headers={"X-Request-Id": "trace-2"})
        assert refused.json()["request_id"] == refused.headers["x-request-id"] == "trace-2"
