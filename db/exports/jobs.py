"""Export jobs from the request to the end: create; look; what the worker found; finish.

An export is one chunk of the queue. Its job is a row apart, so that the API can write to it while a worker holds the chunk.
"""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from db import queue
from db.compression import Compression
from db.imports.payload import Format
from db.connections.pool import Connection
from db.resources import RESOURCES
from db.exports.filters import Selection, select

Status = Literal["pending", "processing", "completed", "failed", "cancelled", "expired"]
FINAL = ("completed", "failed", "cancelled", "expired")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked for; `filters` and `fields` in its own words, None: all records, all fields.

    `digest` tells a repetition from another request under the same idempotency token.
    """

    resource: str
    format: Format
    compression: Compression
    filters: dict[str, Any] | None = None
    fields: list[str] | None = None
    csv_safe: bool = False
    idempotency_token: str | None
    digest: bytes
    request_id: str | None


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it is now. The facts of the file come at once, with the end of the work.

    Of one that is worked on, `total_records` and `exported_records` are what its worker last told; `now` is the server's time.
    """

    id: UUID
    status: Status
    resource: str
    format: Format
    compression: Compression
    filters: dict[str, Any] | None
    fields: list[str] | None
    csv_safe: bool
    total_records: int | None
    exported_records: int | None
    now: datetime
    snapshot_at: datetime | None
    file_name: str | None
    file_bytes: int | None
    file_records: int | None
    file_sha256: bytes | None
    problem: dict[str, Any] | None
    request_digest: bytes
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker must know of the export that its chunk is."""

    resource: str
    format: Format
    compression: Compression
    filters: dict[str, Any] | None
    fields: list[str] | None
    csv_safe: bool

    @property
    def selection(self) -> Selection:
        """Raises `selection.Unselectable` when the order was taken in by a version that knows other filters."""
        return select(RESOURCES[self.resource], filters=self.filters or {}, fields=self.fields)


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file, as it was written. `name` is within EXPORT_DIR; `bytes` and `sha256` are of the file, packed if it is."""

    name: str
    sha256: bytes
    bytes: int
    records: int
    snapshot_at: datetime


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a job at its end, once. `records` and `bytes` are None when there is no file."""

    id: UUID
    resource: str
    format: str
    status: Status
    request_id: str | None
    records: int | None
    bytes: int | None
    seconds: float


# the columns of Export
_SELECT = """
    SELECT id, status, resource, format, compression, filters, fields, csv_safe,
        coalesce(export_jobs.total_records, tally.total_records) AS total_records,
        coalesce(file_records, tally.records) AS exported_records, clock_timestamp() AS now, snapshot_at, file_name, file_bytes,
        file_records, file_sha256, problem, request_digest, created_at, started_at, finished_at
    FROM export_jobs
    LEFT JOIN export_tallies AS tally ON tally.export_id = export_jobs.id
"""


async def create(conn: Connection, order: Order) -> UUID | None:
    """A new job, its chunk with it, and the workers told; None when another job has the idempotency token.

    Of two at once with one token the second waits for the first to commit, and then gets None. Needs a transaction.
    """
    id = uuid7()
    cursor = await conn.execute(
        """
        INSERT INTO export_jobs (
            id, resource, format, compression, filters, fields, csv_safe, idempotency_token, request_digest, request_id
        )
        VALUES (
            %(id)s, %(resource)s, %(format)s, %(compression)s, %(filters)s, %(fields)s, %(csv_safe)s,
            %(idempotency_token)s, %(digest)s, %(request_id)s
        )
        ON CONFLICT (idempotency_token) DO NOTHING
        """,
        {"id": id, **msgspec.structs.asdict(order), "filters": order.filters and Jsonb(order.filters)},
    )
    if cursor.rowcount == 0:
        return None
    await conn.execute("INSERT INTO chunks (export_id, kind, seq) VALUES (%(id)s, 'export', 1)", {"id": id})
    await queue.notify(conn)
    return id


async def get(conn: Connection, id: UUID) -> Export | None:
    cursor = conn.cursor(row_factory=class_row(Export))
    await cursor.execute(_SELECT + "WHERE id = %(id)s", {"id": id})
    return await cursor.fetchone()


async def by_token(conn: Connection, token: str) -> Export | None:
    """The job that holds an idempotency token."""
    cursor = conn.cursor(row_factory=class_row(Export))
    await cursor.execute(_SELECT + "WHERE idempotency_token = %(token)s", {"token": token})
    return await cursor.fetchone()


async def newest(
    conn: Connection, *, status: str | None, resource: str | None, before: UUID | None, limit: int
) -> list[Export]:
    """Jobs, newest first, from the one after `before` on."""
    cursor = conn.cursor(row_factory=class_row(Export))
    await cursor.execute(
        _SELECT
        + """
        WHERE (%(status)s::text IS NULL OR status = %(status)s)
            AND (%(resource)s::text IS NULL OR resource = %(resource)s)
            AND (%(before)s::uuid IS NULL OR id < %(before)s)
        ORDER BY id DESC
        LIMIT %(limit)s
        """,
        {"status": status, "resource": resource, "before": before, "limit": limit},
    )
    return await cursor.fetchall()


async def isolate(conn: Connection) -> None:
    """Gives all statements of the transaction one snapshot; to be called before the first of them.

    The queue's protocol bears it: whatever changed meanwhile under a lock that is wanted here is a serialization failure, which
    is tried again in place. For an export that is a claim that was lost, or a job that was cancelled at the last moment.
    """
    await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")


async def work(conn: Connection, claim: queue.Claim) -> Work:
    """What the claimed chunk's export asks for."""
    cursor = conn.cursor(row_factory=class_row(Work))
    await cursor.execute(
        """
        SELECT resource, format, compression, filters, fields, csv_safe
        FROM export_jobs
        WHERE id = %(id)s
        """,
        {"id": claim.job_id},
    )
    work = await cursor.fetchone()
    assert work is not None, "a chunk's job is there as long as the chunk is"  # noqa: S101
    return work


