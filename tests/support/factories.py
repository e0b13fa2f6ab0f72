"""Creates jobs and records, and drives the queue step by step."""

import json
from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate
from typing import Any, LiteralString
from uuid import UUID, uuid4

from psycopg.rows import dict_row

from db import audit, queue
from db.connections.pool import Connection
from db.imports import completion, jobs, uploads
from db.imports.payload import Chunk
from db.merge import ConflictLevel
from db.queue import Claim
from db.settings import Settings
from tests.support.eventually import eventually
from workers import imports

SETTINGS = Settings()
# so that the size in bytes does not limit a claim
BYTES_MAX = SETTINGS.chunk_max_bytes


# ── records ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def user(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A valid user; the number determines the e-mail address."""
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
    """Inserts a row directly, without an import; returns its id."""
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
    """A sealed import of these records, in chunks of `sizes` records; None: a single chunk.

    `parameters` are fields of `uploads.ImportSpec`.
    """
    lines = [json.dumps(record).encode() + b"\n" for record in records]
    sizes = [len(records)] if sizes is None else sizes
    assert sum(sizes) == len(records)
    chunks = [
        # line = record: NDJSON has no header
        Chunk(end - size + 1, end - size + 1, size, b"".join(lines[end - size : end]))
        for end, size in zip(accumulate(sizes), sizes, strict=True)
    ]
    upload = import_spec(b"".join(lines), total_records=len(records), total_chunks=len(chunks), **parameters)
    async with conn.transaction():
        id = await uploads.begin(conn)
        await uploads.append(conn, id, chunks, first_seq=1, is_repeat=False)
        await uploads.seal(conn, id, upload, endpoints=())
    await queue.notify(conn)
    return id


def import_spec(data: bytes, **parameters: Any) -> uploads.ImportSpec:
    """The specification of an NDJSON file of users with this content."""
    digest = sha256(data).digest()
    usual: dict[str, Any] = {"resource": "users", "mode": "insert", "dry_run": False, "on_error": "continue"}
    usual |= {"unknown_fields": "error", "format": "ndjson", "csv_delimiter": ",", "csv_safe": False}
    usual["undoable"] = False
    known = {"file_bytes": len(data), "file_sha256": digest, "digest": digest}
    return uploads.ImportSpec(**{**dict.fromkeys(uploads.ImportSpec.__struct_fields__), **usual, **known, **parameters})


async def claim(conn: Connection, *, worker: str = "me", chunks_max: int = 1) -> Claim:
    """The next claim. Fails if there is none."""
    claimed = await queue.claim(conn, worker=worker, chunks_max=chunks_max, bytes_max=BYTES_MAX)
    assert claimed is not None
    return claimed


def remembering(level: ConflictLevel, *ids: UUID) -> imports.ConflictMemory:
    """The memory of a worker that has met conflicts of this level in these imports."""
    memory = imports.ConflictMemory()
    for id in ids:
        memory.note(id, level)
    return memory


async def perform(
    conn: Connection, claimed: Claim, *, memory: imports.ConflictMemory | None = None
) -> imports.Done | None:
    """Processes a claim as a worker does, without retries."""
    return await imports.perform(conn, claimed, settings=SETTINGS, memory=memory or imports.ConflictMemory())


async def run(conn: Connection, id: UUID, *, order: Sequence[int] | None = None, chunks_max: int = 1) -> jobs.Import:
    """Processes all chunks of an import, `chunks_max` at a time, and then the jobs that depend on it; see `ended`.

    `order` is that of the claims (their indexes, from 0), of which there may be fewer.
    """
    claims = []
    while claimed := await queue.claim(conn, worker="me", chunks_max=chunks_max, bytes_max=BYTES_MAX):
        claims.append(claimed)
    for place in range(len(claims)) if order is None else [place for place in order if place < len(claims)]:
        await perform(conn, claims[place])
        await completion.finish(conn, id, endpoints=())
    while claimed := await queue.claim(conn, worker="me"):
        await perform(conn, claimed)
        await completion.finish(conn, id, endpoints=())
    return await ended(conn, id)


async def chunk(conn: Connection, id: UUID, seq: int = 1) -> dict[str, Any]:
    """A chunk's row as a dict."""
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


async def blocked(waiting: Connection, *, by: Connection) -> None:
    """Returns when a statement of `waiting` waits for a lock of `by`. `by` must be idle, because it runs the query."""

    # by name: behind a pooler the pid that the client was given is not that of the session
    name = waiting.info.get_parameters().get("application_name", "")

    async def is_blocked() -> bool:
        return name in await those_blocked(by)

    await eventually(is_blocked)


async def those_blocked(by: Connection) -> set[str]:
    """The names of the connections that wait for a lock of `by`."""
    # a transaction sees a snapshot of pg_stat_activity, taken at its first access
    await by.execute("SELECT pg_stat_clear_snapshot()")
    return {
        name
        for (name,) in await rows(
            by,
            """
            SELECT application_name
            FROM pg_stat_activity
            WHERE datname = current_database() AND pg_backend_pid() = ANY(pg_blocking_pids(pid))
            """,
        )
    }


# ── the counters ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def ended(conn: Connection, id: UUID) -> jobs.Import:
    """The import. Fails if it is not final or its counters do not balance."""
    job = await jobs.get(conn, id)
    assert job is not None
    assert job.finished_at is not None, job
    assert await audit.violations(conn, import_id=id, strict=True) == []
    return job
