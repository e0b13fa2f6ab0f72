"""What befalls the service. Each notes which chunks it has hit, so that their recovery can be timed."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

from psycopg.rows import DictRow

from tests.chaos.environment import Stage
from tests.support.eventually import eventually

Disturbance: TypeAlias = Callable[[Stage], Awaitable[None]]

# longer than the server puts up with a silent session that holds a lock
FROZEN_SECONDS = 12.0
LOOK_SECONDS = 0.05


async def kill(stage: Stage) -> None:
    """SIGKILL to a worker in mid-chunk."""
    await _hit(stage, "KILL", signal.SIGKILL)


async def terminate(stage: Stage) -> None:
    """SIGTERM to one: it ends its chunk or gives it back, and the pool replaces it."""
    await _hit(stage, "TERM", signal.SIGTERM)


async def freeze(stage: Stage) -> None:
    """SIGSTOP to one, and SIGCONT when its chunk is long somebody else's. One at a time.

    Who takes over from the first might wait for rows that the second has locked, and then the times would add up.
    """
    if len(stage.awake) < len(stage.workers.children()):
        return
    pid = await _victim(stage)
    stage.disturbances["STOP, CONT"] += 1
    at = time.time()
    stage.freeze(pid)
    asyncio.get_running_loop().call_later(FROZEN_SECONDS, stage.thaw, pid)
    # an export is given all the time that a slow storage may need, so it waits for the worker to wake up
    stage.recoveries.chunks("STOP, CONT", at, [row for row in await _held(stage, pid) if row["kind"] != "export"])


async def end_session(stage: Stage) -> None:
    """`pg_terminate_backend` of one session of the service, of a worker or of the API."""
    at = time.time()
    rows = await stage.rows(
        """
        WITH victim AS MATERIALIZED (
            SELECT pid, application_name
            FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE 'bulk %%'
            ORDER BY md5(pid::text || %(lot)s)
            LIMIT 1
        )
        SELECT chunks.id, lease, pg_terminate_backend(pid)
        FROM victim
        LEFT JOIN chunks ON state = 'running' AND application_name = 'bulk worker ' || worker
        """,
        lot=str(stage.random.random()),
    )
    stage.disturbances["pg_terminate_backend"] += len(rows)
    stage.recoveries.chunks("pg_terminate_backend", at, [row for row in rows if row["id"] is not None])


async def restart_postgres(stage: Stage) -> None:
    """An immediate restart: the server is back as soon as it can."""
    await away(stage, seconds=0.0, name="PostgreSQL restarts")


async def away(stage: Stage, *, seconds: float, name: str = "PostgreSQL away") -> None:
    """Time counts from the moment when the server accepts connections again."""
    stage.disturbances[name] += 1
    died_at = time.time()
    await stage.server.away(seconds)
    at = time.time()
    held = await stage.rows(
        "SELECT id, lease FROM chunks WHERE state = 'running' AND claimed_at < to_timestamp(%(died_at)s)",
        died_at=died_at,
    )
    stage.recoveries.chunks(name, at, held)
    stage.recoveries.next_chunk(f"{name}: next chunk", at)


async def kill_pool(stage: Stage, *, away_seconds: float) -> None:
    """SIGKILL to the whole pool at once, which somebody starts anew after a while; from then on the time counts."""
    stage.disturbances["KILL of the pool"] += 1
    stage.kill("workers")
    held = await stage.rows("SELECT id, lease FROM chunks WHERE state = 'running'")
    await asyncio.sleep(away_seconds)
    stage.start("workers")
    stage.recoveries.chunks("KILL of the pool", time.time(), held)


async def kill_api(stage: Stage) -> None:
    """SIGKILL to the API under all that it does, and a new one in its place."""
    stage.disturbances["KILL of the API"] += 1
    stage.kill("api")
    stage.start("api")


async def series(stage: Stage, choices: list[Disturbance], *, seconds: float, pause_seconds: float) -> None:
    """One of `choices` after the other for so long, each in work that is under way."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        await stage.random.choice(choices)(stage)
        await asyncio.sleep(pause_seconds * stage.random.uniform(0.7, 1.3))


async def _hit(stage: Stage, what: str, signum: signal.Signals) -> None:
    pid = await _victim(stage)
    stage.disturbances[what] += 1
    at = time.time()
    with suppress(ProcessLookupError):
        os.kill(pid, signum)
    stage.recoveries.chunks(what, at, await _held(stage, pid))


async def _victim(stage: Stage) -> int:
    """A worker that has a chunk in hand, if there is one within half a second; else any. One that is frozen is none."""
    for _ in range(10):
        rows = await stage.rows("SELECT split_part(worker, ':', 2)::integer AS pid FROM chunks WHERE state = 'running'")
        busy = sorted({row["pid"] for row in rows} & set(stage.awake))
        if busy:
            return stage.random.choice(busy)
        await asyncio.sleep(LOOK_SECONDS)
    return stage.random.choice(await eventually(lambda: stage.awake))


async def _held(stage: Stage, pid: int) -> list[DictRow]:
    """The chunk that this worker has in hand, in a list."""
    return await stage.rows(
        "SELECT id, lease, kind FROM chunks WHERE state = 'running' AND split_part(worker, ':', 2)::integer = %(pid)s",
        pid=pid,
    )
