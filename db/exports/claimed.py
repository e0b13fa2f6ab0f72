"""What a worker reads and writes for an export that it has claimed."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from db import queue
from db.connections.pool import Connection
from db.exports.filters import Selection, select
from db.formats import Compression, ExportFormat
from db.resources import RESOURCES


class ClaimedExport(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a claimed export."""

    resource: str
    format: ExportFormat
    compression: Compression
    filters: dict[str, Any] | None
    fields: list[str] | None
    csv_safe: bool
    bom: bool
    changed_since: str | None

    @property
    def selection(self) -> Selection:
        """Raises `filters.InvalidSelection` if the job was accepted by a version that has other filters."""
        return select(
            RESOURCES[self.resource],
            filters=self.filters or {},
            fields=self.fields,
            changed_since=self.changed_since,
        )


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A complete file. `name` is relative to EXPORT_DIR; `bytes` and `sha256` are of the stored, possibly compressed, file."""

    name: str
    sha256: bytes
    bytes: int
    records: int
    snapshot_at: datetime
    watermark: str


async def use_repeatable_read(conn: Connection) -> None:
    """Gives all statements of the transaction one snapshot. Must be its first statement.

    The queue protocol works at this level too: a row that was changed concurrently raises a serialization failure, after which
    the work is retried. For an export that means a lost claim, or a job that was cancelled just before its commit.
    """
    await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")


async def load_claimed(conn: Connection, claim: queue.Claim) -> ClaimedExport:
    """The parameters of the claimed chunk's export."""
    cursor = conn.cursor(row_factory=class_row(ClaimedExport))
    await cursor.execute(
        """
        SELECT resource, format, compression, filters, fields, csv_safe, bom, changed_since
        FROM export_jobs
        WHERE id = %(id)s
        """,
        {"id": claim.job_id},
    )
    export = await cursor.fetchone()
    assert export is not None, "the foreign key keeps the job as long as the chunk exists"  # noqa: S101
    return export


async def report_progress(conn: Connection, claim: queue.Claim, *, total_records: int, records: int) -> bool:
    """Stores the progress of the work. Returns whether the job was cancelled.

    Needs a second connection: changes made in the transaction of the work are not visible until it commits. The report of a
    worker with an older lease is ignored.
    """
    cursor = await conn.execute(
        """
        WITH report AS (
            INSERT INTO export_progress_reports AS latest (export_id, lease, total_records, records)
            VALUES (%(id)s, %(lease)s, %(total_records)s, %(records)s)
            ON CONFLICT (export_id) DO UPDATE
            SET lease = excluded.lease, total_records = excluded.total_records, records = excluded.records
            WHERE latest.lease <= excluded.lease
        )
        SELECT cancel_requested_at IS NOT NULL FROM export_jobs WHERE id = %(id)s
        """,
        {"id": claim.job_id, "lease": claim.lease, "total_records": total_records, "records": records},
    )
    return await cursor.fetchone() != (False,)


async def store_file(conn: Connection, id: UUID, file: File) -> None:
    """Stores the description of the file in the job, in the fenced transaction of the worker that wrote the file.

    Call it late: the lock on the job's row lasts until the commit, and a cancel request waits for it. Rows are locked in the
    order of the queue protocol, the chunk before the job.
    """
    await conn.execute(
        """
        UPDATE export_jobs
        SET file_name = %(name)s,
            file_bytes = %(bytes)s,
            file_records = %(records)s,
            file_sha256 = %(sha256)s,
            total_records = %(records)s,
            snapshot_at = %(snapshot_at)s,
            watermark = %(watermark)s
        WHERE id = %(id)s
        """,
        {"id": id, **msgspec.structs.asdict(file)},
    )
