"""Workers as tasks of a test, which are stopped at a failpoint."""

from collections.abc import Awaitable, Callable

import pytest

from db.connections.pool import Connection
from db.queue import failpoints
from db.queue.failpoints import Point


@pytest.fixture
def at_point():
    """`at_point("mid_merge", act)`: the first worker that reaches the point does `act`."""

    def install(wanted: Point, act: Callable[[Connection], Awaitable[None]]) -> None:
        async def fault(point: Point, conn: Connection) -> None:
            if point == wanted:
                failpoints.install(None)
                await act(conn)

        failpoints.install(fault)

    yield install
    failpoints.install(None)
