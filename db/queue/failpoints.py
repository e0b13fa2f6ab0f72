"""Named points in a worker's path, at which tests let it come to grief.

Nothing but a call of `install` arms them, and nothing in the service calls it: in production a point is one look at a name.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from db.connections.pool import Connection

Point = Literal[
    # the claim is committed, the chunk's row not yet locked
    "after_claim",
    # the row is locked
    "after_fence",
    # records are stored, and not all is done yet
    "mid_merge",
    # all is done, the chunk's end too
    "before_commit",
    # the commit took place, and nobody knows of it
    "after_commit",
    # the chunk is final, its job has not been looked at
    "before_finish",
]

# what happens at a point, on the connection of the worker that has reached it
Fault: TypeAlias = Callable[[Point, Connection], Awaitable[None]]

_installed: Fault | None = None


def install(fault: Fault | None) -> None:
    """Lets `fault` happen at each point that this process reaches from now on; None: nothing any more."""
    global _installed
    _installed = fault


async def reach(point: Point, conn: Connection) -> None:
    if _installed is not None:
        await _installed(point, conn)
