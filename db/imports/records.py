"""Reads the refused and the unprocessed records of an import as they were sent, chunk by chunk."""

from collections.abc import Iterator
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from db.connections.pool import Connection
from db.formats import Format
from db.imports.payload import Chunk
from db.resources.definition import Code


class Gone(Exception):
    """The import or the bytes of its records were removed meanwhile."""


class RecordNote(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One error of a record, as shown in an annotated record."""

    field: str | None
    code: Code
    message: str
    duplicate_of_line: int | None = None


# stands for the errors of a refused record that has none in import_errors
NOT_STORED = RecordNote(
    field=None,
    code="errors_not_stored",
    message="the errors of this record were counted but not stored, because the import has too many errors",
)


class ChunkRecords(msgspec.Struct, frozen=True, kw_only=True):
    """The requested records of one chunk: `numbers`, in order. `data` is None when the bytes were removed."""

    first_record: int
    first_line: int
    count: int
    data: bytes | None
    starts: list[int] | None
    lines: list[int] | None
    numbers: list[int]

    def records(self, format: Format) -> Iterator[tuple[int, int, bytes]]:
        """Number, line and bytes of each record; a line end is part of a record, the comma of a JSON array is not.

        Raises `Gone`.
        """
        if self.data is None:
            raise Gone
        chunk = Chunk(self.first_record, self.first_line, self.count, self.data, self.starts, self.lines)
        raws = list(chunk.slices())
        for number in self.numbers:
            index = number - self.first_record
            if index >= len(raws):
                # the bytes of its chunk were removed, those of an earlier one were not yet
                raise Gone
            raw = raws[index]
            if format == "json" and index + 1 < self.count:
                raw = raw.removesuffix(b",\n")
            yield number, chunk.line(index), raw


class NextChunk(ChunkRecords, frozen=True, kw_only=True):
    seq: int


async def next_chunk(
    conn: Connection, id: UUID, *, after_seq: int, failed: bool, unprocessed: bool, every: bool, unrepaired: bool
) -> NextChunk | None:
    """The first chunk after `after_seq` with a refused or an unprocessed record, in its current state; None at the end.

    `every`: the next chunk, with all its records. `unrepaired` leaves out records that repairs have, which may be all of it.
    Raises `Gone` if the import was deleted meanwhile, so a reader that reaches the end has seen every record.
    """
    cursor = conn.cursor(row_factory=class_row(NextChunk), binary=True)
    await cursor.execute(
        # chunks in the order of their key (job_id, seq); the other tables are looked up by key for each
        """
        SELECT seq, chunks.first_record, first_line, records AS count, data, starts, lines,
            ARRAY(
                SELECT record
                FROM (
                    SELECT record
                    FROM import_errors
                    WHERE %(failed)s AND import_id = %(id)s AND record >= chunks.first_record AND record < next_record
                    UNION
                    SELECT generate_series(lower(numbers), upper(numbers) - 1)
                    FROM import_refused, unnest(import_refused.records) AS numbers
                    WHERE %(failed)s AND import_id = %(id)s AND first_record = chunks.first_record
                    UNION
                    SELECT record
                    FROM import_deferred
                    WHERE %(unprocessed)s AND import_id = %(id)s AND record >= chunks.first_record AND record < next_record
                    UNION
                    SELECT generate_series(chunks.first_record, next_record - 1)
                    WHERE %(every)s OR (%(unprocessed)s AND state <> 'done')
                ) AS requested
                WHERE NOT %(unrepaired)s
                    OR NOT EXISTS (
                        SELECT 1
                        FROM import_repairs
                        WHERE parent_id = %(id)s AND import_repairs.record = requested.record
                    )
                ORDER BY record
            ) AS numbers
        FROM chunks
        CROSS JOIN LATERAL (SELECT chunks.first_record + records AS next_record) AS bounds
        LEFT JOIN import_payloads AS payload
            ON payload.import_id = %(id)s AND payload.first_record = chunks.first_record
        WHERE job_id = %(id)s
            AND seq > %(after_seq)s
            AND kind = 'records'
            AND (
                %(every)s
                OR %(unprocessed)s AND state <> 'done'
                OR %(unprocessed)s AND EXISTS (
                    SELECT 1
                    FROM import_deferred
                    WHERE import_id = %(id)s AND record >= chunks.first_record AND record < next_record
                )
                OR %(failed)s AND EXISTS (
                    SELECT 1 FROM import_refused WHERE import_id = %(id)s AND first_record = chunks.first_record
                )
                OR %(failed)s AND EXISTS (
                    SELECT 1
                    FROM import_errors
                    WHERE import_id = %(id)s AND record >= chunks.first_record AND record < next_record
                )
            )
        ORDER BY seq
        LIMIT 1
        """,
        {
            "id": id,
            "after_seq": after_seq,
            "failed": failed,
            "unprocessed": unprocessed,
            "every": every,
            "unrepaired": unrepaired,
        },
    )
    found = await cursor.fetchone()
    if found is None and not await exists(conn, id):
        raise Gone
    return found


async def notes(conn: Connection, id: UUID, *, first: int, last: int) -> dict[int, list[RecordNote]]:
    """The errors of the records from `first` to `last`, by record."""
    cursor = await conn.execute(
        """
        SELECT record, field, code, message, duplicate_of_line
        FROM import_errors
        WHERE import_id = %(id)s AND record BETWEEN %(first)s AND %(last)s
        ORDER BY record, n
        """,
        {"id": id, "first": first, "last": last},
    )
    found: dict[int, list[RecordNote]] = {}
    async for record, field, code, message, line in cursor:
        found.setdefault(record, []).append(RecordNote(field=field, code=code, message=message, duplicate_of_line=line))
    return found


async def exists(conn: Connection, id: UUID) -> bool:
    cursor = await conn.execute("SELECT FROM import_jobs WHERE id = %(id)s", {"id": id})
    return await cursor.fetchone() is not None
