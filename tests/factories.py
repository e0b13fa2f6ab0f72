"""Makers of jobs and records, hands that drive the queue step by step, and the checker of the books."""

import json
from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate
from typing import Any, LiteralString
from uuid import UUID, uuid4

from psycopg.rows import dict_row

from db import imports, queue
from db.payload import Chunk
from db.pool import Connection
from db.queue import Claim
from db.settings import Settings
from tests.servers import eventually
from workers import imports as work

SETTINGS = Settings()


# ── records ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def user(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A sound user; the same number is the same e-mail address."""
    return {"email": f"user{number}@example.com", "name": f"User {number}", "role": "reader", "active": True} | fields


def users(count: int, *, first: int = 1) -> list[dict[str, Any]]:
    return [user(number) for number in range(first, first + count)]


def article(author: UUID | str, number: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "slug": f"article-{number}",
        "title": f"Article {number}",
        "body": "text",
        "author_id": str(author),
        "status": "draft",
    } | fields


def comment(of_article: UUID | str, by: UUID | str, **fields: Any) -> dict[str, Any]:
    return {"article_id": str(of_article), "user_id": str(by), "body": "text"} | fields


async def stored_user(conn: Connection, number: int = 0, *, id: UUID | None = None, email: str | None = None) -> UUID:
    """A row that no import has made; its id."""
    id = id or uuid4()
    await conn.execute(
        "INSERT INTO users (id, email, name, role, active) VALUES (%(id)s, %(email)s, 'stored', 'admin', true)",
        {"id": id, "email": email or f"user{number}@example.com"},
    )
    return id


async def stored_article(conn: Connection, author: UUID, number: int = 0) -> UUID:
    id = uuid4()
    await conn.execute(
        """
        INSERT INTO articles (id, slug, title, body, author_id, status)
        VALUES (%(id)s, %(slug)s, 'stored', 'text', %(author)s, 'draft')
        """,
        {"id": id, "slug": f"article-{number}", "author": author},
    )
    return id


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def queued(
    conn: Connection, records: Sequence[dict[str, Any]], *, sizes: Sequence[int] | None = None, **parameters: Any
) -> UUID:
    """An import of these records that waits for workers, cut into chunks of `sizes` records; None: a single one.

    `parameters` are fields of `imports.Upload`.
    """
    lines = [json.dumps(record).encode() + b"\n" for record in records]
    sizes = [len(records)] if sizes is None else sizes
    assert sum(sizes) == len(records)
    chunks = [
        # line = record: NDJSON has no header
        Chunk(end - size + 1, end - size + 1, size, b"".join(lines[end - size : end]))
        for end, size in zip(accumulate(sizes), sizes, strict=True)
    ]
    upload = _upload(b"".join(lines), total_records=len(records), total_chunks=len(chunks), **parameters)
    async with conn.transaction():
        id = await imports.open_upload(conn, token=None)
        await imports.append(conn, id, chunks, first_seq=1)
        await imports.seal(conn, id, upload)
    return id


def _upload(data: bytes, **parameters: Any) -> imports.Upload:
    digest = sha256(data).digest()
    usual = {"resource": "users", "mode": "insert", "dry_run": False, "on_error": "continue"}
    usual |= {"unknown_fields": "error", "format": "ndjson", "csv_delimiter": ","}
    known = {"file_bytes": len(data), "file_sha256": digest, "digest": digest}
    return imports.Upload(**(dict.fromkeys(imports.Upload.__struct_fields__) | usual | known | parameters))


async def claim(conn: Connection, *, worker: str = "me") -> Claim:
    """The next claim, which there has to be."""
    claimed = await queue.claim(conn, worker=worker)
    assert claimed is not None
    return claimed


async def perform(conn: Connection, claimed: Claim, *, memory: work.Memory | None = None) -> work.Done | None:
    """What a worker does with a claim, without its retries."""
    return await work.perform(conn, claimed, settings=SETTINGS, memory=memory or work.Memory())


async def run(conn: Connection, id: UUID, *, order: Sequence[int] | None = None) -> imports.Import:
    """Works an import off, its chunks in `order` (their places, from 0), and then what that has queued; see `ended`."""
    claims = []
    while claimed := await queue.claim(conn, worker="me"):
        claims.append(claimed)
    for place in range(len(claims)) if order is None else order:
        await perform(conn, claims[place])
        await imports.finish(conn, id)
    while claimed := await queue.claim(conn, worker="me"):
        await perform(conn, claimed)
        await imports.finish(conn, id)
    return await ended(conn, id)


