"""Import jobs: get, list."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from db.connections.pool import Connection

Mode = Literal["insert", "skip", "upsert", "update"]
Status = Literal["uploading", "pending", "processing", "completed", "failed", "cancelled"]
Outcome = Literal["success", "partial", "rejected"]
FINAL = ("completed", "failed", "cancelled")


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """The current state of a job. The counters of a running job are the sums of its finished chunks."""

    id: UUID
    status: Status
    outcome: Outcome | None
    resource: str
    mode: str
    dry_run: bool
    format: str
    file_name: str | None
    file_bytes: int
    file_sha256: bytes
    columns: dict[str, str | None] | None
    total_records: int
    created: int
    updated: int
    unchanged: int
    skipped: int
    failed: int
    # deferred records, which are decided when all chunks are done; 0 once the job is final
    deferred: int
    errors: int
    # of the errors, those that are not stored
    errors_omitted: int
    after_id: UUID | None
    parent_id: UUID | None
    problem: dict[str, Any] | None
    request_digest: bytes
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    now: datetime

    @property
    def processed(self) -> int:
        return self.created + self.updated + self.unchanged + self.skipped + self.failed


# the columns of Import; the counters of a job that is not final are summed over its chunks, by their key (job_id, seq)
_SELECT = """
    SELECT jobs.id, status, outcome, resource, mode, dry_run, after_id, parent_id, format,
        file_name, file_bytes, file_sha256, columns, total_records, problem,
        request_digest, created_at, started_at, finished_at, clock_timestamp() AS now,
        coalesce(done.created, jobs.created) AS created,
        coalesce(done.updated, jobs.updated) AS updated,
        coalesce(done.unchanged, jobs.unchanged) AS unchanged,
        coalesce(done.skipped, jobs.skipped) AS skipped,
        coalesce(done.failed, jobs.failed) AS failed,
        coalesce(done.deferred, 0) AS deferred,
        coalesce(done.errors, jobs.errors) AS errors,
        coalesce(done.errors_omitted, jobs.errors_omitted) AS errors_omitted
    FROM import_jobs AS jobs
    LEFT JOIN LATERAL (
        SELECT sum(created)::bigint AS created, sum(updated)::bigint AS updated, sum(unchanged)::bigint AS unchanged,
            sum(skipped)::bigint AS skipped, sum(failed)::bigint AS failed, sum(deferred)::bigint AS deferred,
            sum(errors)::bigint AS errors, sum(errors_omitted)::bigint AS errors_omitted
        FROM chunks
        WHERE chunks.job_id = jobs.id AND jobs.finished_at IS NULL
    ) AS done ON true
"""


async def get(conn: Connection, id: UUID) -> Import | None:
    """The job; None if it does not exist or is still being uploaded."""
    cursor = conn.cursor(row_factory=class_row(Import))
    await cursor.execute(_SELECT + "WHERE jobs.id = %(id)s AND status <> 'uploading'", {"id": id})
    return await cursor.fetchone()


async def newest(
    conn: Connection, *, status: str | None, resource: str | None, before: UUID | None, limit: int
) -> list[Import]:
    """Jobs older than `before`, newest first."""
    cursor = conn.cursor(row_factory=class_row(Import))
    await cursor.execute(
        _SELECT
        + """
        WHERE status <> 'uploading'
            AND (%(status)s::text IS NULL OR status = %(status)s)
            AND (%(resource)s::text IS NULL OR resource = %(resource)s)
            AND (%(before)s::uuid IS NULL OR jobs.id < %(before)s)
        ORDER BY jobs.id DESC
        LIMIT %(limit)s
        """,
        {"status": status, "resource": resource, "before": before, "limit": limit},
    )
    return await cursor.fetchall()
