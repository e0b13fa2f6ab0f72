"""Retention of exports: first the file expires, later the job is deleted.

The storage is not part of the transaction, so a file is removed in two steps: the job becomes `expired`, then the file is
deleted and its name cleared. A crash in between leaves the name set, and the next round repeats the second step.
"""

from uuid import UUID

import msgspec
from psycopg.rows import class_row

from db.connections.pool import Connection
from db.exports import files
from db.formats import Compression, ExportFormat

# jobs handled in one round of maintenance
JOBS_MAX = 50


class ExpiredFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files that a final job may have in the storage: one for each of its leases, at most one of them complete."""

    id: UUID
    resource: str
    format: ExportFormat
    compression: Compression
    lease: int

    @property
    def names(self) -> list[str]:
        return files.stored_names(
            self.resource, self.format, self.compression, id=self.id, leases=range(1, self.lease + 1)
        )


# the columns of ExpiredFiles
_SELECT = """
    SELECT export_jobs.id, resource, format, compression, lease
    FROM export_jobs
    JOIN chunks ON chunks.job_id = export_jobs.id
"""


async def expire(conn: Connection, *, retention_seconds: float) -> int:
    """Marks exports as expired that were completed more than `retention_seconds` ago. Returns their number."""
    cursor = await conn.execute(
        """
        UPDATE export_jobs
        SET status = 'expired'
        WHERE status = 'completed'
            AND file_name IS NOT NULL
            AND finished_at < statement_timestamp() - %(retention)s * interval '1 second'
        """,
        {"retention": retention_seconds},
    )
    return cursor.rowcount


async def expired(conn: Connection) -> list[ExpiredFiles]:
    """Expired exports whose file has not been marked as removed."""
    cursor = conn.cursor(row_factory=class_row(ExpiredFiles))
    await cursor.execute(
        _SELECT
        + """
        WHERE status = 'expired' AND file_name IS NOT NULL AND export_jobs.finished_at IS NOT NULL
        ORDER BY export_jobs.finished_at
        LIMIT %(limit)s
        """,
        {"limit": JOBS_MAX},
    )
    return await cursor.fetchall()


async def file_removed(conn: Connection, id: UUID) -> None:
    """Records that the file of an expired export has been deleted from the storage."""
    await conn.execute("UPDATE export_jobs SET file_name = NULL WHERE id = %(id)s AND status = 'expired'", {"id": id})


async def old(conn: Connection, *, retention_seconds: float) -> list[ExpiredFiles]:
    """Final jobs older than `retention_seconds` whose file is gone. Remove what crashed workers left before `delete`."""
    cursor = conn.cursor(row_factory=class_row(ExpiredFiles))
    await cursor.execute(
        _SELECT
        + """
        WHERE status IN ('failed', 'cancelled', 'expired')
            AND file_name IS NULL
            AND export_jobs.finished_at < statement_timestamp() - %(retention)s * interval '1 second'
        ORDER BY export_jobs.finished_at
        LIMIT %(limit)s
        """,
        {"retention": retention_seconds, "limit": JOBS_MAX},
    )
    return await cursor.fetchall()


async def expire_one(conn: Connection, id: UUID) -> ExpiredFiles | None:
    """Ends the download of one final export. Returns the files to remove, or None if there is no such final export."""
    await conn.execute(
        "UPDATE export_jobs SET status = 'expired' WHERE id = %(id)s AND status = 'completed'", {"id": id}
    )
    cursor = conn.cursor(row_factory=class_row(ExpiredFiles))
    await cursor.execute(
        _SELECT + "WHERE export_jobs.id = %(id)s AND status IN ('failed', 'cancelled', 'expired')", {"id": id}
    )
    return await cursor.fetchone()


async def delete(conn: Connection, id: UUID) -> bool:
    """Deletes a final job after its file was removed; returns whether it existed. Its idempotency token can be used again."""
    cursor = await conn.execute(
        "DELETE FROM export_jobs WHERE id = %(id)s AND status IN ('failed', 'cancelled', 'expired')", {"id": id}
    )
    return cursor.rowcount == 1
