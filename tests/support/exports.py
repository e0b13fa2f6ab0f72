"""Exports for tests: articles to export, jobs in each state, an export that stops in the middle."""

import asyncio
from uuid import UUID

import httpx
from psycopg.sql import SQL, Literal
from uuid_utils.compat import uuid7

from db import queue
from db.connections import liveness
from db.exports import copy_out, jobs
from db.exports.filters import select
from db.formats import Compression
from db.resources import RESOURCES
from db.settings import Settings
from tests.support.eventually import eventually
from workers.worker import Worker

EXPORTS = "/api/v1/exports"
STREAM = "/api/v1/exports/{}/stream"
# 8 MB: half of it is many blocks of an export, see `stall`
SEVERAL = 400
# 60 MB: more than the buffers between PostgreSQL and a client that does not read
MANY = 3_000


async def many_articles(conn, count):
    """Inserts `count` articles of 20 KB, which PostgreSQL compresses, so this is fast; and their author."""
    await conn.execute(
        """
        WITH author AS (
            INSERT INTO users (email, name, role, active) VALUES ('author@example.com', 'An Author', 'author', true)
            RETURNING id
        )
        INSERT INTO articles (slug, title, body, author_id, status)
        SELECT format('article-%%s', n), 'Title', repeat('x', 20000), author.id, 'draft'
        FROM author, generate_series(1, %(count)s) AS n
        """,
        {"count": count},
    )


async def many_users(conn, count):
    """Inserts `count` users with random ids, and a comma, quotes and a line break in their names."""
    await conn.execute(
        """
        INSERT INTO users (id, email, name, role, active)
        SELECT gen_random_uuid(), format('%%s@example.org', n), E'Ann, "the\nfirst"', 'reader', true
        FROM generate_series(1, %(count)s) AS n
        """,
        {"count": count},
    )


async def exported(conn, resource, format, *, csv_safe=False, **selected):
    """The export and its reported number of records; `selected` is as for `filters.select`."""
    selection = select(RESOURCES[resource], **{"filters": {}} | selected)
    async with conn.transaction():
        await liveness.begin_long_read(conn, client_timeout_seconds=10)
        blocks = [
            block async for block in copy_out.blocks(conn, RESOURCES[resource], format, selection, csv_safe=csv_safe)
        ]
    return b"".join(block.data for block in blocks).decode(), sum(block.records for block in blocks)


def export_request(resource="articles", key=None, compression: Compression = "none"):
    return jobs.ExportRequest(
        resource=resource,
        format="ndjson",
        compression=compression,
        idempotency_token=key,
        digest=b"",
        request_id=None,
        traceparent=None,
        created_by=None,
    )


async def create(conn, resource="articles", compression: Compression = "none") -> UUID:
    id = uuid7()
    async with conn.transaction():
        assert await jobs.create(conn, id, export_request(resource, compression=compression))
    await queue.notify(conn)
    return id


async def write(conn, settings: Settings, resource="articles") -> jobs.Export:
    """A completed export, its file in the folder of `settings`."""
    id = await create(conn, resource)
    await Worker(settings, name="w", stopping=asyncio.Event()).run_once(conn)
    job = await jobs.get(conn, id)
    assert job is not None
    assert job.status == "completed"
    return job


async def completed(client, url) -> dict:
    async def job():
        found = (await client.get(url)).json()
        assert found["status"] in ("pending", "processing", "completed"), found
        return found if found["status"] == "completed" else None

    return await eventually(job)


# a test may take longer than the service waits for a lock
STALLED = """
    CREATE FUNCTION stalled(value text) RETURNS text STABLE LANGUAGE plpgsql SET lock_timeout = 0 AS
    $$BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN value; END$$
"""


async def stall(conn) -> None:
    """Stops each export of the articles in the middle while this connection holds the advisory lock 1, which it acquires.

    `resume` releases it. The table itself is then `stored_articles`.
    """
    await conn.execute("SELECT pg_advisory_lock(1)")
    await conn.execute("ALTER TABLE articles RENAME TO stored_articles")
    cursor = await conn.execute(
        "SELECT id FROM stored_articles ORDER BY id OFFSET (SELECT count(*) / 2 FROM stored_articles)"
    )
    [middle, *_] = await cursor.fetchone() or ()
    # in the list of columns, which a count does not evaluate unless it is volatile
    await conn.execute(STALLED)
    await conn.execute(
        SQL(
            """
            CREATE VIEW articles AS
            SELECT id, slug, title, body, author_id, tags, published_at,
                CASE WHEN id = {} THEN stalled(status) ELSE status END AS status
            FROM stored_articles
            ORDER BY id
            """
        ).format(Literal(middle))
    )


async def resume(conn) -> None:
    """Releases the exports that `stall` has stopped."""
    await conn.execute("SELECT pg_advisory_unlock(1)")


async def downloaded(client, **members) -> httpx.Response:
    """The download of a background export."""
    created = await client.post(EXPORTS, json=members)
    assert created.status_code == 202, created.text

    async def completed():
        job = (await client.get(created.headers["location"])).json()
        assert job["status"] not in ("failed", "cancelled"), job
        return job if job["status"] == "completed" else None

    job = await eventually(completed)
    assert all(job[name] == value for name, value in members.items() if name != "fields")
    return await client.get(job["download_url"])
