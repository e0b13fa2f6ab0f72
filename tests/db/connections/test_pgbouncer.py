"""Connections through PgBouncer in transaction mode."""

import asyncio

import pytest
from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier

from db import health, migrate
from db.connections import pool
from db.connections.pgbouncer import AT_BEGIN, CARRIED
from db.errors import UnsupportedDatabase
from tests.support import pgbouncer
from tests.support.factories import rows

pytestmark = [
    pytest.mark.needs("pgbouncer"),
    pytest.mark.processes,
    pytest.mark.parametrize("bouncer", ["pgbouncer"], indirect=True),
]


async def test_transactions_share_sessions(conn, other):
    """In transaction mode another client can use a client's session between two of its transactions."""
    [(first,)] = await rows(conn, "SELECT pg_backend_pid()")
    async with other.transaction():
        assert await rows(other, "SELECT pg_backend_pid()") == [(first,)]
        assert await rows(conn, "SELECT pg_backend_pid()") != [(first,)]


async def test_nothing_is_prepared(conn, other):
    """No statement is prepared, however often it is repeated: in a shared session the names of clients would collide."""
    for connection in (conn, other):
        for _ in range(10):
            assert await rows(connection, "SELECT count(*) FROM pg_prepared_statements") == [(0,)]


async def test_a_session_has_its_limits(conn, database_url):
    """Each transaction sets every limit that the server has, and leaves none in the session; times are UTC in any session."""
    names = sorted(pool.SESSION.keys() - {*CARRIED, AT_BEGIN} - ({"transaction_timeout"} if is_old(conn) else set()))
    set_here = "SELECT name, setting FROM pg_settings WHERE name = ANY(%(names)s) AND source = 'session' ORDER BY name"
    async with conn.transaction():
        assert await rows(conn, set_here, names=names) == [(name, pool.SESSION[name]) for name in names]
        async with conn.transaction():
            await conn.execute("SELECT 1")
    assert await rows(conn, set_here, names=names) == []
    [(pid,)] = await rows(conn, "SELECT pg_backend_pid()")
    async with await AsyncConnection.connect(database_url, autocommit=True) as direct:
        await direct.execute("SELECT pg_terminate_backend(%(pid)s, 5000)", {"pid": pid})
    assert await rows(conn, "SHOW TimeZone") == [("UTC",)]
    assert await rows(conn, "SELECT pg_backend_pid()") != [(pid,)]


async def test_single_statements_have_the_settings_that_pgbouncer_carries(bouncer, database_url):
    """The formats of times and texts are set in any session; the isolation level only in transactions, so it is checked."""
    async with await AsyncConnection.connect(database_url, autocommit=True) as direct:
        for setting in (
            "DateStyle = 'German'",
            "TimeZone = 'Asia/Tokyo'",
            "default_transaction_isolation = 'serializable'",
        ):
            name = Identifier(direct.info.dbname)
            await direct.execute(SQL("ALTER DATABASE {} SET ").format(name) + SQL(setting))
    async with await pgbouncer.connected(bouncer.url(database_url), "pinned") as conn:
        assert await rows(conn, "SHOW DateStyle") == [("ISO, MDY",)]
        assert await rows(conn, "SHOW TimeZone") == [("UTC",)]
        assert await rows(conn, "SHOW standard_conforming_strings") == [("on",)]
        assert await rows(conn, "SHOW transaction_isolation") == [("serializable",)]
        async with conn.transaction():
            assert await rows(conn, "SHOW transaction_isolation") == [("read committed",)]
        with pytest.raises(UnsupportedDatabase, match="isolation is 'serializable'; behind a pooler it must be"):
            await health.require_supported(conn)


def is_old(conn: AsyncConnection) -> bool:
    return conn.info.server_version < 170000


async def test_migrations_pass_through(bouncer, empty_database_url):
    """Of two concurrent migrators one applies the migrations; a rollback works too; no lock remains in the pooler's sessions."""
    url = bouncer.url(empty_database_url)
    both = await asyncio.gather(*(asyncio.to_thread(migrate.up, url) for _ in range(2)))
    assert sorted(map(len, both)) == [0, len(list(migrate.FOLDER.glob("*.rollback.sql")))]
    assert migrate.down(url)
    assert migrate.up(url)
    async with await AsyncConnection.connect(empty_database_url, autocommit=True) as direct:
        held = """
            SELECT count(*)
            FROM pg_locks
            JOIN pg_database ON pg_database.oid = pg_locks.database
            WHERE locktype = 'advisory' AND datname = current_database()
        """
        assert await rows(direct, held) == [(0,)]
