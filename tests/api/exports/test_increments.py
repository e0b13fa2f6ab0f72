"""Incremental exports: a copy that is kept by them equals the table, whatever is written meanwhile."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.sql import SQL, Identifier

from db import merge
from db.connections.pool import Connection
from db.exports import watermarks
from db.exports.watermarks import Watermark
from db.resources import RESOURCES
from db.resources.definition import Parsed
from tests.support import workers
from tests.support.api_client import problem
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.exports import EXPORTS, STREAM, completed
from tests.support.factories import article, queued, stored_user, user, users
from tests.support.increments import Copy
from tests.support.workers import HELD

EXAMPLES = 40
WRITERS = 3
NUMBERS = range(4)
PARENT = UUID(int=1)


def record(resource: str, writer: int, number: int, text: str) -> dict[str, Any]:
    """A record of a key that no other writer uses, so that writers do not wait for each other."""
    match resource:
        case "users":
            return user(email=f"w{writer}n{number}@example.com", name=text)
        case "articles":
            return article(PARENT, title=text, slug=f"w{writer}-n{number}") | {"author_id": PARENT}
        case _:
            id = f"cm_{UUID(int=100 * writer + number)}"
            return {"id": id, "article_id": PARENT, "user_id": PARENT, "body": text}


async def store(conn: Connection, resource: str, records: list[dict[str, Any]]) -> None:
    """An upsert as a worker stores it, in the caller's transaction."""
    kind = RESOURCES[resource]
    numbers = range(1, len(records) + 1)
    parsed = Parsed(records=[kind.record(**each) for each in records], numbers=numbers, lines=numbers)
    await merge.merge(conn, kind, uuid4(), parsed, mode="upsert", dry_run=False, is_whole_import=False, assumed="none")


class Schedule:
    """Transactions of several writers, each held open from its first step to its end, and exports between the steps."""

    def __init__(self, resource: str, reader: Connection, writers: list[Connection]) -> None:
        self.resource = resource
        self.reader = reader
        self.writers = writers
        self.copy = Copy(resource)
        self.open: dict[int, AsyncExitStack] = {}

    async def run(self, steps: list[tuple[Any, ...]]) -> None:
        for number, (step, *arguments) in enumerate(steps):
            await getattr(self, f"_{step}")(*arguments, f"step {number}")
        for writer in [*self.open]:
            await self._commit(writer, "")
        await self.copy.export(self.reader)
        await self.copy.check(self.reader)

    async def _store(self, writer: int, numbers: set[int], text: str) -> None:
        conn = await self._opened(writer)
        await store(conn, self.resource, [record(self.resource, writer, number, text) for number in numbers])

    async def _delete(self, writer: int, number: int, _text: str) -> None:
        conn = await self._opened(writer)
        key = RESOURCES[self.resource].key or "id"
        await conn.execute(
            SQL("DELETE FROM {} WHERE {} = %s").format(Identifier(self.resource), Identifier(key)),
            [record(self.resource, writer, number, "")[key]],
        )

    async def _export(self, _text: str) -> None:
        await self.copy.export(self.reader)

    async def _commit(self, writer: int, _text: str) -> None:
        if stack := self.open.pop(writer, None):
            await stack.aclose()

    async def _abort(self, writer: int, _text: str) -> None:
        if stack := self.open.pop(writer, None):
            await stack.__aexit__(psycopg.Rollback, psycopg.Rollback(), None)

    async def _opened(self, writer: int) -> Connection:
        if writer not in self.open:
            stack = self.open[writer] = AsyncExitStack()
            await stack.enter_async_context(self.writers[writer].transaction())
        return self.writers[writer]


WRITER = st.integers(0, WRITERS - 1)
STEPS = st.lists(
    st.tuples(st.just("store"), WRITER, st.sets(st.sampled_from(NUMBERS), min_size=1))
    | st.tuples(st.sampled_from(["commit", "commit", "abort"]), WRITER)
    | st.tuples(st.just("delete"), WRITER, st.sampled_from(NUMBERS))
    | st.tuples(st.just("export")),
    min_size=12,
    max_size=40,
)


@pytest.mark.slow
@pytest.mark.parametrize("resource", RESOURCES)
def test_a_copy_equals_the_table(database_url, resource):
    """However the transactions of imports and the exports are interleaved, the copy has every row as it is stored."""
    with asyncio.Runner() as runner:
        connect = psycopg.AsyncConnection.connect
        reader, *writers = [runner.run(connect(database_url, autocommit=True)) for _ in range(1 + WRITERS)]
        runner.run(_insert_parents(reader))

        @settings(max_examples=EXAMPLES, database=None)
        @given(steps=STEPS)
        def holds(steps):
            # a new copy of what earlier examples have left
            runner.run(Schedule(resource, reader, writers).run(steps))

        holds()
        for conn in (reader, *writers):
            runner.run(conn.close())


