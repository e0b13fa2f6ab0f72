"""Repairs of imports: children that do again what is left, or make a dry run real; cancel; delete."""

from uuid import UUID

import msgspec
from psycopg.rows import class_row, scalar_row

from db.connections import liveness
from db.connections.pool import Connection
from db.imports import completion, uploads
from db.imports.jobs import FINAL, Status
from db.imports.payload import Format
from db.imports.records import Gone
from db.imports.uploads import Upload

# a commit copies a whole file, which may take longer than a session's statements usually may
COPY_SECONDS_MAX = 3600


class NotCommittable(Exception):
    """The import is not a completed dry run; the message says what it is."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An import as far as its records are given back, or done again by a child.

    `failed` and `left` (neither stored nor passed by: failed or unprocessed) are right once it is final.
    """

    id: UUID
    status: Status
    resource: str
    mode: str
    dry_run: bool
    on_error: str
    max_errors: int | None
    max_error_rate: float | None
    unknown_fields: str
    format: Format
    csv_delimiter: str
    csv_safe: bool
    csv_header: bytes | None
    csv_columns: list[str] | None
    file_name: str | None
    file_bytes: int
    file_sha256: bytes
    total_records: int
    total_chunks: int
    failed: int
    left: int

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


_SELECT = """
    SELECT id, status, resource, mode, dry_run, on_error, max_errors, max_error_rate, unknown_fields, format,
        csv_delimiter, csv_safe, csv_header, csv_columns, file_name, file_bytes, file_sha256, total_records, total_chunks, failed,
        total_records - created - updated - unchanged - skipped AS left
    FROM import_jobs
    WHERE id = %(id)s AND status <> 'uploading'
"""


async def source(conn: Connection, id: UUID) -> Source | None:
    """None when there is no such import or it is still being uploaded."""
    cursor = conn.cursor(row_factory=class_row(Source))
    await cursor.execute(_SELECT, {"id": id})
    return await cursor.fetchone()


async def retried_by(conn: Connection, parent: Source) -> UUID | None:
    """The import that does again what `parent` has left; None when there is none yet."""
    return await _child(conn, parent.id, dry_run=parent.dry_run)


async def seal_retry(conn: Connection, id: UUID, upload: Upload, parent: Source) -> UUID:
    """Seals an upload as the one retry of `parent`; its id, or that of another one which came first: then nothing is done.

    Two requests at once meet at the parent's row. Raises `Gone`.
    """
    if await _lock(conn, parent.id) is None:
        raise Gone
    earlier = await retried_by(conn, parent)
    if earlier is not None:
        return earlier
    await uploads.seal(conn, id, upload)
    return id


async def commit(conn: Connection, id: UUID, *, digest: bytes, request_id: str | None) -> tuple[UUID, bool]:
    """Makes a completed dry run a real import; its id, and whether it is an earlier commit's. In the caller's transaction.

    Raises `NotCommittable`, `Gone`.
    """
    parent = await _lock(conn, id)
    if parent is None:
        raise Gone
    if not parent.dry_run:
        raise NotCommittable("The import is not a dry run: what it could store is stored.")
    if parent.status != "completed":
        raise NotCommittable(f"The dry run is {parent.status}; only a completed one can be committed.")
    earlier = await _child(conn, id, dry_run=False)
    if earlier is not None:
        return earlier, True
    child = await uploads.begin(conn, token=None)
    await _copy_file(conn, child, parent)
    upload = child_upload(
        parent,
        dry_run=False,
        file_bytes=parent.file_bytes,
        file_sha256=parent.file_sha256,
        total_records=parent.total_records,
        total_chunks=parent.total_chunks,
        digest=digest,
        request_id=request_id,
    )
    await uploads.seal(conn, child, upload)
    return child, False


