"""Detects connections over which no reply will come any more, and ends sessions whose client has stopped.

TCP keepalives find a machine that is gone. They do not find a half-open connection: one through a proxy that hangs, or to a host
that acknowledges data and never reads it. So every exchange with the server has a deadline on the client's side, a little later
than `statement_timeout`: a server that can reply has replied by then. The locks of the session do not wait for that deadline,
since the server ends the session by its own limits, see `db.connections.pool`.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from psycopg import AsyncConnection, AsyncTransaction
from psycopg.abc import RV, PQGen
from psycopg.rows import TupleRow

# the time between the end of `statement_timeout` and the client's deadline, for the reply's way
REPLY_SECONDS = 5.0
# the deadline of the check before a pool hands out a connection
CHECK_SECONDS = 3.0
# A COPY that has waited this long for data from the client is ended. A worker's COPY sends one chunk from memory.
COPY_SECONDS = 10.0
WORKER_COPY_SECONDS = 5.0
# how long the server may compute before it sends a block: it may have to sort or to search a large table first
SILENCE_SECONDS_MAX = 3600.0


class WatchdogConnection(AsyncConnection[TupleRow]):
    """A connection that closes its socket when a reply takes longer than `deadline_seconds`; None: no deadline.

    The caller gets an OperationalError then, as if the server had closed the connection.
    """

    deadline_seconds: float | None = None

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109  psycopg's
        """psycopg's; every exchange passes here. One with a timeout of its own, as a wait for notifications, has no other."""
        if timeout is not None or self.deadline_seconds is None:
            return await super().wait(gen, interval, timeout)
        timer = asyncio.get_running_loop().call_later(self.deadline_seconds, self._shutdown_socket)
        try:
            return await super().wait(gen, interval)
        finally:
            timer.cancel()

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[AsyncTransaction]:
        """psycopg's. A deadline that is changed in the block holds until its end, as after SET LOCAL."""
        deadline_seconds = self.deadline_seconds
        try:
            async with super().transaction(savepoint_name, force_rollback) as transaction:
                yield transaction
        finally:
            self.deadline_seconds = deadline_seconds

    async def check(self) -> None:
        """Sends an empty query. Raises `OperationalError` when there is no reply within CHECK_SECONDS."""
        timer = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._shutdown_socket)
        try:
            await self.execute("")
        finally:
            timer.cancel()

    def _shutdown_socket(self) -> None:
        if not self.closed:
            with socket.socket(fileno=os.dup(self.fileno())) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)


def allow_silence(conn: AsyncConnection[TupleRow], seconds: float) -> None:
    """For the rest of the transaction, waits for `seconds` for each reply. For a longer `statement_timeout`, or none."""
    if isinstance(conn, WatchdogConnection):
        conn.deadline_seconds = seconds + REPLY_SECONDS


async def allow_long_statements(conn: AsyncConnection[TupleRow], seconds: int) -> None:
    """For the rest of the transaction, lets statements, and the transaction, take `seconds`."""
    await conn.execute(
        """
        SELECT set_config(name, %(milliseconds)s, true)
        FROM pg_settings
        WHERE name IN ('statement_timeout', 'transaction_timeout')
        """,
        {"milliseconds": str(seconds * 1000)},
    )
    allow_silence(conn, seconds)


async def begin_long_read(conn: AsyncConnection[TupleRow], *, client_timeout_seconds: float) -> datetime:
    """Replaces the session's time limits for this transaction and returns the time of its snapshot.

    The snapshot contains what was committed before that time. On a standby it is the time of the last replayed transaction.

    `client_timeout_seconds` is how long the reader may pause between two blocks before the server closes the connection. The
    limits of the session are meant for short statements and would end the read of a large table or for a slow client.
    """
    allow_silence(conn, SILENCE_SECONDS_MAX)
    timeout = str(round(client_timeout_seconds * 1000))
    settings = {
        "TimeZone": "UTC",
        "statement_timeout": "0",
        "transaction_timeout": "0",
        "idle_in_transaction_session_timeout": timeout,
        # a reader that pauses lets its receive window close, which this limit treats as a dead connection
        "tcp_user_timeout": timeout,
    }
    cursor = await conn.execute(
        """
        WITH changed AS MATERIALIZED (
            SELECT set_config(name, new.setting, true)
            FROM unnest(%(names)s::text[], %(settings)s::text[]) AS new (name, setting)
            JOIN pg_settings USING (name)
        )
        SELECT
            CASE
                WHEN pg_is_in_recovery()
                THEN coalesce(pg_last_xact_replay_timestamp(), (SELECT checkpoint_time FROM pg_control_checkpoint()))
                ELSE transaction_timestamp()
            END,
            (SELECT count(*) FROM changed)
        """,
        {"names": list(settings), "settings": list(settings.values())},
    )
    row = await cursor.fetchone()
    assert row is not None, "a SELECT without FROM has one row"  # noqa: S101
    return row[0]


async def end_silent_copies(conn: AsyncConnection[TupleRow]) -> int:
    """Ends our sessions whose client has stopped in the middle of a COPY and holds its locks. Returns their number.

    `statement_timeout` does not end such a COPY, because PostgreSQL checks it only after it has read more data.
    """
    cursor = await conn.execute(
        """
        SELECT pg_terminate_backend(pid)
        FROM pg_stat_activity
        WHERE datname = current_database()
            AND usename = current_user
            AND application_name LIKE 'bulk %%'
            AND state = 'active'
            AND wait_event = 'ClientRead'
            AND query_start < clock_timestamp() - interval '1 second'
                * CASE WHEN application_name LIKE 'bulk worker%%' THEN %(worker)s ELSE %(other)s END
        """,
        {"worker": WORKER_COPY_SECONDS, "other": COPY_SECONDS},
    )
    return cursor.rowcount
