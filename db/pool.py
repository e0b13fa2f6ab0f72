"""Connections: where to, and how long the server puts up with a session whose client has gone silent."""

from typing import TypeAlias

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from db import embedded
from db.settings import Settings

Connection: TypeAlias = AsyncConnection[TupleRow]
Pool: TypeAlias = AsyncConnectionPool[Connection]

CONNECT_SECONDS = 5

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
    conn = await AsyncConnection.connect(
        conninfo(settings), autocommit=True, application_name=name, connect_timeout=CONNECT_SECONDS
    )
    await configure(conn)
    return conn


def create(settings: Settings, *, name: str) -> Pool:
    """The pool of an API process, not yet open."""
    return _pool(conninfo(settings), settings, name=name)


def create_standby(settings: Settings, *, name: str) -> Pool | None:
    """A second one of the same size, to the hot standby; None when there is none."""
    url = settings.database_replica_url
    return None if url is None else _pool(url, settings, name=name)


def _pool(url: str, settings: Settings, *, name: str) -> Pool:
    return AsyncConnectionPool(
        url,
        kwargs={"autocommit": True, "application_name": name, "connect_timeout": CONNECT_SECONDS},
        configure=configure,
        check=AsyncConnectionPool.check_connection,
        min_size=1,
        max_size=settings.api_pool_size,
        timeout=CONNECT_SECONDS,
        # the pool gives up at once and is asked again by the next request: its own doubling delays would add to an outage
        reconnect_timeout=3,
        open=False,
    )


async def configure(conn: Connection) -> None:
    """Sets the session's limits. By SET, not by start-up options, which PgBouncer refuses; only those that the server has."""
    await conn.execute(
        """
        SELECT set_config(name, wanted.setting, false)
        FROM unnest(%(names)s::text[], %(settings)s::text[]) AS wanted (name, setting)
        JOIN pg_settings USING (name)
        """,
        {"names": list(SESSION), "settings": list(SESSION.values())},
    )
