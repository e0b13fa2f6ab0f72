"""A pool that says why it has no connection, and does not let requests wait for one in vain."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import psycopg
from psycopg_pool import AsyncConnectionPool

from db.connections.liveness import Doubting
from db.errors import READ_ONLY

# how long a request waits for a connection when nobody has got one for a while: long enough for the pool to try
AWAY_SECONDS = 1.0


class Watch(Protocol):
    """Who is told of each attempt to connect, and knows for how many `seconds` they have failed; None: the last has not."""

    @property
    def seconds(self) -> float | None: ...
    def away(self, error: Exception) -> None: ...
    def back(self) -> None: ...


class Watched(Doubting):
    """A connection whose making is told to a `watch`: of a pool that gets none one learns only that it took too long."""

    @classmethod
    async def connect(cls, conninfo: str = "", *, watch: Watch, **options: Any) -> "Watched":  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            conn = await super().connect(conninfo, **options)
        except psycopg.Error as error:
            watch.away(error)
            raise
        watch.back()
        return conn


class WatchedPool(AsyncConnectionPool[Doubting]):
    """For its `timeout` an outage makes requests wait, so that they do not notice a restart; then they are refused soon.

    Else they would pile up, each for as long.
    """

    watch: Watch

    async def getconn(self, timeout: float | None = None) -> Doubting:  # noqa: ASYNC109  the pool's own
        seconds = self.timeout if timeout is None else timeout
        if (away_seconds := self.watch.seconds) is not None:
            seconds = min(seconds, max(AWAY_SECONDS, self.timeout - away_seconds))
        return await super().getconn(seconds)

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncIterator[Doubting]:  # noqa: ASYNC109
        """Closes the connection to a server that takes no writes: the next one may find the server that does."""
        async with super().connection(timeout) as conn:
            try:
                yield conn
            except READ_ONLY:
                await conn.close()
                raise
