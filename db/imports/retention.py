"""Deletes old final imports with their chunks, errors and payloads, a few rows at a time. Stored records are kept."""

from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.rows import scalar_row

from db.connections.pool import Connection

# jobs per round, and rows of one table deleted in one transaction; few payloads, because each may have megabytes
JOBS = 50
ROWS = {
    "import_errors": 5000,
    "import_refused": 1000,
    "import_deferred": 1000,
    "import_payloads": 100,
    "chunks": 1000,
    "import_repairs": 5000,
    "import_created": 50,
}

# the primary keys, and the column with the id of the job
_KEYS = {
    "import_errors": ("import_id", "record", "n"),
    "import_refused": ("import_id", "first_record"),
    "import_deferred": ("import_id", "record"),
    "import_payloads": ("import_id", "first_record"),
    "chunks": ("job_id", "seq"),
    "import_repairs": ("parent_id", "record"),
    "import_created": ("import_id", "batch"),
}


class Pruned(msgspec.Struct, kw_only=True):
    """The numbers of jobs and of rows of other tables that a round has deleted."""

    jobs: int = 0
    rows: int = 0


async def prune(conn: Connection, *, retention_seconds: float) -> Pruned:
    """Processes the imports that have been final for longer than `retention_seconds`, the oldest first.

    Safe to run concurrently. To be called outside of a transaction: each statement commits by itself, so that no lock is held
    for long. A job is deleted after all its other rows, which may take several rounds.
    """
    pruned = Pruned()
    expired = await _expired(conn, retention_seconds)
    if not expired:
        return pruned
    for table, rows_max in ROWS.items():
        pruned.rows += await _delete_below(conn, table, expired, rows_max)
    pruned.jobs = await _delete_jobs(conn, expired)
    return pruned


async def _expired(conn: Connection, retention_seconds: float) -> list[UUID]:
    """Takes no lock, because a final job stays final. Keeps a job that a live import waits for, or that is being undone."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT id
        FROM import_jobs AS job
        WHERE finished_at < statement_timestamp() - %(retention)s * interval '1 second'
            AND NOT EXISTS (SELECT 1 FROM import_jobs WHERE after_id = job.id AND finished_at IS NULL)
            AND NOT EXISTS (SELECT 1 FROM import_undos WHERE import_id = job.id AND finished_at IS NULL)
        ORDER BY finished_at
        LIMIT %(limit)s
        """,
        {"retention": retention_seconds, "limit": JOBS},
    )
    return await cursor.fetchall()


async def _delete_below(conn: Connection, table: str, jobs: list[UUID], rows_max: int) -> int:
    """Deletes rows of the jobs by their keys; skips rows that another worker is deleting.

    Not by ctid, which is unique only within one partition of a table.
    """
    key = [sql.Identifier(column) for column in _KEYS[table]]
    cursor = await conn.execute(
        sql.SQL(
            """
            WITH expired AS MATERIALIZED (
                SELECT {key}
                FROM {table}
                WHERE {job} = ANY (%(jobs)s)
                LIMIT %(limit)s
                FOR UPDATE SKIP LOCKED
            )
            DELETE FROM {table} AS target
            USING expired
            WHERE {same_key}
            """
        ).format(
            table=sql.Identifier(table),
            job=key[0],
            key=sql.SQL(", ").join(key),
            same_key=sql.SQL(" AND ").join(
                sql.SQL("target.{column} = expired.{column}").format(column=column) for column in key
            ),
        ),
        {"jobs": jobs, "limit": rows_max},
    )
    return cursor.rowcount


async def _delete_jobs(conn: Connection, jobs: list[UUID]) -> int:
    cursor = await conn.execute(
        # rows deleted by another worker that has not committed are still visible here, and keep the job for the next round
        """
        DELETE FROM import_jobs
        WHERE id IN (
            SELECT id
            FROM import_jobs AS job
            WHERE id = ANY (%(jobs)s)
                AND NOT EXISTS (SELECT 1 FROM import_errors WHERE import_id = job.id)
                AND NOT EXISTS (SELECT 1 FROM import_refused WHERE import_id = job.id)
                AND NOT EXISTS (SELECT 1 FROM import_deferred WHERE import_id = job.id)
                AND NOT EXISTS (SELECT 1 FROM import_payloads WHERE import_id = job.id)
                AND NOT EXISTS (SELECT 1 FROM chunks WHERE job_id = job.id)
                AND NOT EXISTS (SELECT 1 FROM import_repairs WHERE parent_id = job.id)
                AND NOT EXISTS (SELECT 1 FROM import_created WHERE import_id = job.id)
            FOR UPDATE SKIP LOCKED
        )
        """,
        {"jobs": jobs},
    )
    return cursor.rowcount
