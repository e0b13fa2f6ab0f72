"""Makes an import final after its last chunk. Called after each final chunk, by cancel and by maintenance; done exactly once."""

from collections.abc import Mapping, Sequence
from typing import LiteralString
from uuid import UUID

import msgspec
from psycopg.rows import class_row, scalar_row

from db import queue
from db.connections.pool import Connection
from db.imports import errors
from db.imports.budget import apply_error_budget
from db.imports.jobs import Outcome, Status
from db.webhooks import deliveries
from db.webhooks.endpoints import Endpoint


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of a job that has just become final, for logs and metrics."""

    id: UUID
    resource: str
    status: Status
    outcome: Outcome | None
    request_id: str | None
    traceparent: str | None
    total_records: int
    created: int
    failed: int
    errors: int
    seconds: float
    # whether another import waits for this one
    is_awaited: bool


async def finish(
    conn: Connection, id: UUID, *, endpoints: Sequence[Endpoint], has_budget: bool = True
) -> list[Finished]:
    """Makes the job final if all its chunks are. To be called after each commit that made a chunk final.

    `has_budget`: whether the job has an error budget; true if it is unknown.

    Returns the jobs that this call has made final: the job itself and, if it did not complete, those that waited for it. If
    there are deferred records, the settle chunk is queued instead, and the job becomes final after it. With the end, its
    deliveries to webhook `endpoints` are queued.
    """
    if await _is_busy(conn, id):
        return []
    # the statements before the end change nothing in most jobs, and the end is not written in the others
    end = None if has_budget else await _write_end(conn, id, endpoints)
    if end is None:
        await apply_error_budget(conn, id)
        await _cancel_pending(conn, id)
        end = None if await _queue_settle(conn, id) else await _write_end(conn, id, endpoints)
    if end is None:
        return []
    if end.errors:
        await errors.write_summary(conn, id)
    return [end, *await follow_up(conn, [end], endpoints=endpoints)]


async def end_small(conn: Connection, created: Mapping[UUID, int], *, endpoints: Sequence[Endpoint]) -> list[Finished]:
    """Makes imports final, in the transaction that has created all of their records. `created` are the numbers of these.

    To be followed by `follow_up` after the commit.
    """
    cursor = conn.cursor(row_factory=class_row(Finished))
    statement, parameters = deliveries.with_deliveries(_END_SMALL, "import", endpoints)
    await cursor.execute(statement, {"ids": list(created), "created": list(created.values()), **parameters})
    return await cursor.fetchall()


async def follow_up(conn: Connection, ends: Sequence[Finished], *, endpoints: Sequence[Endpoint]) -> list[Finished]:
    """Wakes workers for the imports that waited for these; returns those of them that become final now."""
    if any(end.is_awaited for end in ends):
        await queue.notify(conn)
    if all(end.status == "completed" for end in ends):
        return []
    return await finish_dependents(conn, endpoints=endpoints)


async def finish_dependents(conn: Connection, *, endpoints: Sequence[Endpoint]) -> list[Finished]:
    """Makes the imports final that wait for one that did not complete. Returns those that this call has made final."""
    return [end for id in await stop_dependents(conn) for end in await finish(conn, id, endpoints=endpoints)]


async def _queue_settle(conn: Connection, id: UUID) -> bool:
    cursor = await conn.execute(
        """
        INSERT INTO chunks (import_id, kind, seq)
        SELECT id, 'settle', total_chunks + 1
        FROM import_jobs
        WHERE id = %(id)s
            AND status = 'processing'
            AND EXISTS (SELECT 1 FROM import_deferred WHERE import_id = %(id)s)
            AND NOT EXISTS (SELECT 1 FROM chunks WHERE job_id = %(id)s AND state IN ('pending', 'running'))
        ON CONFLICT (job_id, seq) DO NOTHING
        """,
        {"id": id},
    )
    if cursor.rowcount == 1:
        await queue.notify(conn)
    return cursor.rowcount == 1


async def _is_busy(conn: Connection, id: UUID) -> bool:
    """Whether the job has a pending or running chunk. Called after every chunk, so it has to be cheap.

    Scans chunks_pending from its end, where the first entry is a live one; its beginning is full of entries of claimed chunks.
    chunks_running is scanned only if nothing is pending, because both its ends are full of entries of finished chunks.
    """
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT (
            SELECT problem IS NULL AND cancel_requested_at IS NULL
            FROM import_jobs
            WHERE id = %(id)s
        ) AND (
            SELECT true
            FROM chunks
            WHERE state = 'pending' AND job_id = %(id)s
            ORDER BY seq DESC
            LIMIT 1
        ) IS NOT NULL
        OR EXISTS (SELECT 1 FROM chunks WHERE state = 'running' AND job_id = %(id)s)
        """,
        {"id": id},
    )
    return bool(await cursor.fetchone())


async def _cancel_pending(conn: Connection, id: UUID) -> None:
    """Cancels the pending chunks of a stopped job. Chunks that are being claimed at this moment are dropped by their worker."""
    await conn.execute(
        """
        WITH stopped AS MATERIALIZED (
            SELECT chunks.id
            FROM chunks
            JOIN import_jobs ON import_jobs.id = chunks.job_id
            WHERE chunks.job_id = %(id)s
                AND state = 'pending'
                AND kind = 'records'
                AND (import_jobs.problem IS NOT NULL OR import_jobs.cancel_requested_at IS NOT NULL)
            ORDER BY chunks.id
            FOR NO KEY UPDATE OF chunks SKIP LOCKED
        )
        UPDATE chunks
        SET state = 'cancelled', finished_at = clock_timestamp()
        FROM stopped
        WHERE chunks.id = stopped.id
        """,
        {"id": id},
    )


