"""Export jobs: create, get, list, count.

An export is a job and one chunk of the queue. They are two rows, so that the API can update the job while a worker holds the
lock on the chunk.
"""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb

from db.connections.pool import Connection
from db.formats import Compression, ExportFormat
from db.jobs import MATCHES, JobFilter

Status = Literal["pending", "processing", "completed", "failed", "cancelled", "expired"]
FINAL = ("completed", "failed", "cancelled", "expired")


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client requested. `filters` and `fields` are as the client sent them; None means all records, all fields.

    `digest` identifies the request: the same idempotency token with another digest is a different request.
    """

    resource: str
    format: ExportFormat
    compression: Compression
    filters: dict[str, Any] | None = None
    fields: list[str] | None = None
    csv_safe: bool = False
    bom: bool = False
    changed_since: str | None = None
    idempotency_token: str | None
    digest: bytes
    request_id: str | None
    # of the request's span, in which the spans of the workers are
    traceparent: str | None
    # the name of the API key
    created_by: str | None


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """The current state of a job. The columns about the file are NULL until the file is complete, and then all set.

    While the job is processed, `total_records` and `exported_records` are the worker's last report. `now` is the server's time.
    """

    id: UUID
    status: Status
    resource: str
    format: ExportFormat
    compression: Compression
    filters: dict[str, Any] | None
    fields: list[str] | None
    csv_safe: bool
    bom: bool
    changed_since: str | None
    total_records: int | None
    exported_records: int | None
    now: datetime
    snapshot_at: datetime | None
    watermark: str | None
    file_name: str | None
    file_bytes: int | None
    file_records: int | None
    file_sha256: bytes | None
    problem: dict[str, Any] | None
    request_digest: bytes
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


class ExportStatusCounts(msgspec.Struct, frozen=True, kw_only=True):
    pending: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0


class ExportJobCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The number of exports, by status."""

    total: int
    status: ExportStatusCounts


# the columns of Export
_SELECT = """
    SELECT id, status, resource, format, compression, filters, fields, csv_safe, bom, changed_since,
        coalesce(export_jobs.total_records, report.total_records) AS total_records,
        coalesce(file_records, report.records) AS exported_records, clock_timestamp() AS now, snapshot_at, watermark, file_name,
        file_bytes, file_records, file_sha256, problem, request_digest, created_by, created_at, started_at, finished_at
    FROM export_jobs
    LEFT JOIN export_progress_reports AS report ON report.export_id = export_jobs.id
"""


async def create(conn: Connection, id: UUID, request: ExportRequest) -> bool:
    """Inserts a job and its chunk; see `db.queue.submit`. False: there is a job with this id or this idempotency token.

    Of two concurrent calls with the same token, the second waits for the first to commit and then returns False.
    Needs a transaction.
    """
    cursor = await conn.execute(
        """
        INSERT INTO export_jobs (
            id, resource, format, compression, filters, fields, csv_safe, bom, changed_since, idempotency_token,
            request_digest, request_id, traceparent, created_by
        )
        VALUES (
            %(id)s, %(resource)s, %(format)s, %(compression)s, %(filters)s, %(fields)s, %(csv_safe)s, %(bom)s, %(changed_since)s,
            %(idempotency_token)s, %(digest)s, %(request_id)s, %(traceparent)s, %(created_by)s
        )
        ON CONFLICT DO NOTHING
        """,
        {"id": id, **msgspec.structs.asdict(request), "filters": request.filters and Jsonb(request.filters)},
    )
    if cursor.rowcount == 0:
        return False
    await conn.execute("INSERT INTO chunks (export_id, kind, seq) VALUES (%(id)s, 'export', 1)", {"id": id})
    return True


async def get(conn: Connection, id: UUID) -> Export | None:
    cursor = conn.cursor(row_factory=class_row(Export))
    await cursor.execute(_SELECT + "WHERE id = %(id)s", {"id": id})
    return await cursor.fetchone()


async def by_token(conn: Connection, token: str) -> Export | None:
    """The job with this idempotency token."""
    cursor = conn.cursor(row_factory=class_row(Export))
    await cursor.execute(_SELECT + "WHERE idempotency_token = %(token)s", {"token": token})
    return await cursor.fetchone()


async def live(conn: Connection) -> int:
    """The number of jobs that are not final. Uses the partial index export_jobs_live."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("SELECT count(*) FROM export_jobs WHERE status IN ('pending', 'processing')")
    return await cursor.fetchone() or 0


async def newest(conn: Connection, wanted: JobFilter, *, before: UUID | None, limit: int) -> list[Export]:
    """Jobs older than `before`, newest first."""
    cursor = conn.cursor(row_factory=class_row(Export))
    await cursor.execute(
        _SELECT
        + "WHERE"
        + MATCHES
        + """
            AND (%(status)s::text IS NULL OR status = %(status)s)
            AND (%(before)s::uuid IS NULL OR id < %(before)s)
        ORDER BY id DESC
        LIMIT %(limit)s
        """,
        {**msgspec.structs.asdict(wanted), "before": before, "limit": limit},
    )
    return await cursor.fetchall()


_COUNT = "SELECT status, count(*) FROM export_jobs WHERE"


async def counts(conn: Connection, wanted: JobFilter) -> ExportJobCounts:
    """Of the jobs that match all of `wanted` but its status."""
    cursor = await conn.execute(_COUNT + MATCHES + "GROUP BY status", msgspec.structs.asdict(wanted))
    by_status = dict(await cursor.fetchall())
    return ExportJobCounts(total=sum(by_status.values()), status=ExportStatusCounts(**by_status))
