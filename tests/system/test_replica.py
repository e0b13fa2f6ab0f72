"""Streaming exports from a hot standby, a real one: also when its recovery cancels them, before their first byte and after."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from db import migrate
from db.connections.pool import Connection
from db.errors import READ_ONLY
from db.exports import watermarks
from tests.support import postgres
from tests.support.eventually import PATIENCE_SECONDS, broken_off, eventually
from tests.support.exports import SEVERAL, STALLED, STREAM, many_articles, resume, stall
from tests.support.service import running_service
from tests.support.standby import replayed, started

# the recovery does not wait for queries, and the primary starts nothing by itself that would affect a test
OPTIONS = postgres.FAST | {"max_standby_streaming_delay": "0", "hot_standby_feedback": "off", "autovacuum": "off"}

AUTHOR = "INSERT INTO users (email, name, role, active) VALUES (%(email)s, 'A', 'author', true)"


@dataclass(frozen=True)
class Pair:
    """The same database on a primary and on its standby."""

    primary: str
    standby: str


@pytest.fixture(scope="module")
def cluster() -> Iterator[Pair]:
    """A server and its standby."""
    with started(OPTIONS) as (primary, standby):
        yield Pair(primary.url, standby.url)


@pytest.fixture
def pair(cluster: Pair) -> Iterator[Pair]:
    name = postgres.create_database(cluster.primary)
    pair = Pair(postgres.database_url(cluster.primary, name), postgres.database_url(cluster.standby, name))
    migrate.up(pair.primary)
    yield pair
    postgres.drop_database(cluster.primary, name)


@pytest.fixture
async def primary(pair: Pair) -> AsyncIterator[Connection]:
    async with _connection(pair.primary) as connection:
        yield connection


@pytest.fixture
async def standby(pair: Pair, primary: Connection) -> AsyncIterator[Connection]:
    async def is_there() -> bool:
        try:
            (await psycopg.AsyncConnection.connect(pair.standby)).pgconn.finish()
        except psycopg.OperationalError:
            return False
        return True

    await eventually(is_there)
    async with _connection(pair.standby) as connection:
        await replayed(primary, connection)
        yield connection


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def client(pair: Pair, standby: Connection, tmp_path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that has the standby."""
    del standby
    async with (
        running_service(tmp_path, pair.primary, run=["api"], database_replica_url=pair.standby) as service,
        httpx.AsyncClient(
            base_url=service.url, timeout=PATIENCE_SECONDS, headers={"Accept-Encoding": "identity"}
        ) as connected,
    ):
        yield connected


async def cancelled(standby: Connection, kind: str) -> None:
    """Waits until the standby reports that its recovery has cancelled one query for this reason."""

    async def is_reported():
        cursor = await standby.execute(
            """
            SELECT to_jsonb(conflicts) -> %(kind)s
            FROM pg_stat_database_conflicts AS conflicts
            WHERE datname = current_database()
            """,
            {"kind": f"confl_{kind}"},
        )
        [count] = await cursor.fetchone()
        return count >= 1

    await eventually(is_reported)


async def test_streams_are_read_from_the_standby(client, primary, standby):
    """Rows that the standby has not replayed yet are not exported, as X-Snapshot-At shows. Jobs are on the primary."""
    await primary.execute(AUTHOR, {"email": "before@example.com"})
    await replayed(primary, standby)
    await standby.execute("SELECT pg_wal_replay_pause()")
    try:
        [before] = await (await primary.execute("SELECT clock_timestamp()")).fetchone() or ()
        await primary.execute(AUTHOR, {"email": "after@example.com"})
        stream = await client.get(STREAM.format("users"))
        assert stream.text.count("\n") == 1
        assert datetime.fromisoformat(stream.headers["x-snapshot-at"]) < before
        assert (await client.post("/api/v1/exports", json={"resource": "users"})).status_code == 202
    finally:
        await standby.execute("SELECT pg_wal_replay_resume()")
    await replayed(primary, standby)
    stream = await client.get(STREAM.format("users"))
    assert stream.text.count("\n") == 2
    assert datetime.fromisoformat(stream.headers["x-snapshot-at"]) > before


