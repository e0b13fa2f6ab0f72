"""Measures the backlog of imports, so that the API can refuse new ones (429) before the queue grows without a limit."""

from typing import LiteralString

import msgspec
from psycopg.rows import class_row

from db.connections.pool import Connection


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """The number of imports that are not final, unsealed uploads included, and the bytes of their files.

    The bytes of an upload are counted once it is sealed.
    """

    jobs: int
    bytes: int


# uses the partial indexes of live jobs and of uploads, so that final jobs cost nothing
MEASURE: LiteralString = """
    SELECT count(*) AS jobs, coalesce(sum(file_bytes), 0)::bigint AS bytes
    FROM (
        SELECT file_bytes FROM import_jobs WHERE status IN ('pending', 'processing')
        UNION ALL
        SELECT NULL FROM import_jobs WHERE status = 'uploading'
    ) AS unfinished
"""


async def measure(conn: Connection) -> Backlog:
    cursor = conn.cursor(row_factory=class_row(Backlog))
    await cursor.execute(MEASURE)
    return await cursor.fetchone() or Backlog(jobs=0, bytes=0)
