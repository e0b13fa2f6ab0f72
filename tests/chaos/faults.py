"""The faults. Each notes which chunks it has interrupted, so that their recovery can be timed."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

from psycopg.rows import DictRow

from tests.chaos.environment import Environment
from tests.support.eventually import eventually

Fault: TypeAlias = Callable[[Environment], Awaitable[None]]

# longer than the server tolerates an idle session that holds a lock
FROZEN_SECONDS = 12.0
LOOK_SECONDS = 0.05


async def kill(env: Environment) -> None:
    """SIGKILL to a worker during a chunk."""
    await _signal_worker(env, "KILL", signal.SIGKILL)


async def terminate(env: Environment) -> None:
    """SIGTERM to a worker: it finishes its chunk or gives it back, and the pool replaces it."""
    await _signal_worker(env, "TERM", signal.SIGTERM)


async def freeze(env: Environment) -> None:
    """SIGSTOP to a worker, and SIGCONT long after its chunk was reclaimed. One at a time.

    With two, the worker that reclaims the first chunk might wait for rows locked by the second, and the times would add up.
    """
    if len(env.awake) < len(env.workers.children()):
        return
    pid = await _busy_worker(env)
    env.fault_counts["STOP, CONT"] += 1
    at = time.time()
    env.freeze(pid)
    asyncio.get_running_loop().call_later(FROZEN_SECONDS, env.thaw, pid)
    # an export may be as slow as its storage, so it is not reclaimed: it waits for the worker to continue
    env.recoveries.chunks("STOP, CONT", at, [row for row in await _held(env, pid) if row["kind"] != "export"])


async def end_session(env: Environment) -> None:
    """`pg_terminate_backend` of one session of the service, of a worker or of the API."""
    at = time.time()
    rows = await env.rows(
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
        lot=str(env.random.random()),
    )
    env.fault_counts["pg_terminate_backend"] += len(rows)
    env.recoveries.chunks("pg_terminate_backend", at, [row for row in rows if row["id"] is not None])


async def restart_postgres(env: Environment) -> None:
    """An immediate restart of the server."""
    await away(env, seconds=0.0, name="PostgreSQL restarts")


async def away(env: Environment, *, seconds: float, name: str = "PostgreSQL away") -> None:
    """Stops PostgreSQL for `seconds`. Recovery is timed from the moment when the server accepts connections again."""
    env.fault_counts[name] += 1
    died_at = time.time()
    await env.server.away(seconds)
    at = time.time()
    held = await env.rows(
        "SELECT id, lease FROM chunks WHERE state = 'running' AND claimed_at < to_timestamp(%(died_at)s)",
        died_at=died_at,
    )
    env.recoveries.chunks(name, at, held)
    env.recoveries.next_chunk(f"{name}: next chunk", at)


async def kill_pool(env: Environment, *, away_seconds: float) -> None:
    """SIGKILL to the whole pool at once, which is restarted after a while; recovery is timed from the restart."""
    env.fault_counts["KILL of the pool"] += 1
    env.kill("workers")
    held = await env.rows("SELECT id, lease FROM chunks WHERE state = 'running'")
    await asyncio.sleep(away_seconds)
    env.start("workers")
    env.recoveries.chunks("KILL of the pool", time.time(), held)


async def kill_api(env: Environment) -> None:
    """SIGKILL to the API during its requests, and a new one in its place."""
    env.fault_counts["KILL of the API"] += 1
    env.kill("api")
    env.start("api")


async def series(env: Environment, choices: list[Fault], *, seconds: float, pause_seconds: float) -> None:
    """Runs `choices` in turn until the time is over, each while chunks are running."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        await env.random.choice(choices)(env)
        await asyncio.sleep(pause_seconds * env.random.uniform(0.7, 1.3))


async def _signal_worker(env: Environment, what: str, signum: signal.Signals) -> None:
    pid = await _busy_worker(env)
    env.fault_counts[what] += 1
    at = time.time()
    with suppress(ProcessLookupError):
        os.kill(pid, signum)
    env.recoveries.chunks(what, at, await _held(env, pid))


async def _busy_worker(env: Environment) -> int:
    """A worker that has a running chunk, if there is one within half a second; else any. Frozen workers are excluded."""
    for _ in range(10):
        rows = await env.rows("SELECT split_part(worker, ':', 2)::integer AS pid FROM chunks WHERE state = 'running'")
        busy = sorted({row["pid"] for row in rows} & set(env.awake))
        if busy:
            return env.random.choice(busy)
        await asyncio.sleep(LOOK_SECONDS)
    return env.random.choice(await eventually(lambda: env.awake))


async def _held(env: Environment, pid: int) -> list[DictRow]:
    """The running chunk of this worker, in a list."""
    return await env.rows(
        "SELECT id, lease, kind FROM chunks WHERE state = 'running' AND split_part(worker, ':', 2)::integer = %(pid)s",
        pid=pid,
    )
