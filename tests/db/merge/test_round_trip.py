"""Exports can be imported: into the same table without a change, into an empty one with an equal result."""

import asyncio
import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier, Placeholder

from api.imports import splitting
from db import merge
from db.connections import pool
from db.imports import uploads
from db.merge import conflicts, deferred, duplicates
from db.queue import Counts
from db.resources import RESOURCES
from db.resources.definition import Parsed
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.exports import STREAM, exported
from workers.parsing import parse

EXAMPLES = 60
LIMITS: dict[str, Any] = {"chunk_max_bytes": 1 << 20, "record_max_bytes": 1 << 20}
FORMATS = [("csv", False), ("csv", True), ("ndjson", False), ("json", False)]

USER = UUID(int=1)
ARTICLE = UUID(int=2)
PARENTS = """
    INSERT INTO users (id, email, name, role, active)
    VALUES ('00000000-0000-0000-0000-000000000001', 'parent@example.com', 'Parent', 'author', true);
    INSERT INTO articles (id, slug, title, body, author_id, status)
    VALUES ('00000000-0000-0000-0000-000000000002', 'parent', 'Parent', 'body', '00000000-0000-0000-0000-000000000001', 'draft');
"""

# what has a meaning to CSV, to JSON, to COPY, to spreadsheets or to those who cut lines, and text that looks like no text
# fmt: off
PIECES = [
    ",", ";", '"', '""', "'", "''", "\\", "\\\\", "\\.", "\\N", "\\n", "\\u0000", '\\"', "{", "}", "[", "]",
    "null", "NULL", "true", "=", "+", "-", "@", "#", "%", "%s", "%%",
    "\n", "\r", "\r\n", "\n\n", "\t", " ", "\v", "\f", "\x01", "\x02", "\x1b", "\x1c", "\x7f", "\x85",
    "\u00a0", "\u2028", "\u2029", "\ufeff", "\ufffd", "\uffff", "e\u0301", "\u00e9", "\u202e", "\U0001f600", "\U0010ffff",
]
# fmt: on
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
# only what the resources allow: text of at least one character, in a comment's body one that is not white space
TEXT = st.lists(st.sampled_from(PIECES) | st.text(CHARACTERS, max_size=5), min_size=1, max_size=8).map("".join)
TEXT = TEXT.filter(bool)
BODY = TEXT.filter(lambda text: re.search(r"\S", text))
TIMES = st.datetimes(timezones=st.just(UTC)) | st.sampled_from(
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(1582, 10, 10, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, 0, 120_000, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ]
)
# each is made unique by its number in the file
LOCALS = st.sampled_from(["a", "A", "=1+1", "+1", "-1", "'", "''", "o'brien", "{}", "null"])

USERS = st.fixed_dictionaries(
    {
        "email": LOCALS,
        "name": TEXT,
        "role": st.sampled_from(["admin", "author", "reader"]),
        "active": st.booleans(),
        "created_at": TIMES,
        "updated_at": TIMES,
    }
)
ARTICLES = st.fixed_dictionaries(
    {
        "title": TEXT,
        "body": TEXT,
        "author_id": st.just(USER),
        "tags": st.none() | st.lists(TEXT | st.just(""), max_size=4),
        "status": st.just("published"),
        "published_at": st.none() | TIMES,
    }
)
COMMENTS = st.fixed_dictionaries(
    {
        "id": st.uuids().map(str) | st.uuids().map(lambda uuid: f"cm_{str(uuid).upper()}"),
        "article_id": st.just(ARTICLE),
        "user_id": st.just(USER),
        "body": BODY,
        "created_at": TIMES,
    }
)


