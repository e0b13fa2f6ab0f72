"""Connections: where to, and how long the server puts up with a session whose client has gone silent."""

from typing import Any, TypeAlias

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from db import embedded
from db.connections.liveness import Doubting
from db.connections.monitored import Watch, Watched, WatchedPool
from db.connections.pgbouncer import Pooled, PooledDoubting, PooledWatched
from db.settings import Settings

Connection: TypeAlias = AsyncConnection[TupleRow]
Pool: TypeAlias = AsyncConnectionPool[Doubting]

CONNECT_SECONDS = 5

# The client's side of the line. No tcp_user_timeout here: it would also end a COPY whose reader waits for a lock.
LINE: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}

# A lock must not outlive its worker. Keepalives alone do not free the lock of a partitioned machine: what is sent and never
# acknowledged is ended by tcp_user_timeout, a client that left in mid-statement is noticed by client_connection_check_interval,
# one that stopped between two statements by idle_in_transaction_session_timeout.
SESSION = {
    "TimeZone": "UTC",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "5000",
    "client_connection_check_interval": "2000",
    "idle_in_transaction_session_timeout": "6000",
    "statement_timeout": "60000",
    "lock_timeout": "10000",
    "transaction_timeout": "300000",
}


def conninfo(settings: Settings) -> str:
    """The URL of the database: DATABASE_URL, or the embedded server's. Raises `embedded.NotRunning`."""
    return settings.database_url or embedded.url(settings.data_path)


async def connect(settings: Settings, *, name: str) -> Connection:
    """One connection outside of any pool, in autocommit: a transaction is always a block."""
    kind = PooledDoubting if settings.database_pooler == "transaction" else Doubting
    conn = await kind.connect(conninfo(settings), autocommit=True, application_name=name, **LINE)
    await configure(conn)
    return conn


def create(settings: Settings, *, name: str, watch: Watch) -> Pool:
    """The pool of an API process, not yet open."""
    return _pool(conninfo(settings), settings, name=name, watch=watch, size_min=1, size_max=settings.api_pool_size)


def create_for_streams(settings: Settings, *, name: str, watch: Watch) -> Pool:
    """A pool of its own for streaming exports, so that slow readers cannot use up the connections of other requests."""
    return _pool(conninfo(settings), settings, name=name, watch=watch, size_min=0, size_max=settings.streams_max)


def create_standby(settings: Settings, *, name: str, watch: Watch) -> Pool | None:
    """The pool for streaming exports from the hot standby; None if there is no standby."""
    url = settings.database_replica_url
    if url is None:
        return None
    return _pool(url, settings, name=name, watch=watch, size_min=0, size_max=settings.streams_max)


def _pool(url: str, settings: Settings, *, name: str, watch: Watch, size_min: int, size_max: int) -> Pool:
    pool = WatchedPool(
        url,
        connection_class=PooledWatched if settings.database_pooler == "transaction" else Watched,
        kwargs={"autocommit": True, "application_name": name, "watch": watch, **LINE},
        configure=configure,
        check=Doubting.check,
        min_size=size_min,
        max_size=size_max,
        timeout=CONNECT_SECONDS,
        # the pool gives up at once and is asked again by the next request: its own doubling delays would add to an outage
        reconnect_timeout=3,
        open=False,
    )
    pool.watch = watch
    return pool


async def configure(conn: Connection) -> None:
    """Sets the session's limits, only those that the server has; of a connection that has no session, those of its transactions.

    By SET, not by start-up options, which PgBouncer refuses.
    """
    if isinstance(conn, Pooled):
        await conn.limit(SESSION)
    else:
        await conn.execute(
            """
            SELECT set_config(name, wanted.setting, false)
            FROM unnest(%(names)s::text[], %(settings)s::text[]) AS wanted (name, setting)
            JOIN pg_settings USING (name)
            """,
            {"names": list(SESSION), "settings": list(SESSION.values())},
        )
    if isinstance(conn, Doubting):
        await conn.introduce()
