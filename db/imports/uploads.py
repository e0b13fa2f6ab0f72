"""Uploads: import jobs whose file is being received. Chunks are appended in short transactions, at the end it is sealed.

Each of these transactions can be repeated after a lost connection, when it is unknown whether it was committed. Only the process
that receives the upload changes it, so what a repeat finds is its own.
"""

from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID

import msgspec
from psycopg.errors import ForeignKeyViolation, UniqueViolation
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from db import copy
from db.connections.pool import Connection
from db.formats import Format
from db.imports.jobs import Relation, Status
from db.imports.payload import Chunk
from db.webhooks import deliveries
from db.webhooks.endpoints import Endpoint


class Gone(Exception):
    """The upload was removed, because it was not marked as alive for too long."""


class TokenTaken(Exception):
    """Another job has the idempotency token."""


class AfterUnknown(Exception):
    """There is no import with the id `after`."""


class FileSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A file and how it is imported: what a retry and a commit have from their parent."""

    resource: str
    mode: str
    on_error: str
    max_errors: int | None
    max_error_rate: float | None
    unknown_fields: str
    format: Format
    csv_delimiter: str
    csv_safe: bool
    csv_header: bytes | None
    # the field of each column of a CSV file, None for one that is ignored; an unknown column has its own name
    csv_columns: list[str | None] | None
    # the parameter `columns`: fields by the names that columns or keys have in the file
    columns: dict[str, str | None] | None
    file_name: str | None
    file_bytes: int
    file_sha256: bytes
    total_records: int
    total_chunks: int
    # whether the rows that it creates are remembered for an undo
    undoable: bool


class ImportSpec(FileSpec, frozen=True, kw_only=True):
    """The specification of an import whose file was received completely. `digest` is that of its parameters and bytes."""

    # the object that the file was read from, as the API shows it
    source: dict[str, Any] | None
    dry_run: bool
    after_id: UUID | None
    parent_id: UUID | None
    # how it comes from its parent
    relation: Relation | None
    idempotency_token: str | None
    digest: bytes
    request_id: str | None
    # of the request's span, in which the spans of the workers are
    traceparent: str | None
    # the name of the API key
    created_by: str | None


async def begin(conn: Connection) -> UUID:
    """Creates a job without an idempotency token, which no worker claims and no list shows. Returns its id."""
    id = uuid7()
    await conn.execute("INSERT INTO import_jobs (id) VALUES (%(id)s)", {"id": id})
    return id


async def begin_once(conn: Connection, id: UUID, *, token: str | None) -> bool:
    """`begin` with an id and an idempotency token. Returns False if another job has the token."""
    cursor = await conn.execute(
        """
        INSERT INTO import_jobs (id, idempotency_token)
        VALUES (%(id)s, %(token)s)
        ON CONFLICT DO NOTHING
        """,
        {"id": id, "token": token},
    )
    if cursor.rowcount == 0:
        # of a repeat that finds the row of its first try
        cursor = await conn.execute("SELECT FROM import_jobs WHERE id = %(id)s", {"id": id})
    return cursor.rowcount == 1


async def append(conn: Connection, id: UUID, chunks: Sequence[Chunk], *, first_seq: int, is_repeat: bool) -> None:
    """Adds chunks to an upload, numbered from `first_seq`. A repeat replaces those of its first try. Raises `Gone`."""
    # waits for the first try if that is still being committed
    await touch(conn, [id], or_raise=True)
    if is_repeat:
        await _remove(conn, id, first_seq=first_seq, first_record=chunks[0].first_record)
    await store(conn, id, chunks, first_seq=first_seq)


async def store(conn: Connection, id: UUID, chunks: Sequence[Chunk], *, first_seq: int = 1) -> None:
    """Adds chunks to an upload that this transaction has begun or locked."""
    if len(chunks) == 1:
        # one exchange instead of those of two COPYs
        await conn.execute(_STORE_ONE, {"id": id, "seq": first_seq, **chunks[0]._asdict()})
        return
    await copy.rows(
        conn,
        "chunks",
        ["import_id", "seq", "first_record", "records"],
        ["uuid", "int4", "int8", "int4"],
        ((id, seq, chunk.first_record, chunk.records) for seq, chunk in enumerate(chunks, first_seq)),
    )
    await copy.rows(
        conn,
        "import_payloads",
        ["import_id", "first_record", "first_line", "data", "starts", "lines"],
        ["uuid", "int8", "int8", "bytea", "int4[]", "int4[]"],
        ((id, chunk.first_record, chunk.first_line, chunk.data, chunk.starts, chunk.lines) for chunk in chunks),
    )


_STORE_ONE: LiteralString = """
    WITH chunk AS (
        INSERT INTO chunks (import_id, seq, first_record, records)
        VALUES (%(id)s, %(seq)s, %(first_record)s, %(records)s)
    )
    INSERT INTO import_payloads (import_id, first_record, first_line, data, starts, lines)
    VALUES (%(id)s, %(first_record)s, %(first_line)s, %(data)s, %(starts)s::int4[], %(lines)s::int4[])
