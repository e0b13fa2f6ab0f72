"""Connections that report each attempt to connect, and a pool that stops waiting during an outage."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import psycopg
from psycopg_pool import AsyncConnectionPool

from db.connections.liveness import WatchdogConnection
from db.errors import READ_ONLY, ConnectionLost

# how long a request waits for a connection in an outage that has lasted longer than the pool's timeout
OUTAGE_WAIT_SECONDS = 1.0
# how long after its last use a connection counts as working
RECENT_SECONDS = 0.25

_may_be_lost: ContextVar[bool] = ContextVar("may_be_lost", default=False)


class ConnectionMonitor(Protocol):
    """Receives the result of each attempt to connect. `seconds` is the duration of the outage, None when there is none."""

    @property
    def seconds(self) -> float | None: ...
    def failed(self, error: Exception) -> None: ...
    def succeeded(self) -> None: ...


class MonitoredConnection(WatchdogConnection):
    """A connection of a pool: reports every attempt to connect to `monitor`. The pool itself only raises PoolTimeout."""

    connected_at = 0.0
    # when it was last used without an error
    used_at = 0.0

    @classmethod
    async def connect(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, conninfo: str = "", *, monitor: ConnectionMonitor | None = None, **options: Any
    ) -> "MonitoredConnection":
        try:
            conn = await super().connect(conninfo, **options)
        except psycopg.Error as error:
            if monitor is not None:
                monitor.failed(error)
            raise
        conn.connected_at = time.monotonic()
        if monitor is not None:
            monitor.succeeded()
        return conn


class MonitoredPool(AsyncConnectionPool[MonitoredConnection]):
    """During the first `timeout` seconds of an outage requests wait, which hides a restart of the server.

    After that they fail after OUTAGE_WAIT_SECONDS, so that they do not pile up.
    """

    def __init__(self, conninfo: str, *, monitor: ConnectionMonitor, kwargs: dict[str, Any], **options: Any) -> None:
        self.monitor = monitor
        self._replaced_at = 0.0
        super().__init__(conninfo, check=self._verify, kwargs={**kwargs, "monitor": monitor}, **options)

    async def getconn(self, timeout: float | None = None) -> MonitoredConnection:  # noqa: ASYNC109  psycopg_pool's signature
        seconds = self.timeout if timeout is None else timeout
        if (outage_seconds := self.monitor.seconds) is not None:
            seconds = min(seconds, max(OUTAGE_WAIT_SECONDS, self.timeout - outage_seconds))
        return await super().getconn(seconds)

    @asynccontextmanager
    async def connection(
        self,
        timeout: float | None = None,  # noqa: ASYNC109
        *,
        may_be_lost: bool = False,
    ) -> AsyncIterator[MonitoredConnection]:
        """psycopg_pool's. Raises `ConnectionLost` when the connection is lost in the block.

        `may_be_lost`: the connection is not checked first if it was used in the last RECENT_SECONDS, because the caller repeats
        the block. Closes the connection when the server is read-only: after a failover, a new one may reach the primary.
        """
        async with AsyncExitStack() as stack:
            token = _may_be_lost.set(may_be_lost)
            try:
                conn = await stack.enter_async_context(super().connection(timeout))
            finally:
                _may_be_lost.reset(token)
            try:
                yield conn
                conn.used_at = time.monotonic()
            except READ_ONLY:
                await conn.close()
                raise
            except psycopg.Error as error:
                # not only OperationalError: PgBouncer adds an error to the server's, and psycopg expects one reply to a COMMIT
                if not conn.closed:
                    raise
                lost = ConnectionLost()
                lost.sqlstate = error.sqlstate
                raise lost from error

    async def _verify(self, conn: MonitoredConnection) -> None:
        """Checks a connection before it is handed out. When one is dead, all idle ones are replaced at once.

        After a restart of the server all of them are dead. The pool would find one at a time, with a growing pause in between.
        """
        if _may_be_lost.get() and conn.used_at > time.monotonic() - RECENT_SECONDS:
            return
        try:
            await conn.check()
        except psycopg.Error:
            if conn.connected_at > self._replaced_at:
                self._replaced_at = time.monotonic()
                await self.drain()
            raise
