"""The end of an import: found by whoever made its last chunk final, or by the sweep, and written exactly once."""

from uuid import UUID

import msgspec
from psycopg.rows import class_row, scalar_row

from db import queue
from db.connections.pool import Connection
from db.imports.jobs import Outcome, Status


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a job at its end, once."""

    id: UUID
    resource: str
    status: Status
    outcome: Outcome | None
    request_id: str | None
    total_records: int
    created: int
    failed: int
    seconds: float


async def finish(conn: Connection, id: UUID) -> Finished | None:
    """Ends the job if all its chunks are final; to be called after each commit that made one so, and by the sweep.

    Deferred records ask for one more chunk, settle, which is queued here. Returns the job's end to whom it falls to write it.
    """
    if await _is_busy(conn, id):
        return None
    await judge(conn, id)
    await _cancel_pending(conn, id)
    cursor = await conn.execute(
        """
        INSERT INTO chunks (import_id, kind, seq)
        SELECT id, 'settle', total_chunks + 1
        FROM import_jobs
        WHERE id = %(id)s
            AND status = 'processing'
            AND EXISTS (SELECT FROM import_deferred WHERE import_id = %(id)s)
            AND NOT EXISTS (SELECT FROM chunks WHERE job_id = %(id)s AND state IN ('pending', 'running'))
        ON CONFLICT (job_id, seq) DO NOTHING
        """,
        {"id": id},
    )
    if cursor.rowcount == 1:
        await queue.notify(conn)
        return None
    return await _write_end(conn, id)


async def _is_busy(conn: Connection, id: UUID) -> bool:
    """Whether a chunk is still to be worked on: the cheap question, asked after every chunk.

    From the end of chunks_pending, where a live entry is met at once; its beginning is full of entries of claimed chunks.
    Pending comes first, as chunks_running has no such end: it is walked only when nothing is pending any more.
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
        OR EXISTS (SELECT FROM chunks WHERE state = 'running' AND job_id = %(id)s)
        """,
        {"id": id},
    )
    return bool(await cursor.fetchone())


async def _cancel_pending(conn: Connection, id: UUID) -> None:
    """Cancels what a stopped job has not begun; a chunk that is being claimed right now is passed by and dropped there."""
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


async def _write_end(conn: Connection, id: UUID) -> Finished | None:
    """The one statement that makes a job final. Both of two workers that ended the last two chunks may come here: one wins."""
    cursor = conn.cursor(row_factory=class_row(Finished))
    await cursor.execute(
        """
        WITH done AS (
            SELECT sum(created) AS created, sum(updated) AS updated, sum(unchanged) AS unchanged,
                sum(skipped) AS skipped, sum(failed) AS failed, sum(errors) AS errors,
                bool_or(kind = 'settle') AS is_settled
            FROM chunks
            WHERE job_id = %(id)s
        )
        UPDATE import_jobs
        SET status = CASE
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
            finished_at = clock_timestamp()
        FROM done
        WHERE id = %(id)s
            AND status IN ('pending', 'processing')
            AND NOT EXISTS (SELECT FROM chunks WHERE job_id = %(id)s AND state IN ('pending', 'running'))
            AND (is_settled OR NOT EXISTS (SELECT FROM import_deferred WHERE import_id = %(id)s))
            -- judged by `judge` before, so that a broken chunk cannot slip through between two statements
            AND (problem IS NOT NULL OR NOT EXISTS (SELECT FROM chunks WHERE job_id = %(id)s AND state = 'failed'))
        RETURNING id, resource, status, outcome, request_id, total_records, import_jobs.created, import_jobs.failed,
            extract(epoch FROM import_jobs.finished_at - coalesce(started_at, sealed_at))::float8 AS seconds
        """,
        {"id": id},
    )
    return await cursor.fetchone()


async def judge(conn: Connection, id: UUID) -> bool:
    """Gives the job a problem if it has come to one, which stops it: its error budget is spent, or a chunk has failed for good.

    To be called after each chunk of a job with a budget. The share of refused records counts from 1,000 records on, or when
    all is done; `on_error=stop` matters while something is left to stop.
    """
    cursor = await conn.execute(
        """
        WITH done AS (
            SELECT coalesce(sum(failed), 0) AS failed,
                coalesce(sum(created + updated + unchanged + skipped + failed), 0) AS processed,
                count(*) FILTER (WHERE state = 'failed') AS broken,
                min(seq) FILTER (WHERE state = 'failed') AS first_broken,
                bool_or(state = 'pending') AS has_pending,
                bool_or(state IN ('pending', 'running')) AS has_more
            FROM chunks
            WHERE job_id = %(id)s
        ), found AS (
            SELECT CASE
                WHEN broken > 0 AND NOT has_more THEN jsonb_build_object(
                    'type', '/problems/chunk-failed',
                    'title', 'Some records could not be processed',
                    'detail', format(
                        '%%s of %%s chunks could not be finished (the first: %%s); their records count as unprocessed',
                        broken, total_chunks, first_broken
                    )
                )
                WHEN done.failed > max_errors THEN jsonb_build_object(
                    'type', '/problems/error-budget-exceeded',
                    'title', 'Too many records were refused',
                    'detail', format('%%s records were refused, at most %%s may be', done.failed, max_errors)
                )
                WHEN done.failed > max_error_rate * processed AND (processed >= 1000 OR NOT has_more)
                THEN jsonb_build_object(
                    'type', '/problems/error-budget-exceeded',
                    'title', 'Too many records were refused',
                    'detail', format(
                        '%%s of %%s records were refused, at most a share of %%s may be', done.failed, processed, max_error_rate
                    )
                )
                WHEN on_error = 'stop' AND done.failed > 0 AND has_pending THEN jsonb_build_object(
                    'type', '/problems/stopped-on-error',
                    'title', 'A record was refused',
                    'detail', 'on_error=stop: no further records were begun after the first refused one'
                )
            END AS problem
            FROM done
            CROSS JOIN import_jobs
            WHERE id = %(id)s
        )
        UPDATE import_jobs
        SET problem = found.problem
        FROM found
        WHERE id = %(id)s
            AND status IN ('pending', 'processing')
            AND import_jobs.problem IS NULL
            AND found.problem IS NOT NULL
        """,
        {"id": id},
    )
    return cursor.rowcount == 1


async def stop_dependents(conn: Connection) -> list[UUID]:
    """Gives a problem to jobs that wait for an import which did not complete; their ids, for `finish`."""
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
    """Live jobs that may have nothing left to do: those whose last worker died between its commit and `finish`."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT id
        FROM import_jobs
        WHERE status IN ('pending', 'processing')
            AND NOT EXISTS (SELECT FROM chunks WHERE job_id = import_jobs.id AND state = 'running')
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
