"""Starts a long read on the hot standby, or on the primary if there is no standby or it cannot serve the read."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

import structlog

from db.connections.pool import Connection, Pool
from db.errors import OUTDATED, UNAVAILABLE, sqlstate
from monitoring import throttle

log = structlog.get_logger(__name__)

T = TypeVar("T")

# how long to wait for a connection to the standby before the primary is used
STANDBY_SECONDS_MAX = 1.0


async def begin(
    pools: Sequence[Pool], start: Callable[[Connection, AsyncExitStack], Awaitable[T]]
) -> tuple[T, AsyncExitStack]:
    """Calls `start` with a connection of the first pool that can serve it. Returns its result and the stack to close afterwards.

    The last of `pools` is the primary's. `start` should read the first block: a standby cancels queries that conflict with its
    recovery, and the read can move to the primary only before anything was sent to the client.
    """
    *standbys, primary = pools
    for standby in standbys:
        try:
            return await _begin(standby, start, wait_seconds=STANDBY_SECONDS_MAX)
        except (*UNAVAILABLE, *OUTDATED) as error:
            throttle.warning(log, "standby not used", error=type(error).__name__, sqlstate=sqlstate(error))
    return await _begin(primary, start, wait_seconds=None)


async def _begin(
    pool: Pool, start: Callable[[Connection, AsyncExitStack], Awaitable[T]], *, wait_seconds: float | None
) -> tuple[T, AsyncExitStack]:
    async with AsyncExitStack() as stack:
        conn = await stack.enter_async_context(pool.connection(timeout=wait_seconds))
        started = await start(conn, stack)
        return started, stack.pop_all()
