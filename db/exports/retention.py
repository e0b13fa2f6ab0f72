"""The end of the files of exports, and later of the jobs: what is due, and that it is done.

A file goes in two steps, since no transaction holds a storage: first the job says that the file is not to be had any more, then
the file is removed. What dies in between is done again.
"""

from uuid import UUID

import msgspec
from psycopg.rows import class_row

from db.exports import files
from db.compression import Compression
from db.imports.payload import Format
from db.connections.pool import Connection

# how many jobs one round looks at
JOBS = 50


class Leftover(msgspec.Struct, frozen=True, kw_only=True):
    """A final job of which there may be files: one for each claim, of which at most one was ever whole."""

    id: UUID
    resource: str
    format: Format
    compression: Compression
    lease: int

    @property
    def names(self) -> list[str]:
        return files.stored_names(
            self.resource, self.format, self.compression, id=self.id, leases=range(1, self.lease + 1)
        )


# the columns of Leftover
_SELECT = """
    SELECT export_jobs.id, resource, format, compression, lease
    FROM export_jobs
    JOIN chunks ON chunks.job_id = export_jobs.id
"""


async def expire(conn: Connection, *, retention_seconds: float) -> int:
    """Closes the downloads of exports that were completed longer ago; how many. Their files are then due."""
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


async def due(conn: Connection) -> list[Leftover]:
    """Expired exports whose file has not been removed yet, so far as is known."""
    cursor = conn.cursor(row_factory=class_row(Leftover))
    await cursor.execute(
        _SELECT
        + """
        WHERE status = 'expired' AND file_name IS NOT NULL AND export_jobs.finished_at IS NOT NULL
        ORDER BY export_jobs.finished_at
        LIMIT %(limit)s
        """,
        {"limit": JOBS},
    )
    return await cursor.fetchall()


async def removed(conn: Connection, id: UUID) -> None:
    """The file of an expired export is gone."""
    await conn.execute("UPDATE export_jobs SET file_name = NULL WHERE id = %(id)s AND status = 'expired'", {"id": id})


async def old(conn: Connection, *, retention_seconds: float) -> list[Leftover]:
    """Jobs without a file that have been final for longer. What a lost worker may have left of them is to be removed first."""
    cursor = conn.cursor(row_factory=class_row(Leftover))
    await cursor.execute(
        _SELECT
        + """
        WHERE status IN ('failed', 'cancelled', 'expired')
            AND file_name IS NULL
            AND export_jobs.finished_at < statement_timestamp() - %(retention)s * interval '1 second'
        ORDER BY export_jobs.finished_at
        LIMIT %(limit)s
        """,
        {"retention": retention_seconds, "limit": JOBS},
    )
    return await cursor.fetchall()


async def close(conn: Connection, id: UUID) -> Leftover | None:
    """Closes the download of one final export; what there may be of it, or None if there is no such export."""
    await conn.execute(
        "UPDATE export_jobs SET status = 'expired' WHERE id = %(id)s AND status = 'completed'", {"id": id}
    )
    cursor = conn.cursor(row_factory=class_row(Leftover))
    await cursor.execute(
        _SELECT + "WHERE export_jobs.id = %(id)s AND status IN ('failed', 'cancelled', 'expired')", {"id": id}
    )
    return await cursor.fetchone()


async def delete(conn: Connection, id: UUID) -> bool:
    """Removes a final job whose file is gone; whether there was one. Its idempotency token is free again."""
    cursor = await conn.execute(
        "DELETE FROM export_jobs WHERE id = %(id)s AND status IN ('failed', 'cancelled', 'expired')", {"id": id}
    )
    return cursor.rowcount == 1