# what an end changes, from the counts `done`
_SET: LiteralString = """
    status = CASE
        WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
        WHEN problem IS NOT NULL THEN 'failed'
        ELSE 'completed'
    END,
    outcome = CASE
        WHEN cancel_requested_at IS NOT NULL OR problem IS NOT NULL THEN NULL
        WHEN done.failed = 0 THEN 'success'
        WHEN done.failed = total_records THEN 'rejected'
        ELSE 'partial'
    END,
    created = done.created, updated = done.updated, unchanged = done.unchanged,
    skipped = done.skipped, failed = done.failed, errors = done.errors,
    errors_omitted = done.errors_omitted,
    -- it has the rows of all chunks, because they were committed before this statement
    end_snapshot = CASE WHEN undoable THEN pg_current_snapshot() END,
    finished_at = clock_timestamp()
"""
# the columns of Finished
_FINISHED: LiteralString = """
    id, resource, status, outcome, request_id, traceparent, total_records, import_jobs.created, import_jobs.failed,
    import_jobs.errors,
    extract(epoch FROM import_jobs.finished_at - coalesce(started_at, sealed_at))::float8 AS seconds,
    EXISTS (SELECT 1 FROM import_jobs AS later WHERE later.after_id = import_jobs.id) AS is_awaited
"""
# Makes the job final; no row if it is already, or cannot be yet.
_END: LiteralString = f"""
    WITH done AS (
        SELECT sum(created) AS created, sum(updated) AS updated, sum(unchanged) AS unchanged,
            sum(skipped) AS skipped, sum(failed) AS failed, sum(errors) AS errors,
            sum(errors_omitted) AS errors_omitted, bool_or(kind = 'settle') AS is_settled
        FROM chunks
        WHERE job_id = %(id)s
    )
    UPDATE import_jobs
    SET {_SET}
    FROM done
    WHERE id = %(id)s
        AND status IN ('pending', 'processing')
        AND NOT EXISTS (SELECT 1 FROM chunks WHERE job_id = %(id)s AND state IN ('pending', 'running'))
        AND (is_settled OR NOT EXISTS (SELECT 1 FROM import_deferred WHERE import_id = %(id)s))
        -- a chunk that has failed since apply_error_budget must set the problem first
        AND (problem IS NOT NULL OR NOT EXISTS (SELECT 1 FROM chunks WHERE job_id = %(id)s AND state = 'failed'))
    RETURNING {_FINISHED}
"""  # noqa: S608  of literals only
# Makes imports final whose only chunk this transaction has finished.
_END_SMALL: LiteralString = f"""
    WITH done AS (
        SELECT job_id, created, 0 AS updated, 0 AS unchanged, 0 AS skipped, 0 AS failed, 0 AS errors, 0 AS errors_omitted
        FROM unnest(%(ids)s::uuid[], %(created)s::bigint[]) AS done (job_id, created)
    )
    UPDATE import_jobs
    SET {_SET}
    FROM done
    WHERE id = done.job_id AND id = ANY (%(ids)s) AND status IN ('pending', 'processing')
    RETURNING {_FINISHED}
"""  # noqa: S608  of literals only


async def _write_end(conn: Connection, id: UUID, endpoints: Sequence[Endpoint]) -> Finished | None:
    """Makes the job final and returns its summary. Returns None to all but one of several concurrent calls."""
    cursor = conn.cursor(row_factory=class_row(Finished))
    statement, parameters = deliveries.with_deliveries(_END, "import", endpoints)
    await cursor.execute(statement, {"id": id, **parameters})
    return await cursor.fetchone()


async def stop_dependents(conn: Connection) -> list[UUID]:
    """Sets the problem of jobs that wait for an import that did not complete; returns their ids, to be passed to `finish`."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        UPDATE import_jobs
        SET problem = jsonb_build_object(
            'type', '/problems/after-not-completed',
            'title', 'The import that this one waited for was not completed',
            'detail', 'import ' || earlier.id || ' ended as ' || earlier.status
        )
        FROM import_jobs AS earlier
        WHERE earlier.id = import_jobs.after_id
            AND earlier.status IN ('failed', 'cancelled')
            AND import_jobs.status = 'pending'
            AND import_jobs.problem IS NULL
        RETURNING import_jobs.id
        """
    )
    return await cursor.fetchall()


async def unfinished(conn: Connection) -> list[UUID]:
    """Jobs that are not final although all their chunks are: their last worker died between its commit and `finish`."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT id
        FROM import_jobs
        WHERE status IN ('pending', 'processing')
            AND NOT EXISTS (SELECT 1 FROM chunks WHERE job_id = import_jobs.id AND state = 'running')
            AND (
                cancel_requested_at IS NOT NULL
                OR problem IS NOT NULL
                OR (
                    -- as in _is_busy, from the end
                    SELECT true
                    FROM chunks
                    WHERE job_id = import_jobs.id AND state = 'pending'
                    ORDER BY seq DESC
                    LIMIT 1
                ) IS NULL
            )
        """
    )
    return await cursor.fetchall()
