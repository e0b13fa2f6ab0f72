"""Backpressure: how much the queue holds, so that a client is told to come back later before the service drowns in work."""

import msgspec
from psycopg.rows import class_row

from db.connections.pool import Connection


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """The imports that are not final, uploads under way included, and the bytes of their files.

    An upload's bytes are known, and counted, when it is sealed.
    """

    jobs: int
    bytes: int


async def measure(conn: Connection) -> Backlog:
    """Leans on the partial indexes of live jobs and of uploads: its cost is what the limits allow, not the history."""
    cursor = conn.cursor(row_factory=class_row(Backlog))
    await cursor.execute(
        """
        SELECT count(*) AS jobs, coalesce(sum(file_bytes), 0)::bigint AS bytes
        FROM (
            SELECT file_bytes FROM import_jobs WHERE status IN ('pending', 'processing')
            UNION ALL
            SELECT NULL FROM import_jobs WHERE status = 'uploading'
        ) AS live
        """
    )
    return await cursor.fetchone() or Backlog(jobs=0, bytes=0)