async def tell(conn: Connection, claim: queue.Claim, *, total_records: int, records: int) -> bool:
    """Lets everybody see how far the work is; whether the job is wanted no more.

    On another connection than the work's, whose transaction nobody sees into. What a worker tells that has lost its claim
    does not count.
    """
    cursor = await conn.execute(
        """
        WITH told AS (
            INSERT INTO export_tallies AS tally (export_id, lease, total_records, records)
            VALUES (%(id)s, %(lease)s, %(total_records)s, %(records)s)
            ON CONFLICT (export_id) DO UPDATE
            SET lease = excluded.lease, total_records = excluded.total_records, records = excluded.records
            WHERE tally.lease <= excluded.lease
        )
        SELECT cancel_requested_at IS NOT NULL FROM export_jobs WHERE id = %(id)s
        """,
        {"id": claim.job_id, "lease": claim.lease, "total_records": total_records, "records": records},
    )
    return await cursor.fetchone() != (False,)


async def describe(conn: Connection, id: UUID, file: File) -> None:
    """Writes what the file is, in the fenced transaction of the worker that wrote it, as late as can be.

    The order is the queue's, the chunk's row before the job's. The lock on the job's row lasts until the commit, and whoever
    wants to cancel the job waits for it.
    """
    await conn.execute(
        """
        UPDATE export_jobs
        SET file_name = %(name)s,
            file_bytes = %(bytes)s,
            file_records = %(records)s,
            file_sha256 = %(sha256)s,
            total_records = %(records)s,
            snapshot_at = %(snapshot_at)s
        WHERE id = %(id)s
        """,
        {"id": id, **msgspec.structs.asdict(file)},
    )


async def finish(conn: Connection, id: UUID) -> Finished | None:
    """Ends the job if its chunk is final; to be called after the commit that made it so, after a cancel, and by the sweep.

    Returns the job's end to the one caller whom it falls to write it.
    """
    await _cancel_pending(conn, id)
    cursor = conn.cursor(row_factory=class_row(Finished))
    await cursor.execute(
        """
        UPDATE export_jobs
        SET status = CASE chunks.state WHEN 'done' THEN 'completed' WHEN 'failed' THEN 'failed' ELSE 'cancelled' END,
            problem = CASE chunks.state WHEN 'failed' THEN jsonb_build_object(
                'type', '/problems/export-failed',
                'title', 'The export could not be written',
                'detail', format('It was begun %%s times, and given up then: %%s', chunks.attempt, chunks.accident)
            ) END,
            finished_at = clock_timestamp()
        FROM chunks
        WHERE export_jobs.id = %(id)s
            AND export_jobs.status IN ('pending', 'processing')
            AND chunks.job_id = export_jobs.id
            AND chunks.state IN ('done', 'failed', 'cancelled')
        RETURNING export_jobs.id, resource, format, status, request_id, file_records AS records, file_bytes AS bytes,
            extract(epoch FROM export_jobs.finished_at - coalesce(started_at, created_at))::float8 AS seconds
        """,
        {"id": id},
    )
    return await cursor.fetchone()


async def cancel(conn: Connection, id: UUID) -> bool:
    """Asks for the end of a job that is not final; whether there is such a job. `finish` is to be called afterwards."""
    cursor = await conn.execute(
        """
        UPDATE export_jobs
        SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
        WHERE id = %(id)s AND status IN ('pending', 'processing')
        """,
        {"id": id},
    )
    return cursor.rowcount == 1


async def unfinished(conn: Connection) -> list[UUID]:
    """Live jobs whose chunk is final, or will never begin: whoever ought to have called `finish` died before it could."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT id
        FROM export_jobs
        WHERE status IN ('pending', 'processing')
            AND EXISTS (
                SELECT
                FROM chunks
                WHERE job_id = export_jobs.id
                    AND (
                        state IN ('done', 'failed', 'cancelled')
                        OR (state = 'pending' AND cancel_requested_at IS NOT NULL)
                    )
            )
        """
    )
    return await cursor.fetchall()


async def lost(conn: Connection, claims: set[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
    """Those of `claims`, each an export's id and a lease, that nobody holds any more. A job that is not known is left out."""
    cursor = await conn.execute(
        """
        SELECT job_id, claimed.lease
        FROM unnest(%(ids)s::uuid[], %(leases)s::int[]) AS claimed (id, lease)
        JOIN chunks ON chunks.job_id = claimed.id AND chunks.kind = 'export'
        WHERE NOT (chunks.state = 'running' AND chunks.lease = claimed.lease)
        """,
        {"ids": [id for id, _ in claims], "leases": [lease for _, lease in claims]},
    )
    return {(id, lease) async for id, lease in cursor}


async def _cancel_pending(conn: Connection, id: UUID) -> None:
    """Cancels a stopped job's chunk if it was not begun; one that is being claimed right now is passed by and dropped there."""
    await conn.execute(
        """
        WITH stopped AS MATERIALIZED (
            SELECT chunks.id
            FROM chunks
            JOIN export_jobs ON export_jobs.id = chunks.job_id
            WHERE chunks.job_id = %(id)s AND state = 'pending' AND cancel_requested_at IS NOT NULL
            FOR NO KEY UPDATE OF chunks SKIP LOCKED
        )
        UPDATE chunks
        SET state = 'cancelled', finished_at = clock_timestamp()
        FROM stopped
        WHERE chunks.id = stopped.id
        """,
        {"id": id},
    )
