"""Failpoints: named points on a worker's path at which tests make it crash, fail or wait.

Only tests call `install`. Otherwise a failpoint costs one look-up of a global name.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from db.connections.pool import Connection

Point = Literal[
    # the claim is committed, the chunk's row is not yet locked
    "after_claim",
    # the row is locked
    "after_fence",
    # the chunk is loaded, and not yet parsed
    "after_load",
    # some records are stored, not yet all
    "mid_merge",
    # all records are stored and the chunk is marked as done
    "before_commit",
    # the transaction is committed, the worker has not yet acted on it
    "after_commit",
    # the chunk is final, its job is not yet checked for its end
    "before_finish",
    # the receiver of a webhook has replied, the result is not stored
    "mid_delivery",
]

# called at a failpoint with the worker's connection
Fault: TypeAlias = Callable[[Point, Connection], Awaitable[None]]

_installed: Fault | None = None


def install(fault: Fault | None) -> None:
    """Calls `fault` at each failpoint that this process reaches from now on; None removes it."""
    global _installed
    _installed = fault


async def reach(point: Point, conn: Connection) -> None:
    if _installed is not None:
        await _installed(point, conn)
