"""What import and export jobs have in common: the filter of a list, the reason for waiting, cancel."""

from datetime import datetime
from typing import Literal, LiteralString
from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.rows import scalar_row

from db.connections.pool import Connection

Kind = Literal["import", "export"]


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs a list has; None matches all. `created_after` is inclusive, `created_before` exclusive."""

    status: str | None = None
    resource: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


# The condition of a JobFilter except its status, which counts ignore. The times in binary form: PostgreSQL refuses text with an
# offset of 16 hours or more.
MATCHES = """
    (%(resource)s::text IS NULL OR resource = %(resource)s)
    AND (%(created_after)b::timestamptz IS NULL OR created_at >= %(created_after)b)
    AND (%(created_before)b::timestamptz IS NULL OR created_at < %(created_before)b)
"""


_WAITING_FOR: dict[Kind, LiteralString] = {
    "import": "SELECT waiting_for FROM import_progress WHERE id = %(id)s AND finished_at IS NULL",
    "export": "SELECT waiting_for FROM export_progress WHERE id = %(id)s AND finished_at IS NULL",
}


async def waiting_for(conn: Connection, kind: Kind, id: UUID) -> str | None:
    """Why the job is not final yet, in one sentence; None when it is. Counts the sessions of workers."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(_WAITING_FOR[kind], {"id": id})
    return await cursor.fetchone()


async def waiting_for_turn(conn: Connection) -> str:
    """`waiting_for` of any import that was just created and waits for no other one."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT CASE workers
            WHEN 0 THEN 'no worker is connected'
            ELSE format('it waits for its turn; %s of %s workers are busy', busy, workers)
        END
        FROM (
            SELECT
                (SELECT count(*) FROM worker_sessions) AS workers,
                (SELECT count(DISTINCT worker) FROM chunks WHERE state = 'running') AS busy
        ) AS connected
        """
    )
    (reason,) = await cursor.fetchall()
    return reason


async def cancel(conn: Connection, kind: Kind, id: UUID) -> bool:
    """Requests that no further chunk is started. Returns False if the job is final or does not exist.

    Only the job's row is changed, because workers hold locks on the chunks; claim and fence read the flag there. Call `finish`
    of the kind's `completion` afterwards: it ends a job without a running chunk; otherwise the worker of the last chunk does.
    """
    cursor = await conn.execute(
        sql.SQL(
            """
            UPDATE {jobs}
            SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
            WHERE id = %(id)s AND status IN ('pending', 'processing')
            """
        ).format(jobs=sql.Identifier(f"{kind}_jobs")),
        {"id": id},
    )
    return cursor.rowcount == 1
