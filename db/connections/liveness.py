"""Connections that do not wait for ever for a server of which nothing is heard.

Keepalives tell of a machine that has gone, not of a line that stands and carries nothing any more: a proxy that hangs, one
that has forgotten us, a host that acknowledges what nobody reads. No time limit tells it from a long statement either. So who
has waited for a while asks the server on a second connection: does it work for us, or does it wait for us while we wait for it?

The server has limits of its own for clients of which nothing is heard (`pool.SESSION`), but none that ends a COPY that waits
for data. That is for others to do: `end_silent_copies`.
"""

import asyncio
import fcntl
import os
import socket
import termios
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import RV, PQGen
from psycopg.rows import TupleRow

# after so long a silence the server is asked, and then again and again
DOUBT_SECONDS = 3.0
# how long the second connection and its answer may take
ASK_SECONDS = 3
PAUSE_SECONDS = 1.0
# so many bad answers in a row, because a good one of the server's may be on its way
BAD_ANSWERS = 2
# a COPY of ours brings some megabytes, and then ends; after so long one that waits for more waits in vain
COPY_SECONDS = 10.0
# a worker's brings one chunk, which is in its memory, and holds that chunk up
WORKER_COPY_SECONDS = 5.0


class Doubting(AsyncConnection[TupleRow]):
    """A connection that ends itself, as if the server had, when it waits for a server that waits for it, or cannot be asked."""

    # whether the server knows this session by the number that was given to us; a pooler in between gives numbers of its own
    is_listed = False

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109  psycopg's
        """Every exchange with the server passes here. One that has its own time limit, as a wait for notifications, is let be."""
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        doubts: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        timer = loop.call_later(DOUBT_SECONDS, lambda: doubts.append(loop.create_task(self._doubt())))
        try:
            return await super().wait(gen, interval)
        finally:
            timer.cancel()
            for doubt in doubts:
                doubt.cancel()

    async def introduce(self) -> None:
        """Finds out whether the server can be asked about this session; to be called once, while the connection is new."""
        cursor = await self.execute("SELECT FROM pg_stat_activity WHERE pid = %(pid)s", {"pid": self.info.backend_pid})
        self.is_listed = await cursor.fetchone() is not None

    async def check(self) -> None:
        """Asks for nothing; raises when even that is not answered soon. For a pool, before it hands the connection out."""
        timer = asyncio.get_running_loop().call_later(ASK_SECONDS, self._cut)
        try:
            await self.execute("")
        finally:
            timer.cancel()

    async def _doubt(self) -> None:
        bad_answers = 0
        while True:
            bad_answers = bad_answers + 1 if await self._is_forgotten() else 0
            if bad_answers == BAD_ANSWERS:
                return self._cut()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _is_forgotten(self) -> bool:
        """Whether the server, asked on another connection, does nothing for this one; also when nobody answers there."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await self._ask()
        except TimeoutError:
            return True

    async def _ask(self) -> bool:
        url: dict[str, Any] = {**self.info.get_parameters(), "password": self.info.password}
        # of several servers in it, the one that this connection goes to
        url |= {"host": self.info.host, "hostaddr": self.info.hostaddr, "port": self.info.port}
        try:
            async with await AsyncConnection.connect(**url, autocommit=True) as other:
                return self.is_listed and self._has_been_heard() and not await self._is_served(other)
        except psycopg.Error:
            return not await self._is_there()

    async def _is_there(self) -> bool:
        """Whether anybody listens where the server was: one that lets nobody in, because it is full, is there all the same."""
        if not self.info.hostaddr:
            # on a local socket the end of the server is the end of the connection
            return True
        try:
            _, line = await asyncio.open_connection(self.info.hostaddr, self.info.port)
        except OSError:
            return False
        line.close()
        return True

    def _has_been_heard(self) -> bool:
        """Whether all that was sent has been acknowledged. Where it has not, the line may just be slow."""
        try:
            unsent = fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            # not every system tells it
            return True
        return not any(unsent)

    async def _is_served(self, other: AsyncConnection[TupleRow]) -> bool:
        cursor = await other.execute(
            """
            SELECT
            FROM pg_stat_activity
            WHERE pid = %(pid)s AND wait_event_type IS DISTINCT FROM 'Client'
            """,
            {"pid": self.info.backend_pid},
        )
        return await cursor.fetchone() is not None

    def _cut(self) -> None:
        """Ends the connection from below: whoever waits on it is told that the server has closed it."""
        if not self.closed:
            with socket.socket(fileno=os.dup(self.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)


async def end_silent_copies(conn: AsyncConnection[TupleRow]) -> int:
    """Ends the sessions of ours whose client has stopped in mid-COPY, and holds its locks; how many.

    `statement_timeout` asks such a COPY to end, and PostgreSQL does not look before it has read more.
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