async def chunk(conn: Connection, id: UUID, seq: int = 1) -> dict[str, Any]:
    """A chunk's row, by the names of its columns."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute("SELECT * FROM chunks WHERE job_id = %(id)s AND seq = %(seq)s", {"id": id, "seq": seq})
    row = await cursor.fetchone()
    assert row is not None
    return row


async def errors(conn: Connection, id: UUID) -> list[tuple[int, str | None, str]]:
    """Record, field and code of each record error, in the order of the file."""
    return await rows(
        conn, "SELECT record, field, code FROM import_errors WHERE import_id = %(id)s ORDER BY record, n", id=id
    )


async def rows(conn: Connection, query: LiteralString, **arguments: Any) -> list[Any]:
    return await (await conn.execute(query, arguments)).fetchall()


async def blocked(whom: Connection, *, by: Connection) -> None:
    """Waits until a statement of `whom` waits for a lock of `by`, which is asked and so has to be idle."""

    async def is_blocked() -> bool:
        [(pids,)] = await rows(by, "SELECT pg_blocking_pids(%(pid)s)", pid=whom.info.backend_pid)
        return by.info.backend_pid in pids

    await eventually(is_blocked)


# ── the books ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def ended(conn: Connection, id: UUID) -> imports.Import:
    """The import, which has to be final with balanced books."""
    job = await imports.get(conn, id)
    assert job is not None
    assert job.finished_at is not None, job
    assert await imbalances(conn, id) == []
    return job


async def imbalances(conn: Connection, id: UUID) -> list[Any]:
    """What does not add up in a final import: what, number by the books, number as counted. A dry run leaves no rows."""
    return await rows(
        conn,
        """
        WITH job AS (
            SELECT *, total_records - created - updated - unchanged - skipped - failed AS unprocessed
            FROM import_jobs
            WHERE id = %(id)s
        ), stored AS (
            SELECT import_record AS record, import_action AS action FROM users WHERE import_id = %(id)s
            UNION ALL
            SELECT import_record, import_action FROM articles WHERE import_id = %(id)s
            UNION ALL
            SELECT import_record, import_action FROM comments WHERE import_id = %(id)s
        ), refused AS (
            SELECT DISTINCT record FROM import_errors WHERE import_id = %(id)s
        ), undecided AS (
            SELECT record FROM import_deferred WHERE import_id = %(id)s
        ), unbegun AS (
            SELECT generate_series(first_record, first_record + records - 1) AS record
            FROM chunks
            WHERE import_id = %(id)s AND kind = 'records' AND state <> 'done'
        ), fates AS (
            SELECT record, count(*) AS fates
            FROM (
                SELECT record FROM stored
                UNION ALL SELECT record FROM refused
                UNION ALL SELECT record FROM undecided
                UNION ALL SELECT record FROM unbegun
            ) AS fate
            GROUP BY record
        ), sums AS (
            SELECT sum(created) AS created, sum(updated) AS updated, sum(unchanged) AS unchanged,
                sum(skipped) AS skipped, sum(failed) AS failed, sum(errors) AS errors,
                sum(records) AS records, count(*) FILTER (WHERE kind = 'records') AS chunks,
                count(*) FILTER (WHERE state IN ('pending', 'running')) AS unfinished
            FROM chunks
            WHERE import_id = %(id)s
        )
        SELECT what, book, counted
        FROM job
        CROSS JOIN sums
        CROSS JOIN LATERAL (
            VALUES
                ('records in chunks', total_records, sums.records),
                ('chunks', total_chunks, sums.chunks),
                ('unfinished chunks', 0, sums.unfinished),
                ('created in chunks', job.created, sums.created),
                ('updated in chunks', job.updated, sums.updated),
                ('unchanged in chunks', job.unchanged, sums.unchanged),
                ('skipped in chunks', job.skipped, sums.skipped),
                ('failed in chunks', job.failed, sums.failed),
                ('errors in chunks', job.errors, sums.errors),
                ('rows created', CASE WHEN dry_run THEN 0 ELSE job.created END, (SELECT count(*) FROM stored WHERE action = 'created')),
                ('rows updated', CASE WHEN dry_run THEN 0 ELSE job.updated END, (SELECT count(*) FROM stored WHERE action = 'updated')),
                ('rows unchanged', CASE WHEN dry_run THEN 0 ELSE job.unchanged END, (SELECT count(*) FROM stored WHERE action = 'unchanged')),
                ('records with errors', job.failed, (SELECT count(*) FROM refused)),
                ('errors', job.errors, (SELECT count(*) FROM import_errors WHERE import_id = %(id)s)),
                ('unprocessed', unprocessed, (SELECT count(*) FROM (TABLE undecided UNION TABLE unbegun) AS left_over)),
                (
                    'records with one fate',
                    CASE WHEN dry_run THEN job.failed + unprocessed ELSE total_records - job.skipped END,
                    (SELECT count(*) FROM fates WHERE fates = 1)
                ),
                ('records with several fates', 0, (SELECT count(*) FROM fates WHERE fates > 1)),
                ('records not in the file', 0, (SELECT count(*) FROM fates WHERE record NOT BETWEEN 1 AND total_records))
        ) AS line (what, book, counted)
        WHERE book IS DISTINCT FROM counted
        """,
        id=id,
    )
