"""Connections: how to connect, and the settings and time limits of each session."""

from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeAlias, TypeVar

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from db.connections.liveness import REPLY_SECONDS, WatchdogConnection
from db.connections.monitored import ConnectionMonitor, MonitoredConnection, MonitoredPool
from db.connections.pgbouncer import PgBouncerConnection
from db.errors import ConnectionLost
from db.settings import Settings, SettingsError

Connection: TypeAlias = AsyncConnection[TupleRow]
Pool: TypeAlias = MonitoredPool
T = TypeVar("T")

CONNECT_SECONDS = 5
# for each of several servers: one that has vanished must not delay the next
CONNECT_SECONDS_OF_SEVERAL = 2

# The client's side of the line. tcp_user_timeout: a server that has vanished with data on the way is noticed before another one
# becomes the primary. It also ends a COPY that the server does not read, so it is longer than the server waits for a lock.
LINE: dict[str, Any] = {
    "tcp_user_timeout": 15_000,
    "client_encoding": "UTF8",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}

# The first five: whatever the server, the database or the role has as its default, the service needs these. The others: a lock
# must not outlive its worker. Keepalives alone do not free the lock of a partitioned machine. tcp_user_timeout ends a connection
# whose data is not acknowledged, client_connection_check_interval notices a client that has left during a statement,
# idle_in_transaction_session_timeout ends the session of one that has stopped between two statements.
SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "standard_conforming_strings": "on",
    "default_transaction_isolation": "read committed",
    # compiling a statement takes longer than executing it: the planner's estimates for small jobs exceed its thresholds
    "jit": "off",
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
    """DATABASE_URL. Raises `SettingsError` when it is not set."""
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL: is not set; `make run` starts a PostgreSQL of its own and sets it")
    return settings.database_url


async def connect(settings: Settings, *, name: str) -> Connection:
    """One connection outside of any pool, in autocommit: a transaction is always a block."""
    kind = PgBouncerConnection if settings.database_pooler == "transaction" else MonitoredConnection
    url = conninfo(settings)
    conn = await kind.connect(
        url, autocommit=True, application_name=name, connect_timeout=_connect_seconds(url), **LINE
    )
    await configure(conn, statement_seconds=settings.statement_seconds)
    return conn


def is_local(conn: Connection, settings: Settings) -> bool:
    """Whether the server runs on this machine. False if that is unknown, because a pooler is in between."""
    address = conn.info.hostaddr
    # of a Unix-domain socket there is none
    return settings.database_pooler == "none" and (not address or ip_address(address).is_loopback)


def create(settings: Settings, *, name: str, monitor: ConnectionMonitor) -> Pool:
    """The pool of an API process, not yet open."""
    return _pool(conninfo(settings), settings, name=name, monitor=monitor, size_min=1, size_max=settings.api_pool_size)


def create_for_streams(settings: Settings, *, name: str, monitor: ConnectionMonitor) -> Pool:
    """A pool of its own for streaming exports, so that slow readers cannot use up the connections of other requests."""
    return _pool(conninfo(settings), settings, name=name, monitor=monitor, size_min=0, size_max=settings.streams_max)


def create_standby(settings: Settings, *, name: str, monitor: ConnectionMonitor) -> Pool | None:
    """The pool for streaming exports from the hot standby; None if there is no standby."""
    url = settings.database_replica_url
    if url is None:
        return None
    return _pool(url, settings, name=name, monitor=monitor, size_min=0, size_max=settings.streams_max)


def _pool(url: str, settings: Settings, *, name: str, monitor: ConnectionMonitor, size_min: int, size_max: int) -> Pool:
    return MonitoredPool(
        url,
        monitor=monitor,
        connection_class=PgBouncerConnection if settings.database_pooler == "transaction" else MonitoredConnection,
        kwargs={"autocommit": True, "application_name": name, "connect_timeout": _connect_seconds(url), **LINE},
        configure=partial(configure, statement_seconds=settings.statement_seconds),
        min_size=size_min,
        max_size=size_max,
        timeout=CONNECT_SECONDS,
        # The pool stops trying soon, and the next request makes it try again: its own growing delays would prolong an outage.
        reconnect_timeout=3,
        open=False,
    )


async def repeatable(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Executes `work`, which only reads or may be repeated, and once more on another connection if the connection is lost."""
    try:
        async with pool.connection(may_be_lost=True) as conn:
            return await work(conn)
    except ConnectionLost:
        async with pool.connection() as conn:
            return await work(conn)


async def in_transaction(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """As `repeatable`, in a transaction.

    The first transaction may have been committed, so `work` must recognise what it has stored.
    """

    async def transaction(conn: Connection) -> T:
        async with conn.transaction():
            return await work(conn)

    return await repeatable(pool, transaction)


def _connect_seconds(url: str) -> int:
    """The time limit of a connection attempt to one server."""
    return CONNECT_SECONDS_OF_SEVERAL if "," in str(conninfo_to_dict(url).get("host", "")) else CONNECT_SECONDS


async def configure(conn: Connection, *, statement_seconds: float = 60.0) -> None:
    """Applies SESSION as far as the server has these settings: to the session, or through PgBouncer to each transaction.

    By SET and not by start-up options, which PgBouncer refuses.
    """
    if isinstance(conn, WatchdogConnection):
        # first, so that it holds for what follows
        conn.deadline_seconds = statement_seconds + REPLY_SECONDS
    session = {**SESSION, "statement_timeout": str(round(statement_seconds * 1000))}
    if isinstance(conn, PgBouncerConnection):
        await conn.limit_transactions(session)
    else:
        await conn.execute(
            """
            SELECT set_config(name, wanted.setting, false)
            FROM unnest(%(names)s::text[], %(settings)s::text[]) AS wanted (name, setting)
            JOIN pg_settings USING (name)
            """,
            {"names": list(session), "settings": list(session.values())},
        )
