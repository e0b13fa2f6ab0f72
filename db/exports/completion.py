"""The end of an export job: finish, and the jobs that were left unfinished by a crash."""

from collections.abc import Sequence
from typing import LiteralString
from uuid import UUID

import msgspec
from psycopg.rows import class_row, scalar_row

from db.connections.pool import Connection
from db.exports.jobs import Status
from db.webhooks import deliveries
from db.webhooks.endpoints import Endpoint


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of a job that became final, for the log and the metrics. `records` and `bytes` are None without a file."""

    id: UUID
    resource: str
    format: str
    status: Status
    request_id: str | None
    traceparent: str | None
    records: int | None
    bytes: int | None
    seconds: float


# Makes the job final if its chunk is.
_END: LiteralString = """
    UPDATE export_jobs
    SET status = CASE chunks.state WHEN 'done' THEN 'completed' WHEN 'failed' THEN 'failed' ELSE 'cancelled' END,
        problem = CASE chunks.state WHEN 'failed' THEN jsonb_build_object(
            'type', '/problems/export-failed',
            'title', 'The export could not be written',
            'detail', format('All %%s attempts failed. The last error: %%s', chunks.attempt, chunks.last_error)
        ) END,
        finished_at = clock_timestamp()
    FROM chunks
    WHERE export_jobs.id = %(id)s
        AND export_jobs.status IN ('pending', 'processing')
        AND chunks.job_id = export_jobs.id
        AND chunks.state IN ('done', 'failed', 'cancelled')
    RETURNING export_jobs.id, resource, format, status, request_id, traceparent, file_records AS records, file_bytes AS bytes,
        extract(epoch FROM export_jobs.finished_at - coalesce(started_at, created_at))::float8 AS seconds
"""


async def finish(conn: Connection, id: UUID, *, endpoints: Sequence[Endpoint]) -> Finished | None:
    """Makes the job final if its chunk is. Call it after the commit of the work, after a cancel, and from maintenance.

    Returns the summary if this call finished the job, else None. With the end, its deliveries to webhook `endpoints` are queued.
    """
    await _cancel_pending(conn, id)
    cursor = conn.cursor(row_factory=class_row(Finished))
    statement, parameters = deliveries.with_deliveries(_END, "export", endpoints)
    await cursor.execute(statement, {"id": id, **parameters})
    return await cursor.fetchone()


async def unfinished(conn: Connection) -> list[UUID]:
    """Jobs that are not final although their chunk is, or can no longer start: a process died before it called `finish`."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT id
        FROM export_jobs
        WHERE status IN ('pending', 'processing')
            AND EXISTS (
                SELECT 1
                FROM chunks
                WHERE job_id = export_jobs.id
                    AND (
                        state IN ('done', 'failed', 'cancelled')
                        OR (state = 'pending' AND cancel_requested_at IS NOT NULL)
                    )
            )
        """
    )
    return await cursor.fetchall()


async def lost_claims(conn: Connection, claims: set[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
    """The (export id, lease) pairs whose claim is no longer running. Unknown jobs are ignored."""
    cursor = await conn.execute(
        """
        SELECT job_id, claimed.lease
        FROM unnest(%(ids)s::uuid[], %(leases)s::int[]) AS claimed (id, lease)
        JOIN chunks ON chunks.job_id = claimed.id AND chunks.kind = 'export'
        WHERE NOT (chunks.state = 'running' AND chunks.lease = claimed.lease)
        """,
        {"ids": [id for id, _ in claims], "leases": [lease for _, lease in claims]},
    )
    return {(id, lease) async for id, lease in cursor}


async def _cancel_pending(conn: Connection, id: UUID) -> None:
    """Cancels the chunk of a cancelled job if it is not claimed. A claim that is in progress is skipped: it drops the chunk."""
    await conn.execute(
        """
        WITH cancelled AS MATERIALIZED (
            SELECT chunks.id
            FROM chunks
            JOIN export_jobs ON export_jobs.id = chunks.job_id
            WHERE chunks.job_id = %(id)s AND state = 'pending' AND cancel_requested_at IS NOT NULL
            FOR NO KEY UPDATE OF chunks SKIP LOCKED
        )
        UPDATE chunks
        SET state = 'cancelled', finished_at = clock_timestamp()
        FROM cancelled
        WHERE chunks.id = cancelled.id
        """,
        {"id": id},
    )