def numbered(resource: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with unique keys."""
    match resource:
        case "users":
            return [record | {"email": f"{record['email']}.{n}@example.com"} for n, record in enumerate(records)]
        case "articles":
            return [record | {"slug": f"article-{n}"} for n, record in enumerate(records)]
        case _:
            return [*{record["id"].lower(): record for record in records}.values()]


CASES = {"users": USERS, "articles": ARTICLES, "comments": COMMENTS}


@pytest.mark.slow
@pytest.mark.parametrize("resource", CASES)
def test_an_exported_file_can_be_imported(database_url, resource):
    """In each format, an upsert of the export leaves every record unchanged, for any text, null and time.

    After the records were deleted, an import of the export creates equal ones, also of records that are deferred.
    """
    with asyncio.Runner() as runner:
        conn = runner.run(AsyncConnection.connect(database_url, autocommit=True))
        runner.run(pool.configure(conn))

        @settings(max_examples=EXAMPLES, deadline=None, database=None)
        @given(records=st.lists(CASES[resource], min_size=1, max_size=6), batch_size=st.integers(1, 4))
        def holds(records, batch_size):
            runner.run(check(conn, resource, numbered(resource, records), batch_size))

        holds()
        runner.run(conn.close())


async def test_cells_that_are_no_formulas(conn):
    """With csv_safe no text begins like a formula: an apostrophe precedes it, which an import with csv_safe removes."""
    await conn.execute(PARENTS)
    titles = ["=1+1", "+1", "-1", "@a", "\ta", "\ra", "\na", "\uff1d1", "\uff20a", "'a", "''", "a=", " =1", "1"]
    await insert(
        conn,
        "articles",
        [
            {"slug": f"a-{n}", "title": title, "body": "-", "author_id": USER, "tags": ["=1"], "status": "draft"}
            for n, title in enumerate(titles)
        ],
    )
    guarded = [
        "'=1+1",
        "'+1",
        "'-1",
        "'@a",
        "'\ta",
        "'\ra",
        "'\na",
        "'\uff1d1",
        "'\uff20a",
        "''a",
        "'''",
        "a=",
        " =1",
        "1",
    ]
    safe, _ = await exported(conn, "articles", "csv", fields=["slug", "title", "body", "tags"], csv_safe=True)
    rows = {row["slug"]: row for row in csv.DictReader(io.StringIO(safe, newline=""))}
    assert [rows[f"a-{n}"]["title"] for n in range(len(titles))] == guarded
    assert {(row["body"], row["tags"]) for slug, row in rows.items() if slug != "parent"} == {("'-", '["=1"]')}

    whole, count = await exported(conn, "articles", "csv", csv_safe=True)
    again = (conn, "articles", "csv", whole.encode(), 100)
    async with conn.transaction():
        assert await reimported(*again, mode="upsert", csv_safe=True) == Counts(unchanged=count)
    async with conn.transaction():
        changed = await reimported(*again, mode="upsert", csv_safe=False)
    assert (changed.updated, changed.unchanged) == (len(titles), count - len(titles))


async def test_a_safe_file_is_imported_by_http(service, conn):
    """An export and an import with `csv_safe=true` preserve all texts."""
    await conn.execute(PARENTS)
    await conn.execute("UPDATE users SET name = '=HYPERLINK()'")
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        safe = await client.get(STREAM.format("users"), params={"format": "csv", "csv_safe": "true"})
        assert ",'=HYPERLINK()," in safe.text
        query = {"resource": "users", "mode": "upsert", "csv_safe": "true"}
        headers = {"Content-Type": "text/csv"}
        posted = await client.post("/api/v1/imports", params=query, content=safe.content, headers=headers)
        assert posted.status_code == 202, posted.text

        async def counts():
            job = (await client.get(posted.headers["location"])).json()
            return job["counts"] if job["status"] == "completed" else None

        assert (await eventually(counts))["unchanged"] == 1


async def check(conn, resource: str, records: list[dict[str, Any]], batch_size: int) -> None:
    async with conn.transaction(force_rollback=True):
        await conn.execute(PARENTS)
        await insert(conn, resource, records)
        before = await stored(conn, resource)
        for format, csv_safe in FORMATS:
            # a parent is exported with the others
            text, count = await exported(conn, resource, format, csv_safe=csv_safe)
            again = (conn, resource, format, text.encode(), batch_size)
            assert await reimported(*again, mode="upsert", csv_safe=csv_safe) == Counts(unchanged=count)
            assert await stored(conn, resource) == before
            async with conn.transaction(force_rollback=True):
                await forget(conn, resource)
                assert await reimported(*again, mode="insert", csv_safe=csv_safe) == Counts(created=count)
                assert await stored(conn, resource) == before
                await forget(conn, resource)
                assert await deferred_and_settled(*again, csv_safe=csv_safe) == Counts(created=count)
                assert await stored(conn, resource) == before


async def reimported(conn, resource: str, format, data: bytes, batch_size: int, *, mode, csv_safe: bool) -> Counts:
    """The counts of an import of these bytes, which are split, parsed and merged as by the API and a worker."""
    counts = Counts()
    import_id = uuid4()
    for parsed in all_parsed(resource, format, data, batch_size, csv_safe=csv_safe):
        merged = await merge.merge(
            conn,
            RESOURCES[resource],
            import_id,
            parsed,
            mode=mode,
            dry_run=False,
            is_whole_import=False,
            assumed="none",
        )
        counts += merged.counts
    return counts


async def deferred_and_settled(conn, resource: str, format, data: bytes, batch_size: int, *, csv_safe: bool) -> Counts:
    """The counts of an import that defers all records."""
    import_id = await uploads.begin(conn)
    for parsed in all_parsed(resource, format, data, batch_size, csv_safe=csv_safe):
        keys = conflicts.keys(RESOURCES[resource], parsed.records)
        indexes = range(len(parsed.records))
        await deferred.insert(conn, RESOURCES[resource], import_id, parsed, keys, indexes)
    return await duplicates.settle(conn, RESOURCES[resource], import_id, "insert", dry_run=False, undoable=False)


def all_parsed(resource: str, format, data: bytes, batch_size: int, *, csv_safe: bool) -> Iterator[Parsed]:
    """The records of a file without errors, by chunk."""
    cutter = splitting.FileSplitter(format=format, batch_size=batch_size, delimiter=",", **LIMITS)
    for chunk in [*cutter.feed(data), *cutter.finish()]:
        parsed = parse(
            RESOURCES[resource],
            chunk,
            format=format,
            columns=cutter.columns,
            delimiter=",",
            csv_safe=csv_safe,
            ignore_unknown=False,
            record_max_bytes=LIMITS["record_max_bytes"],
        )
        assert parsed.errors == []
        yield parsed


async def insert(conn, resource: str, records: list[dict[str, Any]]) -> None:
    for record in records:
        statement = SQL("INSERT INTO {} ({}) VALUES ({})").format(
            Identifier(resource), SQL(", ").join(map(Identifier, record)), SQL(", ").join(map(Placeholder, record))
        )
        await conn.execute(statement, record)


async def forget(conn, resource: str) -> None:
    """Deletes the records, and those of other resources that are not their parents."""
    await conn.execute(SQL("TRUNCATE {} CASCADE").format(Identifier(resource)))


async def stored(conn, resource: str) -> list[Any]:
    """The table, without the columns about the import."""
    columns = SQL(", ").join(map(Identifier, RESOURCES[resource].columns))
    cursor = await conn.execute(SQL("SELECT {} FROM {} ORDER BY id").format(columns, Identifier(resource)))
    return await cursor.fetchall()
