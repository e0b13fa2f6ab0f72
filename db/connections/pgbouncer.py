"""Connections through PgBouncer in transaction mode, which may run each transaction in another session of the server.

So no state may be left in a session or expected there: no prepared statements, no LISTEN, and the settings of a session are set
again in each transaction. A statement outside of a transaction has no time limits, and holds no lock longer than it runs.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection, AsyncTransaction, IsolationLevel
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Composed, Identifier

from db.connections.monitored import MonitoredConnection

# The server reports these to its client, so PgBouncer sets them again in each session that it assigns.
CARRIED = ("TimeZone", "DateStyle", "standard_conforming_strings")
# has no effect within a transaction; BEGIN names the level
AT_BEGIN = "default_transaction_isolation"


@asynccontextmanager
async def time_limits(conn: AsyncConnection[Any]) -> AsyncIterator[None]:
    """A block for one statement that is a transaction of its own, so that it has the time limits of a session.

    Elsewhere it has them anyway. Through PgBouncer the block is a transaction that is sent in one exchange, and its results can
    be fetched after it.
    """
    if not isinstance(conn, PgBouncerConnection):
        yield
        return
    async with conn.pipeline(), conn.transaction():
        yield


class PgBouncerConnection(MonitoredConnection):
    """A connection that applies `settings` in each transaction, after `limit_transactions` was called."""

    settings: tuple[Composed, ...] = ()

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[AsyncTransaction]:
        """psycopg's. SET LOCAL takes no snapshot, so that the isolation level may still be changed in the block."""
        is_outermost = self.info.transaction_status == TransactionStatus.IDLE
        async with super().transaction(savepoint_name, force_rollback) as transaction:
            if is_outermost:
                await self._apply()
            yield transaction

    async def limit_transactions(self, session: Mapping[str, str]) -> None:
        """Applies those settings of `session` that the server has to each transaction from now on. To be called once."""
        self.prepare_threshold = None
        await self.set_isolation_level(IsolationLevel.READ_COMMITTED)
        for name in CARRIED:
            await self.execute(SQL("SET {} = {}").format(Identifier(name), session[name]))
        names = [name for name in session if name not in CARRIED and name != AT_BEGIN]
        cursor = await self.execute("SELECT name FROM pg_settings WHERE name = ANY(%(names)s)", {"names": names})
        self.settings = tuple(
            SQL("SET LOCAL {} = {}").format(Identifier(name), session[name]) for (name,) in await cursor.fetchall()
        )

    async def _apply(self) -> None:
        if self.pgconn.pipeline_status:
            # a pipeline sends all of them in one round trip anyway, and does not accept several statements in one string
            for setting in self.settings:
                await self.execute(setting)
        elif self.settings:
            await self.execute(SQL("; ").join(self.settings))
