"""Retention: what is left of imports that became final long ago is removed, a few rows at a time. Stored records stay."""

from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.rows import scalar_row

from db.connections.pool import Connection

# how many jobs one round looks at, and how many rows of one table it removes in one transaction. A payload may have
# megabytes, which makes a row of it dearer than any other.
JOBS = 50
ROWS = {"import_errors": 5000, "import_deferred": 1000, "import_payloads": 100, "chunks": 1000}

# where each table's index begins that finds the rows of a job
_JOB = {
    "import_errors": "import_id",
    "import_deferred": "import_id",
    "import_payloads": "import_id",
    "chunks": "job_id",
}


class Pruned(msgspec.Struct, kw_only=True):
    """What a round has removed. `rows` are those below the jobs, of all tables."""

    jobs: int = 0
    rows: int = 0


async def prune(conn: Connection, *, retention_seconds: float) -> Pruned:
    """One round over the imports that have been final for longest, if that is longer than `retention_seconds`.

    Any number of workers may do this side by side. To be called outside of any transaction: each statement is one of its own,
    so that no lock is held for long. A job goes when nothing is left below it, which may take several rounds.
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
    """A final job never lives again, so this needs no lock. One that a live import still waits for is kept."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT id
        FROM import_jobs AS job
        WHERE finished_at < statement_timestamp() - %(retention)s * interval '1 second'
            AND NOT EXISTS (SELECT FROM import_jobs WHERE after_id = job.id AND finished_at IS NULL)
        ORDER BY finished_at
        LIMIT %(limit)s
        """,
        {"retention": retention_seconds, "limit": JOBS},
    )
    return await cursor.fetchall()


async def _delete_below(conn: Connection, table: str, jobs: list[UUID], rows_max: int) -> int:
    """By the rows' places, which the locks hold fast; what another worker is removing right now is passed by."""
    cursor = await conn.execute(
        sql.SQL(
            """
            DELETE FROM {table}
            WHERE ctid = ANY (ARRAY (
                SELECT ctid
                FROM {table}
                WHERE {job} = ANY (%(jobs)s)
                LIMIT %(limit)s
                FOR UPDATE SKIP LOCKED
            ))
            """
        ).format(table=sql.Identifier(table), job=sql.Identifier(_JOB[table])),
        {"jobs": jobs, "limit": rows_max},
    )
    return cursor.rowcount


async def _delete_jobs(conn: Connection, jobs: list[UUID]) -> int:
    cursor = await conn.execute(
        # what another worker has removed but not yet committed is still seen here, and keeps the job for the next round
        """
        DELETE FROM import_jobs
        WHERE id IN (
            SELECT id
            FROM import_jobs AS job
            WHERE id = ANY (%(jobs)s)
                AND NOT EXISTS (SELECT FROM import_errors WHERE import_id = job.id)
                AND NOT EXISTS (SELECT FROM import_deferred WHERE import_id = job.id)
                AND NOT EXISTS (SELECT FROM import_payloads WHERE import_id = job.id)
                AND NOT EXISTS (SELECT FROM chunks WHERE job_id = job.id)
            FOR UPDATE SKIP LOCKED
        )
        """,
        {"jobs": jobs},
    )
    return cursor.rowcount
