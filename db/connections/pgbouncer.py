"""Connections through a pooler in transaction mode, which may give each transaction to another session of the server.

So nothing may be left in a session or expected there: nothing is prepared, nobody listens, and the limits that a session has
otherwise are set anew in each transaction. A statement outside of one has none, and holds no lock for longer than it runs.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from psycopg import AsyncConnection, AsyncTransaction
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed, Identifier

from db.connections.liveness import Doubting
from db.connections.monitored import Watched


class Pooled(AsyncConnection[TupleRow]):
    """A connection whose transactions have limits, as soon as `limit` was called."""

    limits: Composed | None = None

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[AsyncTransaction]:
        """As psycopg's. The limits take no snapshot, so that the isolation level may still be chosen after them."""
        is_outermost = self.info.transaction_status == TransactionStatus.IDLE
        async with super().transaction(savepoint_name, force_rollback) as transaction:
            if is_outermost and self.limits is not None:
                await self.execute(self.limits)
            yield transaction

    async def limit(self, session: Mapping[str, str]) -> None:
        """Gives each transaction from now on those settings of `session` that the server has; to be called once."""
        self.prepare_threshold = None
        # the one setting that a pooler carries from session to session for us, since the server reports it
        await self.execute("SET TimeZone = 'UTC'")
        cursor = await self.execute(
            "SELECT name FROM pg_settings WHERE name = ANY(%(names)s) AND name <> 'TimeZone'", {"names": list(session)}
        )
        names = [name for (name,) in await cursor.fetchall()]
        # one round trip: statements without parameters may be sent together
        self.limits = SQL("; ").join(SQL("SET LOCAL {} = {}").format(Identifier(name), session[name]) for name in names)


class PooledDoubting(Pooled, Doubting):
    """One connection outside of any pool of ours."""


class PooledWatched(Pooled, Watched):
    """A connection of such a pool."""
