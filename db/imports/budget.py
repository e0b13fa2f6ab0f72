"""The error budget of an import: `max_errors`, `max_error_rate` and `on_error=stop`."""

from uuid import UUID

from db.connections.pool import Connection


async def apply_error_budget(conn: Connection, id: UUID) -> bool:
    """Sets the job's problem if its budget is exceeded, or if a chunk failed and no chunk is left to process; True if it did.

    To be called after each chunk of a job with a budget. The share of refused records is checked from 1,000 records on and
    after the last chunk; `on_error=stop` applies while chunks are pending.
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
                        '%%s of %%s chunks could not be processed (the first: %%s); their records count as unprocessed',
                        broken, total_chunks, first_broken
                    )
                )
                WHEN done.failed > max_errors THEN jsonb_build_object(
                    'type', '/problems/error-budget-exceeded',
                    'title', 'Too many records were refused',
                    'detail', format('%%s records were refused; the maximum is %%s', done.failed, max_errors)
                )
                WHEN done.failed > max_error_rate * processed AND (processed >= 1000 OR NOT has_more)
                THEN jsonb_build_object(
                    'type', '/problems/error-budget-exceeded',
                    'title', 'Too many records were refused',
                    'detail', format(
                        '%%s of %%s records were refused; the maximum share is %%s', done.failed, processed, max_error_rate
                    )
                )
                WHEN on_error = 'stop' AND done.failed > 0 AND has_pending THEN jsonb_build_object(
                    'type', '/problems/stopped-on-error',
                    'title', 'A record was refused',
                    'detail', 'on_error=stop: no further chunk was started after the first refused record'
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