async def test_a_stream_that_the_recovery_cancels_is_broken(client, primary, standby):
    """Not ended short: the client sees a transfer that failed. The next one has what there is by then."""
    await many_articles(primary, SEVERAL)
    await stall(primary)
    await resume(primary)
    await replayed(primary, standby)
    # the stream stops in the middle, for this lock is the standby's alone
    await standby.execute("SELECT pg_advisory_lock(1)")
    with broken_off():
        async with client.stream("GET", STREAM.format("articles")) as response:
            assert response.status_code == 200
            blocks = response.aiter_raw()
            assert await anext(blocks)
            # the recovery needs the table for itself
            await primary.execute("TRUNCATE stored_articles CASCADE")
            await cancelled(standby, "lock")
            async for _ in blocks:
                pass
    await resume(standby)
    await replayed(primary, standby)
    assert (await client.get(STREAM.format("articles"))).text == ""


async def test_a_stream_that_is_cancelled_before_its_first_byte(client, primary, standby):
    """The client does not notice: it gets the whole of it, from the primary, where no recovery cancels anything."""
    await many_articles(primary, 10)
    await primary.execute(AUTHOR, {"email": "seen@example.com"})
    await primary.execute("ALTER TABLE articles RENAME TO stored_articles")
    await primary.execute(STALLED)
    await primary.execute(
        """
        CREATE VIEW articles AS
        SELECT id, slug, title, body, author_id, tags, stalled(status) AS status, published_at
        FROM stored_articles
        """
    )
    await replayed(primary, standby)
    # this lock is the standby's alone
    await standby.execute("SELECT pg_advisory_lock(1)")
    streaming = asyncio.create_task(client.get(STREAM.format("articles")))

    async def is_waiting():
        cursor = await standby.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
        )
        return await cursor.fetchone() == (1,)

    await eventually(is_waiting)
    # a row that the stream's snapshot sees is removed for good
    await primary.execute("DELETE FROM users WHERE email = 'seen@example.com'")
    await primary.execute("VACUUM users")
    stream = await streaming
    assert stream.status_code == 200
    assert stream.text.count("\n") == 10
    await cancelled(standby, "snapshot")


async def test_a_standby_that_is_away(pair, primary, tmp_path):
    """While the standby is unreachable, streams are read from the primary."""
    await primary.execute(AUTHOR, {"email": "a@example.com"})
    away = pair.standby.replace(str(conninfo_to_dict(pair.standby)["port"]), "1")
    async with (
        running_service(tmp_path, pair.primary, run=["api"], database_replica_url=away) as service,
        httpx.AsyncClient(base_url=service.url, timeout=PATIENCE_SECONDS) as client,
    ):
        stream = await client.get(STREAM.format("users"))
        assert (stream.status_code, stream.text.count("\n")) == (200, 1)

        async def is_ready() -> bool:
            return (await client.get("/ready")).status_code == 200

        await eventually(is_ready)


async def test_an_increment_after_a_stream_of_the_standby(client, primary, standby):
    """The watermark of a standby can be continued; the increment is read from the primary, so it lacks nothing."""
    await primary.execute(AUTHOR, {"email": "first@example.com"})
    await replayed(primary, standby)
    await standby.execute("SELECT pg_wal_replay_pause()")
    try:
        await primary.execute(AUTHOR, {"email": "second@example.com"})
        streamed = await client.get(STREAM.format("users"))
        query = {"fields": "email", "format": "csv", "changed_since": streamed.headers["x-watermark"]}
        increment = await client.get(STREAM.format("users"), params=query)
    finally:
        await standby.execute("SELECT pg_wal_replay_resume()")
    assert ("first@" in streamed.text, "second@" in streamed.text) == (True, False)
    assert "second@" in increment.text


async def test_a_standby_does_not_continue_from_a_watermark(primary, standby):
    """It cannot tell whether the watermark is of its history."""
    watermark = (await watermarks.begin(primary, None)).watermark
    with pytest.raises(READ_ONLY):
        await watermarks.begin(standby, watermark)
