"""The progress of an import over time and by position in the file, in a limited number of bins, computed from its chunks."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from db.connections.pool import Connection


class TimeBin(msgspec.Struct, frozen=True, kw_only=True):
    """The records that were finished in the bin that begins at `at` and lasts `seconds`."""

    at: datetime
    seconds: float
    records: int
    failed: int


class FileBin(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive records of the file, starting with `first_record`.

    `state` is the first of failed, cancelled, running, pending, done that applies to one of their chunks.
    """

    first_record: int
    records: int
    failed: int
    state: Literal["pending", "running", "done", "failed", "cancelled"]


async def over_time(conn: Connection, import_id: UUID, *, bins: int) -> list[TimeBin]:
    """The bins in which a record was finished, in order, from the start of the import to its end or to now.

    Deferred records count at the time when their chunk was done; their refusals count at the end of the import.
    """
    cursor = conn.cursor(row_factory=class_row(TimeBin))
    # reads the chunks of one job by the index (job_id, seq)
    await cursor.execute(
        """
        SELECT
            span.first + (span.last - span.first) * (bin.number - 1) / %(bins)s AS at,
            extract(epoch FROM span.last - span.first)::float8 / %(bins)s AS seconds,
            sum(chunks.records)::bigint AS records,
            sum(chunks.failed)::bigint AS failed
        FROM (
            SELECT started_at AS first, greatest(coalesce(finished_at, clock_timestamp()), started_at) AS last
            FROM import_jobs
            WHERE id = %(import_id)s
        ) AS span
        JOIN chunks ON chunks.job_id = %(import_id)s AND chunks.state = 'done' AND chunks.finished_at IS NOT NULL
        CROSS JOIN LATERAL (
            SELECT least(%(bins)s, greatest(1, 1 + floor(
                %(bins)s * coalesce(
                    extract(epoch FROM chunks.finished_at - span.first) / nullif(extract(epoch FROM span.last - span.first), 0),
                    0
                )
            )))::integer AS number
        ) AS bin
        WHERE span.first IS NOT NULL
        GROUP BY bin.number, span.first, span.last
        ORDER BY bin.number
        """,
        {"import_id": import_id, "bins": bins},
    )
    return await cursor.fetchall()


async def over_file(conn: Connection, import_id: UUID, *, total_records: int, bins: int) -> list[FileBin]:
    """The bins of the file in order, without gaps. Chunks that were counted together are in the same bin."""
    cursor = conn.cursor(row_factory=class_row(FileBin))
    await cursor.execute(
        """
        WITH counted AS (
            SELECT
                min(first_record) AS first_record,
                sum(records)::bigint AS records,
                sum(failed)::bigint AS failed,
                min(array_position(%(states)s::text[], state)) AS state
            FROM chunks
            WHERE job_id = %(import_id)s AND kind = 'records'
            GROUP BY coalesce(counted_in_seq, seq)
        )
        SELECT
            min(first_record) AS first_record,
            sum(records)::bigint AS records,
            sum(failed)::bigint AS failed,
            (%(states)s::text[])[min(state)] AS state
        FROM counted
        GROUP BY (first_record - 1) * %(bins)s / greatest(%(total_records)s::bigint, 1)
        ORDER BY 1
        """,
        {
            "import_id": import_id,
            "bins": bins,
            "total_records": total_records,
            "states": ["failed", "cancelled", "running", "pending", "done"],
        },
    )
    return await cursor.fetchall()
