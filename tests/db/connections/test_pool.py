"""The pool after a restart of the server, and the settings of sessions."""

import asyncio
import socket
import time
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

from db import health, migrate
from db.connections import pool
from db.errors import UnsupportedDatabase
from db.settings import Settings, SettingsError
from monitoring.outage import Outage
from tests.support import pgbouncer
from tests.support.factories import rows


async def test_a_restart_costs_the_first_request_one_attempt(conn, database_url):
    """After a restart of the server, the first check that fails replaces all idle connections at once."""
    size = 8
    pool_of_api = pool.create(
        Settings(database_url=database_url, api_pool_size=size), name="restarted", monitor=Outage()
    )
    async with pool_of_api:
        async with asyncio.TaskGroup() as group:
            taken = asyncio.Barrier(size)
            for _ in range(size):
                group.create_task(hold(pool_of_api, taken))
        assert await rows(conn, END_SESSIONS) == [(size,)]
        async with pool_of_api.connection() as connection:
            await connection.execute("SELECT 1")
        assert pool_of_api.get_stats()["connections_lost"] == 1


async def test_repeatable_work_finds_out_itself_that_a_recent_connection_is_lost(conn, database_url):
    """It is not checked first, and the work is repeated on one that is. Connections for other work are checked always."""
    pool_of_api = pool.create(Settings(database_url=database_url, api_pool_size=1), name="restarted", monitor=Outage())
    pids = []

    async def work(connection: pool.Connection) -> object:
        pids.append(connection.info.backend_pid)
        return await (await connection.execute("SELECT 1")).fetchone()

    async with pool_of_api:
        for kept in (False, True):
            await pool.repeatable(pool_of_api, work)
            if kept:
                await rows(conn, END_SESSIONS)
                # the clock does not advance between the use and the next: the connection is recent
                for connection in pool_of_api._pool:
                    connection.used_at = time.monotonic() + 3600
            assert await pool.repeatable(pool_of_api, work) == (1,)
        first, second, third, fourth, fifth = pids
        assert first == second == third == fourth != fifth
        await rows(conn, END_SESSIONS)
        async with pool_of_api.connection() as connection:
            await connection.execute("SELECT 1")


END_SESSIONS = """
    SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 5000))
    FROM pg_stat_activity
    WHERE application_name = 'restarted'
"""


async def hold(pool_of_api: pool.Pool, taken: asyncio.Barrier) -> None:
    async with pool_of_api.connection():
        await taken.wait()


@pytest.mark.timing
async def test_a_server_that_has_vanished_does_not_delay_the_next(database_url):
    """Of several servers in the URL, one that does not respond is skipped after 2 s."""
    known = conninfo_to_dict(database_url)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        several = make_conninfo(
            database_url, host=f"127.0.0.1,{known['host']}", port=f"{silent.getsockname()[1]},{known['port']}"
        )
        conn = await asyncio.wait_for(pool.connect(Settings(database_url=several), name="patient"), 4)
        async with conn:
            assert conn.info.port == int(str(known["port"]))


@pytest.fixture
def unusual_url(empty_database_url) -> str:
    """A database whose defaults differ from PostgreSQL's."""
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        name = Identifier(conn.info.dbname)
        for setting in (
            "DateStyle = 'German'",
            "TimeZone = 'Asia/Tokyo'",
            "default_transaction_isolation = 'serializable'",
            "standard_conforming_strings = off",
            "jit = on",
            "client_encoding = 'LATIN1'",
        ):
            conn.execute(SQL("ALTER DATABASE {} SET ").format(name) + SQL(setting))
    return empty_database_url


async def test_defaults_of_the_database_do_not_matter(unusual_url, monkeypatch):
    """The settings that the service depends on are set in its own sessions."""
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    await asyncio.to_thread(migrate.up, unusual_url)
    async with await pool.connect(Settings(database_url=unusual_url), name="pinned") as conn:
        [(moment, text)] = await rows(conn, "SELECT timestamptz '2024-02-01 00:00:00+00', %(text)s", text="żółw \\ '")
        assert (moment, text) == (datetime(2024, 2, 1, tzinfo=UTC), "żółw \\ '")
        assert await rows(conn, "SHOW jit") == [("off",)]
        async with conn.transaction():
            assert await rows(conn, "SHOW transaction_isolation") == [("read committed",)]


@pytest.fixture
def ascii_url(server_url):
    name = Identifier("not_utf8")
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(
            SQL("CREATE DATABASE {} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'").format(name)
        )
        yield psycopg.conninfo.make_conninfo(server_url, dbname="not_utf8")
        conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(name))


async def test_an_encoding_other_than_utf8_is_refused(ascii_url):
    """Migrations, workers and probes refuse the database and name its encoding."""
    with pytest.raises(migrate.MigrateError, match="encoding SQL_ASCII; it must be created with ENCODING 'UTF8'"):
        await asyncio.to_thread(migrate.up, ascii_url)
    async with await pool.connect(Settings(database_url=ascii_url), name="refused") as conn:
        with pytest.raises(UnsupportedDatabase, match="SQL_ASCII"):
            await health.require_supported(conn)


@pytest.mark.needs("pgbouncer")
@pytest.mark.processes
async def test_statement_mode_is_refused(server_url, empty_database_url):
    """Migrations and sessions, of either kind, say which mode the pooler must have."""
    reason = "the pooler is in statement mode, which has no transactions; it must be in transaction or session mode"
    with pgbouncer.prepared(server_url, pool_mode="statement") as refused:
        await refused.start()
        url = refused.url(empty_database_url)
        with pytest.raises(migrate.MigrateError, match=reason):
            await asyncio.to_thread(migrate.up, url)
        for kind in ("none", "transaction"):
            async with await pool.connect(Settings(database_url=url, database_pooler=kind), name="refused") as conn:
                with pytest.raises(UnsupportedDatabase, match=reason):
                    await health.require_supported(conn)


async def test_a_read_only_database_is_not_migrated(empty_database_url):
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(
            SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(Identifier(conn.info.dbname))
        )
    with pytest.raises(migrate.MigrateError, match=r"does not accept writes: .*default_transaction_read_only"):
        await asyncio.to_thread(migrate.up, empty_database_url)


async def test_without_a_url_the_error_is_one_sentence():
    """The service does not look for the embedded server."""
    with pytest.raises(SettingsError, match="DATABASE_URL: is not set"):
        await pool.connect(Settings(), name="lost")


async def test_a_session_has_its_limits(conn):
    """Every limit of a session is set, except those that the server does not have."""
    set_here = dict(
        await rows(
            conn,
            "SELECT name, setting FROM pg_settings WHERE name = ANY(%(names)s) AND source = 'session'",
            names=list(pool.SESSION),
        )
    )
    missing = {"transaction_timeout"} if conn.info.server_version < 170000 else set()
    # a Unix socket has none of these
    if not conn.info.host or conn.info.host.startswith("/"):
        missing |= {name for name in pool.SESSION if name.startswith("tcp_")}
    assert set_here.keys() == pool.SESSION.keys() - missing
    assert set_here == {name: setting for name, setting in pool.SESSION.items() if name not in missing}
