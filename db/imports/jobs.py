"""Import jobs: get, list, count."""

from collections import Counter
from datetime import datetime
from typing import Any, Literal, LiteralString
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from db.connections.pool import Connection
from db.jobs import MATCHES, JobFilter

Mode = Literal["insert", "skip", "upsert", "update"]
Status = Literal["uploading", "pending", "processing", "completed", "failed", "cancelled"]
Outcome = Literal["success", "partial", "rejected"]
Relation = Literal["retry", "commit", "repair"]
FINAL = ("completed", "failed", "cancelled")


class ImportCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The results of the records; the counts add up to total_records."""

    created: int
    updated: int
    unchanged: int
    skipped: int
    failed: int
    unprocessed: int


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """The current state of a job. The counters of a running job are the sums of its finished chunks."""

    id: UUID
    status: Status
    outcome: Outcome | None
    resource: str
    mode: str
    dry_run: bool
    format: str
    csv_delimiter: str
    file_name: str | None
    file_bytes: int
    file_sha256: bytes
    # the object that the file was read from, as the API shows it
    source: dict[str, Any] | None
    columns: dict[str, str | None] | None
    undoable: bool
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
    relation: Relation | None
    problem: dict[str, Any] | None
    request_digest: bytes
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    now: datetime

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def processed(self) -> int:
        return self.created + self.updated + self.unchanged + self.skipped + self.failed

    @property
    def unprocessed(self) -> int:
        return self.total_records - self.processed

    @property
    def counts(self) -> ImportCounts:
        return msgspec.convert(self, ImportCounts, from_attributes=True)


class ImportFilter(JobFilter, frozen=True, kw_only=True):
    """`name` is a part of the file's name, in upper or lower case as far as the database's locale knows the letters."""

    outcome: str | None = None
    parent_id: UUID | None = None
    name: str | None = None
    dry_run: bool | None = None


class ImportStatusCounts(msgspec.Struct, frozen=True, kw_only=True):
    pending: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0


class ImportOutcomeCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Of the completed imports."""

    success: int = 0
    partial: int = 0
    rejected: int = 0


class ImportJobCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The number of imports, by status and by outcome."""

    total: int
    status: ImportStatusCounts
    outcome: ImportOutcomeCounts


# the columns of Import except its counters
COLUMNS: LiteralString = """
    jobs.id, status, outcome, resource, mode, dry_run, after_id, parent_id, relation, format,
    csv_delimiter, file_name, file_bytes, file_sha256, source, columns, undoable, total_records, problem,
    request_digest, created_by, created_at, started_at, finished_at, clock_timestamp() AS now
"""
# the counters of a job that is not final are summed over its chunks, by their key (job_id, seq)
_SELECT: LiteralString = f"""
    SELECT {COLUMNS},
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
"""  # noqa: S608  of literals only


async def get(conn: Connection, id: UUID) -> Import | None:
    """The job; None if it does not exist or is still being uploaded."""
    cursor = conn.cursor(row_factory=class_row(Import))
    await cursor.execute(_SELECT + "WHERE jobs.id = %(id)s AND status <> 'uploading'", {"id": id})
    return await cursor.fetchone()


# The condition of an ImportFilter except its status and outcome. strpos, because LIKE would need an escaped pattern.
_MATCHES = (
    MATCHES
    + """
    AND status <> 'uploading'
    AND (%(parent_id)s::uuid IS NULL OR parent_id = %(parent_id)s)
    AND (%(name)s::text IS NULL OR strpos(lower(file_name), lower(%(name)s)) > 0)
    AND (%(dry_run)s::boolean IS NULL OR dry_run = %(dry_run)s)
"""
)


async def newest(conn: Connection, wanted: ImportFilter, *, before: UUID | None, limit: int) -> list[Import]:
    """Jobs older than `before`, newest first."""
    cursor = conn.cursor(row_factory=class_row(Import))
    await cursor.execute(
        _SELECT
        + "WHERE"
        + _MATCHES
        + """
            AND (%(status)s::text IS NULL OR status = %(status)s)
            AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)
            AND (%(before)s::uuid IS NULL OR jobs.id < %(before)s)
        ORDER BY jobs.id DESC
        LIMIT %(limit)s
        """,
        {**msgspec.structs.asdict(wanted), "before": before, "limit": limit},
    )
    return await cursor.fetchall()


_COUNT = "SELECT status, outcome, count(*) FROM import_jobs WHERE"


async def counts(conn: Connection, wanted: ImportFilter) -> ImportJobCounts:
    """Of the jobs that match all of `wanted` but its status and outcome. Uses the index import_jobs_by_status."""
    cursor = await conn.execute(_COUNT + _MATCHES + "GROUP BY status, outcome", msgspec.structs.asdict(wanted))
    by_status, by_outcome = Counter[str](), Counter[str]()
    async for status, outcome, count in cursor:
        by_status[status] += count
        if outcome is not None:
            by_outcome[outcome] += count
    return ImportJobCounts(
        total=by_status.total(),
        status=ImportStatusCounts(**by_status),
        outcome=ImportOutcomeCounts(**by_outcome),
    )
