"""Where a long read begins: on the hot standby if there is one, and on the primary if that cannot serve it."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

import structlog

from db.errors import OUTDATED, UNAVAILABLE, sqlstate
from db.connections.pool import Connection, Pool
from monitoring import throttle

log = structlog.get_logger(__name__)

T = TypeVar("T")

# a standby that is away, or has no connection free, is not waited for as the primary is
STANDBY_SECONDS_MAX = 1.0


async def begin(
    pools: Sequence[Pool], start: Callable[[Connection, AsyncExitStack], Awaitable[T]]
) -> tuple[T, AsyncExitStack]:
    """What `start` returns, on a connection of the first pool that can serve it, and what is held for that until it is closed.

    The last of `pools` is the primary's. `start` should go as far as the first bytes: a standby cancels whatever gets in the
    way of its recovery, and only before anything was sent can the read begin again, unnoticed, where that does not happen.
    """
    *standbys, primary = pools
    for standby in standbys:
        try:
            return await _begin(standby, start, wait_seconds=STANDBY_SECONDS_MAX)
        except (*UNAVAILABLE, *OUTDATED) as error:
            throttle.warning(log, "standby_passed_by", error=type(error).__name__, sqlstate=sqlstate(error))
    return await _begin(primary, start, wait_seconds=None)


async def _begin(
    pool: Pool, start: Callable[[Connection, AsyncExitStack], Awaitable[T]], *, wait_seconds: float | None
) -> tuple[T, AsyncExitStack]:
    async with AsyncExitStack() as stack:
        conn = await stack.enter_async_context(pool.connection(timeout=wait_seconds))
        started = await start(conn, stack)
        return started, stack.pop_all()