async def test_a_transaction_that_was_open(conn, other):
    """A record that was written before an export and committed after it is in the next one, and then no more."""
    copy = Copy("users")
    async with other.transaction():
        first = await stored_user(other, 1)
        second = await stored_user(conn, 2)
        assert await copy.export(conn) == [str(second)]
    assert sorted(await copy.export(conn)) == sorted([str(first), str(second)])
    await copy.settle(conn)
    await copy.check(conn)


async def test_nothing_has_changed(conn):
    """An increment has neither rows that were only locked nor rows of a transaction that was rolled back."""
    copy = Copy("users")
    await stored_user(conn, 1)
    assert len(await copy.export(conn)) == 1
    await copy.settle(conn)
    async with conn.transaction(force_rollback=True):
        await conn.execute("UPDATE users SET name = 'other'")
    await conn.execute("SELECT FROM users FOR UPDATE")
    assert await copy.export(conn) == []


@pytest.mark.parametrize("background", [False, True], ids=["stream", "background"])
async def test_imports_that_run(service, conn, hold, background):
    """A copy that is kept over HTTP while imports of the same users run equals the table when they have ended."""
    started = await service(worker_pool_size=3, batch_size=20, claim_chunks_max=2)
    copy = Copy("users")
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        async with hold(HELD):
            # Its first chunk stays open while others are stored, exported and stored again. Records are stored in the order of
            # their keys, so all but the last are written already.
            last = user(name=HELD, email="z@example.com")
            held = await queued(conn, [*users(19, first=1000), last, *users(20, first=1020)], sizes=[20, 20])
            await workers.stuck(conn, held, 1)
            for turn in range(4):
                # from the second turn on updates, with a duplicate that is decided at the end of the import
                records = [user(n % 90, name=f"turn {turn}") for n in range(91)]
                await workers.ended(conn, await queued(conn, records, sizes=[20, 20, 20, 20, 11], mode="upsert"))
                await _increment(client, copy, background=background)
        await workers.ended(conn, held)
        await _increment(client, copy, background=background)
    await copy.check(conn)


@pytest.mark.parametrize(
    "changed",
    [
        {"history": "0123456789ab"},
        {"transaction": 10**12},
        # more than 2^31 transactions ago
        {"transaction": -(2**31)},
    ],
    ids=["another database", "the future", "too old"],
)
async def test_a_watermark_that_cannot_be_continued(conn, changed):
    """A watermark that would miss records is refused."""
    snapshot = await watermarks.begin(conn, None)
    usable = {"history": snapshot.watermark.history, "transaction": snapshot.watermark.transaction}
    await watermarks.begin(conn, Watermark(**usable))
    with pytest.raises(watermarks.Expired):
        await watermarks.begin(conn, Watermark(**usable | changed))


async def test_refused_watermarks_over_http(service, conn):
    """A text that is no watermark is 400, one of another database 410, and a job of it is not created."""
    await stored_user(conn, 1)
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        for text, status, slug in (("x", 400, "invalid-request"), ("0123456789ab-900", 410, "watermark-expired")):
            streamed = await client.get(STREAM.format("users"), params={"changed_since": text})
            posted = await client.post(EXPORTS, json={"resource": "users", "changed_since": text})
            for response in (streamed, posted):
                document = problem(response, status, slug)
                assert [error["field"] for error in document.get("errors", [])] == ["changed_since"] * (status == 400)
        assert (await client.get(EXPORTS)).json()["exports"] == []


async def test_increments_with_filters(service, conn):
    """`changed_since` is combined with filters, fields, a limit and a format."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        await stored_user(conn, 1)
        watermark = (await client.get(STREAM.format("users"))).headers["x-watermark"]
        for n in (2, 3):
            await stored_user(conn, n)
        await conn.execute("UPDATE users SET role = 'reader' WHERE email = 'user2@example.com'")
        query = {"changed_since": watermark, "role": "reader", "fields": "email", "format": "csv", "limit": "5"}
        answer = await client.get(STREAM.format("users"), params=query)
        assert answer.text == "email\nuser2@example.com\n"


async def _insert_parents(conn: Connection) -> None:
    await stored_user(conn, 1000, id=PARENT)
    await conn.execute(
        """
        INSERT INTO articles (id, slug, title, body, author_id, status)
        VALUES (%(id)s, 'parent', 'Parent', 'text', %(id)s, 'draft')
        """,
        {"id": PARENT},
    )


async def _increment(client: httpx.AsyncClient, copy: Copy, *, background: bool) -> list[str]:
    since = {} if copy.watermark is None else {"changed_since": copy.watermark}
    if not background:
        answer = await client.get(STREAM.format(copy.resource), params=since)
        assert answer.status_code == 200, answer.text
        return copy.receive(answer.text, answer.headers["x-watermark"])
    posted = await client.post(EXPORTS, json={"resource": copy.resource, **since})
    assert posted.status_code == 202, posted.text
    job = await completed(client, posted.headers["location"])
    assert job["changed_since"] == since.get("changed_since")
    return copy.receive((await client.get(job["download_url"])).text, job["watermark"])