def child_upload(
    parent: Source,
    *,
    dry_run: bool,
    file_bytes: int,
    file_sha256: bytes,
    total_records: int,
    total_chunks: int,
    digest: bytes,
    request_id: str | None,
) -> Upload:
    """What a child is sealed with: its parent's parameters and these totals. It waits for nothing: that is behind it."""
    return Upload(
        resource=parent.resource,
        mode=parent.mode,
        dry_run=dry_run,
        on_error=parent.on_error,
        max_errors=parent.max_errors,
        max_error_rate=parent.max_error_rate,
        after_id=None,
        parent_id=parent.id,
        unknown_fields=parent.unknown_fields,
        format=parent.format,
        csv_delimiter=parent.csv_delimiter,
        csv_safe=parent.csv_safe,
        csv_header=parent.csv_header,
        csv_columns=parent.csv_columns,
        file_name=parent.file_name,
        file_bytes=file_bytes,
        file_sha256=file_sha256,
        total_records=total_records,
        total_chunks=total_chunks,
        idempotency_token=None,
        digest=digest,
        request_id=request_id,
    )


async def cancel(conn: Connection, id: UUID) -> bool:
    """Asks that no further chunk be begun; False when the import is final or there is none.

    The flag is read wherever a chunk is begun, so no chunk's row is touched, which a worker may hold. `endings.finish` then
    ends an import that has no chunk running; else the worker of the last one does.
    """
    cursor = await conn.execute(
        """
        UPDATE import_jobs
        SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
        WHERE id = %(id)s AND status IN ('pending', 'processing')
        """,
        {"id": id},
    )
    return cursor.rowcount == 1


async def delete(conn: Connection, id: UUID) -> bool:
    """Removes a final import with its chunks, errors and payloads, not what it stored. False when it is not final."""
    # those that wait for one which did not complete must be stopped as long as it can still be seen what they wait for
    await completion.stop_dependents(conn)
    cursor = await conn.execute(
        "DELETE FROM import_jobs WHERE id = %(id)s AND status IN ('completed', 'failed', 'cancelled')", {"id": id}
    )
    return cursor.rowcount == 1


async def _lock(conn: Connection, id: UUID) -> Source | None:
    """The import, kept as it is, and from other repairs, for the rest of the transaction."""
    cursor = conn.cursor(row_factory=class_row(Source))
    await cursor.execute(_SELECT + "FOR NO KEY UPDATE", {"id": id})
    return await cursor.fetchone()


async def _child(conn: Connection, parent_id: UUID, *, dry_run: bool) -> UUID | None:
    """The child of that kind: of a dry run a dry one is its retry and a real one its commit."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT id
        FROM import_jobs
        WHERE parent_id = %(parent_id)s AND dry_run = %(dry_run)s AND status <> 'uploading'
        ORDER BY id
        LIMIT 1
        """,
        {"parent_id": parent_id, "dry_run": dry_run},
    )
    return await cursor.fetchone()


async def _copy_file(conn: Connection, child: UUID, parent: Source) -> None:
    """Gives the child the parent's chunks, none of them begun, and their payloads. Raises `Gone` when these are not all here."""
    liveness.allow_silence(conn, COPY_SECONDS_MAX)
    milliseconds = str(COPY_SECONDS_MAX * 1000)
    await conn.execute(
        """
        SELECT set_config(name, %(milliseconds)s, true)
        FROM pg_settings
        WHERE name IN ('statement_timeout', 'transaction_timeout')
        """,
        {"milliseconds": milliseconds},
    )
    copied = await conn.execute(
        """
        INSERT INTO chunks (import_id, seq, first_record, records)
        SELECT %(child)s, seq, first_record, records
        FROM chunks
        WHERE job_id = %(parent)s AND kind = 'records'
        """,
        {"child": child, "parent": parent.id},
    )
    chunks = copied.rowcount
    copied = await conn.execute(
        """
        INSERT INTO import_payloads (import_id, first_record, first_line, data, starts, lines)
        SELECT %(child)s, first_record, first_line, data, starts, lines
        FROM import_payloads
        WHERE import_id = %(parent)s
        """,
        {"child": child, "parent": parent.id},
    )
    if chunks != parent.total_chunks or copied.rowcount != chunks:
        raise Gone
