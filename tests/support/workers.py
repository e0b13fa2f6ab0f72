"""Worker pools for tests, and chunks in which their workers stop until the test continues."""

import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection

from db.imports import jobs
from tests.support import factories
from tests.support.eventually import eventually
from tests.support.factories import rows
from tests.support.service import Process

# the name of users at which the workers stop: the number of an advisory lock
HELD = "1"


async def install_hold(conn, database_url: str) -> Callable[[str], AbstractAsyncContextManager[None]]:
    """Adds a trigger that waits for an advisory lock at users whose names are numbers; see the fixture `hold`."""
    await conn.execute(
        """
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
        -- a test may take longer than the service waits for a lock
        SET lock_timeout = 0 AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock_shared(NEW.name::bigint);
            RETURN NEW;
        END $$
        """
    )
    await conn.execute(
        """
        CREATE TRIGGER wait BEFORE INSERT ON users
        FOR EACH ROW WHEN (NEW.name ~ '^[0-9]+$') EXECUTE FUNCTION wait()
        """
    )

    @asynccontextmanager
    async def holding(name: str):
        async with await AsyncConnection.connect(database_url, autocommit=True) as holder:
            await holder.execute("SELECT pg_advisory_lock(%(name)s)", {"name": int(name)})
            yield

    return holding


async def session_has_ended(conn, pid: int) -> bool:
    """Whether the server process `pid` has ended."""
    return not await rows(conn, "SELECT 1 FROM pg_stat_activity WHERE pid = %(pid)s", pid=pid)


async def stuck(conn, id: UUID, seq: int, *, attempt: int = 1) -> int:
    """Waits until a worker is stopped inside this chunk, in its `attempt`th attempt. Returns the worker's pid."""

    async def pid() -> int | None:
        found = await rows(
            conn,
            """
            SELECT split_part(worker, ':', 2)::integer
            FROM chunks
            JOIN pg_stat_activity ON application_name = 'bulk worker ' || worker AND wait_event = 'advisory'
            WHERE job_id = %(id)s AND seq = %(seq)s AND chunks.state = 'running' AND attempt = %(attempt)s
            """,
            id=id,
            seq=seq,
            attempt=attempt,
        )
        return found[0][0] if found else None

    return await eventually(pid)


async def ended(conn, id: UUID) -> jobs.Import:
    """Waits until the import is final, audits it and returns it."""

    async def is_final() -> bool:
        job = await jobs.get(conn, id)
        return job is not None and job.finished_at is not None

    await eventually(is_final)
    return await factories.ended(conn, id)


async def ended_without_its_worker(conn, hold) -> jobs.Import:
    """Waits until an import is final whose worker is suspended inside its only chunk. Then the worker continues."""
    async with hold(HELD):
        id = await factories.queued(conn, [factories.user(1, name=HELD)])
        suspended = await stuck(conn, id, 1)
        os.kill(suspended, signal.SIGSTOP)
    try:
        return await ended(conn, id)
    finally:
        os.kill(suspended, signal.SIGCONT)


async def started(service, *, workers: int, **settings) -> Process:
    """Starts a pool and waits until all of its workers run."""
    running = await service(run=["workers"], **{"worker_pool_size": workers, "poll_seconds": 0.2, **settings})
    processes = running.workers
    await eventually(lambda: len(processes.children()) == workers)
    return processes


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
