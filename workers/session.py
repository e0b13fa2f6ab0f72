"""A process's session with the database: connects, and reconnects after an error, until the process is stopped."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from db.connections import pool
from db.connections.pool import Connection
from db.errors import DATABASE_ERROR, OUTDATED, UNAVAILABLE, sqlstate
from db.settings import Settings
from monitoring.outage import Outage

log = structlog.get_logger(__name__)

T = TypeVar("T")

# short, because the time until the next attempt is added to that of a failover
BACKOFF_SECONDS_MAX = 2.0


async def serve(
    settings: Settings,
    work: Callable[[Connection], Awaitable[None]],
    *,
    name: str,
    worker: str,
    stopping: asyncio.Event,
    outage: Outage,
) -> None:
    """Calls `work` with a connection until `stopping` is set. While the database is unavailable, the delays grow.

    `name` is that of the session, `worker` that of the process in the log.
    """
    while not stopping.is_set():
        try:
            conn = await unless_stopping(stopping, pool.connect(settings, name=name))
            if conn is None:
                return
            async with conn:
                await work(conn)
        except (*UNAVAILABLE, *OUTDATED) as error:
            outage.failed(error)
            await unless_stopping(stopping, asyncio.sleep(_backoff(outage.failures)))
        except DATABASE_ERROR as error:
            # not an error of a chunk, which is given back, or of a delivery: the process goes on with a new connection
            log.exception("unexpected database error", worker=worker, sqlstate=sqlstate(error))
            await unless_stopping(stopping, asyncio.sleep(BACKOFF_SECONDS_MAX))


async def unless_stopping(stopping: asyncio.Event, wait: Coroutine[Any, Any, T]) -> T | None:
    """The result of `wait`; None if `stopping` is set before it is done."""
    task, stop = asyncio.create_task(wait), asyncio.create_task(stopping.wait())
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        return None
    return task.result()


def _backoff(failures: int) -> float:
    return min(BACKOFF_SECONDS_MAX, 0.1 * 2**failures) * random.uniform(0.5, 1.0)  # noqa: S311
