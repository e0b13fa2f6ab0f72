"""Exports that several sessions read in one snapshot."""

import asyncio
from contextlib import aclosing, asynccontextmanager

import pytest
from psycopg import Rollback

from db.connections import liveness
from db.errors import UNAVAILABLE
from db.exports import claimed, copy_out, output, parallel
from db.exports.filters import select
from db.resources.users import USERS
from db.settings import Settings
from tests.support.eventually import eventually
from tests.support.exports import many_users
from tests.support.service import unused_port

THROUGH_PGBOUNCER = True
COUNT = parallel.RECORDS_MIN
ALL = select(USERS, filters={})
READERS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'bulk export reader'"


def settings_of(database_url, bouncer=None, **others):
    pooler = {} if bouncer is None else {"database_url": bouncer.url(database_url), "database_pooler": "transaction"}
    return Settings(**{"database_url": database_url, "export_sessions": 3} | pooler | others)


@asynccontextmanager
async def opened(conn, settings, selection=ALL, total=COUNT, meanwhile=()):
    """The sessions of an export, in a transaction that is rolled back. `meanwhile` are statements of another session."""
    async with conn.transaction():
        await claimed.use_repeatable_read(conn)
        await liveness.begin_long_read(conn, client_timeout_seconds=60)
        for session, statement in meanwhile:
            await session.execute(statement)
        async with parallel.sessions(conn, selection, settings, total=total, client_timeout_seconds=60) as conns:
            yield conns
        raise Rollback


async def value(conn, query):
    return (await (await conn.execute(query)).fetchone())[0]


async def test_the_bytes_are_those_of_one_session(conn, other, database_url, bouncer):
    """In each format, with a byte order mark too; none of them sees what is committed after the snapshot of the first."""
    await many_users(conn, COUNT)
    meanwhile = [
        (other, "UPDATE users SET name = 'later' WHERE id < '80000000-0000-0000-0000-000000000000'"),
        (other, "DELETE FROM users WHERE id > '80000000-0000-0000-0000-000000000000'"),
    ]
    async with opened(conn, settings_of(database_url, bouncer), meanwhile=meanwhile) as conns:
        for format in ("csv", "ndjson", "json"):
            one = [block async for block in copy_out.blocks(conn, USERS, format, ALL)]
            several = [block async for block in output.blocks(conns, USERS, format, ALL, bom=format == "csv")]
            data = b"".join(block.data for block in several)
            assert data.removeprefix("\ufeff".encode()) == b"".join(block.data for block in one)
            assert data.startswith("\ufeff".encode()) == (format == "csv")
            assert sum(block.records for block in several) == COUNT
        if bouncer is None:
            assert await value(other, f"SELECT count(*) {READERS} AND query LIKE 'COPY %%'") == 2


async def test_small_and_filtered_exports_have_one_session(conn, database_url):
    """Another session is not worth it, or would evaluate the filter for each range."""
    settings = settings_of(database_url)
    async with opened(conn, settings, total=COUNT - 1) as conns:
        assert conns == [conn]
    async with opened(conn, settings, select(USERS, filters={"role": "reader"})) as conns:
        assert conns == [conn]
    async with opened(conn, settings, select(USERS, filters={}, limit=COUNT)) as conns:
        assert conns == [conn]
    since = f"{'0' * 12}-1"
    async with opened(conn, settings, select(USERS, filters={}, changed_since=since)) as conns:
        assert conns == [conn]
    async with opened(conn, settings_of(database_url, export_sessions=1)) as conns:
        assert conns == [conn]


async def test_an_export_needs_no_further_session(conn):
    """If PostgreSQL accepts no other connection, the first session reads all."""
    settings = settings_of(f"postgresql://127.0.0.1:{unused_port()}/closed")
    async with opened(conn, settings) as conns:
        assert conns == [conn]


async def test_the_end_of_a_session_is_an_error(conn, other, database_url):
    """An export that lacks the records of a session must not look complete."""
    await many_users(conn, COUNT)
    with pytest.raises(UNAVAILABLE):
        async with (
            opened(conn, settings_of(database_url)) as conns,
            aclosing(parallel.blocks(conns, USERS, "ndjson", ALL)) as blocks,
        ):
            await anext(blocks)
            await other.execute(f"SELECT pg_terminate_backend(pid) {READERS}")
            async for _ in blocks:
                pass


async def test_an_export_that_is_stopped(conn, other, database_url):
    """The further sessions end, and the first can be used again."""
    await many_users(conn, COUNT)
    async with (
        opened(conn, settings_of(database_url)) as conns,
        aclosing(parallel.blocks(conns, USERS, "ndjson", ALL)) as blocks,
    ):
        await anext(blocks)
    assert await value(conn, "SELECT 1") == 1
    await eventually(lambda: no_readers(other))


@pytest.mark.parametrize("turns", range(8))
async def test_a_copy_that_is_cancelled(conn, turns):
    """After a cancellation at any time, also while the COPY starts, the connection can be used again."""
    async with opened(conn, settings_of("unused", export_sessions=1)):
        reading = asyncio.create_task(anext(copy_out.blocks(conn, USERS, "ndjson", ALL)))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    assert await value(conn, "SELECT 1") == 1


async def no_readers(conn):
    return await value(conn, f"SELECT count(*) {READERS}") == 0


async def test_ranges_of_ids(conn, database_url):
    """The ranges follow each other, the first and the last are open, and no range has far more records than the others."""
    await many_users(conn, COUNT)
    async with opened(conn, settings_of(database_url)) as conns:
        parts = await parallel.parts(conns[0], USERS, ALL)
        assert len(parts) >= 3
        assert [selection.after for selection, _ in parts] == [None, *(selection.up_to for selection, _ in parts[:-1])]
        counts = [await copy_out.count(conn, USERS, selection) for selection, _ in parts]
        assert sum(counts) == COUNT
        assert max(counts) < 3 * parallel.RANGE_RECORDS