"""


async def _remove(conn: Connection, id: UUID, *, first_seq: int, first_record: int) -> None:
    """Removes the chunks of an upload from this one on."""
    await conn.execute(
        "DELETE FROM chunks WHERE job_id = %(id)s AND seq >= %(first_seq)s", {"id": id, "first_seq": first_seq}
    )
    await conn.execute(
        "DELETE FROM import_payloads WHERE import_id = %(id)s AND first_record >= %(first_record)s",
        {"id": id, "first_record": first_record},
    )


async def touch(conn: Connection, ids: Sequence[UUID], *, or_raise: bool = False) -> None:
    """Marks these uploads as alive. With `or_raise`, raises `Gone` if one of them was removed."""
    cursor = await conn.execute(
        """
        UPDATE import_jobs
        SET touched_at = clock_timestamp()
        WHERE id = ANY(%(ids)s) AND status = 'uploading'
        """,
        {"ids": list(ids)},
    )
    if or_raise and cursor.rowcount != len(ids):
        raise Gone


# Makes the upload a pending job, or a completed one if it has no records.
_SEAL: LiteralString = """
    UPDATE import_jobs
    SET status = CASE WHEN %(total_records)s = 0 THEN 'completed' ELSE 'pending' END,
        outcome = CASE WHEN %(total_records)s = 0 THEN 'success' END,
        started_at = CASE WHEN %(total_records)s = 0 THEN clock_timestamp() END,
        finished_at = CASE WHEN %(total_records)s = 0 THEN clock_timestamp() END,
        sealed_at = clock_timestamp(),
        resource = %(resource)s,
        mode = %(mode)s,
        dry_run = %(dry_run)s,
        on_error = %(on_error)s,
        max_errors = %(max_errors)s,
        max_error_rate = %(max_error_rate)s,
        after_id = %(after_id)s,
        parent_id = %(parent_id)s,
        relation = %(relation)s,
        unknown_fields = %(unknown_fields)s,
        format = %(format)s,
        csv_delimiter = %(csv_delimiter)s,
        csv_safe = %(csv_safe)s,
        csv_header = %(csv_header)s,
        csv_columns = %(csv_columns)s,
        columns = %(columns)s,
        file_name = %(file_name)s,
        file_bytes = %(file_bytes)s,
        file_sha256 = %(file_sha256)s,
        source = %(source)s,
        total_records = %(total_records)s,
        total_chunks = %(total_chunks)s,
        undoable = %(undoable)s,
        idempotency_token = %(idempotency_token)s,
        request_digest = %(request_digest)s,
        request_id = %(request_id)s,
        traceparent = %(traceparent)s,
        created_by = %(created_by)s
    WHERE id = %(id)s AND status = 'uploading'
    RETURNING id, status
"""


def columns(spec: ImportSpec) -> dict[str, Any]:
    """The columns of `import_jobs` that a specification gives, and their values."""
    values = msgspec.structs.asdict(spec)
    values["request_digest"] = values.pop("digest")
    return values | {"columns": spec.columns and Jsonb(spec.columns), "source": spec.source and Jsonb(spec.source)}


async def seal(conn: Connection, id: UUID, spec: ImportSpec, *, endpoints: Sequence[Endpoint]) -> bool:
    """Makes the upload a pending job; see `db.queue.submit`. A job without records is completed immediately.

    With that end, its deliveries to webhook `endpoints` are queued. Returns False if it is sealed already, by the first try of a
    repeat. Raises `Gone`; `AfterUnknown`; `TokenTaken` if the token was received after the file and another job has it.
    """
    statement, parameters = deliveries.with_deliveries(_SEAL, "import", () if spec.total_records else endpoints)
    try:
        cursor = await conn.execute(statement, {"id": id, **columns(spec), **parameters})
    except UniqueViolation:
        raise TokenTaken from None
    except ForeignKeyViolation:
        raise AfterUnknown from None
    if cursor.rowcount != 1:
        if await is_sealed(conn, id, spec.digest):
            return False
        raise Gone
    return True


async def is_sealed(conn: Connection, id: UUID, digest: bytes) -> bool:
    """Whether the upload was sealed with this digest, by an earlier try of the same request."""
    cursor = await conn.execute(
        "SELECT FROM import_jobs WHERE id = %(id)s AND request_digest = %(digest)s", {"id": id, "digest": digest}
    )
    return cursor.rowcount == 1


async def discard(conn: Connection, id: UUID) -> None:
    """Removes an upload that will not be sealed, with its chunks. Its token can be used again."""
    await conn.execute("DELETE FROM import_jobs WHERE id = %(id)s AND status = 'uploading'", {"id": id})


async def sweep(conn: Connection, *, grace_seconds: float) -> int:
    """Removes uploads whose API process died. Returns their number."""
    cursor = await conn.execute(
        """
        DELETE FROM import_jobs
        WHERE id IN (
            SELECT id
            FROM import_jobs
            WHERE status = 'uploading' AND touched_at < statement_timestamp() - %(grace)s * interval '1 second'
            ORDER BY touched_at
            LIMIT 10
            FOR UPDATE SKIP LOCKED
        )
        """,
        {"grace": grace_seconds},
    )
    return cursor.rowcount


async def by_token(conn: Connection, token: str) -> tuple[UUID, Status] | None:
    """The id and the status of the job with this idempotency token."""
    cursor = await conn.execute(
        "SELECT id, status FROM import_jobs WHERE idempotency_token = %(token)s", {"token": token}
    )
    return await cursor.fetchone()
