"""The result of each processed record of an import, from the rows of its resource: each has the import that wrote it last."""

from collections.abc import AsyncGenerator
from typing import Literal
from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.rows import class_row

from db.connections.pool import Connection
from db.imports.jobs import Import
from db.imports.payload import Chunk
from db.imports.records import Gone
from db.resources.definition import Resource

# the rows of one FETCH
ROWS = 1000


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the import did with a record. `id` is that of its row, null without one.

    `skipped`: nothing was stored. `unknown`: no row has this record now. It was stored, and its row has been written by a later
    import or was deleted; or it was skipped, which cannot be told apart if the import has both.
    """

    line: int
    record: int
    id: str | None
    outcome: Literal["created", "updated", "unchanged", "skipped", "unknown"]


async def read(conn: Connection, resource: Resource, job: Import) -> AsyncGenerator[list[Result]]:
    """The results of the records of a final import that were neither refused nor left unprocessed, chunk by chunk, in the order
    of the file. Needs a transaction.

    Without an index on `import_id` the rows are found by reading the table once, before the first result. Raises `Gone`, also at
    the end if some are missing.
    """
    stored = job.created + job.updated + job.unchanged
    listed, after_seq = 0, 0
    async with conn.cursor(name="results", row_factory=class_row(_Row)) as cursor:
        cursor.itersize = ROWS
        await cursor.execute(
            sql.SQL(
                """
                SELECT import_record AS record, id::text AS id, import_action AS outcome, count(*) OVER () AS total
                FROM {table}
                WHERE import_id = %(id)s
                ORDER BY import_record
                """
            ).format(table=sql.Identifier(resource.name)),
            {"id": job.id},
        )
        rows = aiter(cursor)
        row = await anext(rows, None)
        without_row = "skipped" if stored == (row.total if row else 0) else "unknown"
        while (chunk := await _next_chunk(conn, job.id, after_seq=after_seq)) is not None:
            without_result = set(chunk.without_result)
            lines = Chunk(chunk.first_record, chunk.first_line, chunk.count, b"", None, chunk.lines)
            results: list[Result] = []
            for index in range(chunk.count):
                record, line = chunk.first_record + index, lines.line(index)
                if row is not None and row.record == record:
                    results.append(Result(line=line, record=record, id=row.id, outcome=row.outcome))
                    row = await anext(rows, None)
                elif record not in without_result:
                    results.append(Result(line=line, record=record, id=None, outcome=without_row))
            yield results
            listed += len(results)
            after_seq = chunk.seq
    # retention removes an import in several steps; an incomplete file must not look complete
    if listed != stored + job.skipped:
        raise Gone


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    record: int
    id: str
    outcome: Literal["created", "updated", "unchanged"]
    total: int


class _NextChunk(msgspec.Struct, frozen=True, kw_only=True):
    """`without_result`: its records that were refused, and those of a cancelled import that were not decided."""

    seq: int
    first_record: int
    first_line: int
    count: int
    lines: list[int] | None
    without_result: list[int]


async def _next_chunk(conn: Connection, id: UUID, *, after_seq: int) -> _NextChunk | None:
    """The first processed chunk after `after_seq`, found by the key (job_id, seq), as what belongs to it is by theirs."""
    cursor = conn.cursor(row_factory=class_row(_NextChunk), binary=True)
    await cursor.execute(
        """
        SELECT seq, chunks.first_record, first_line, records AS count, lines,
            ARRAY(
                SELECT record
                FROM import_errors
                WHERE import_id = %(id)s AND record >= chunks.first_record AND record < chunks.first_record + chunks.records
                UNION
                SELECT generate_series(lower(numbers), upper(numbers) - 1)
                FROM import_refused, unnest(import_refused.records) AS numbers
                WHERE import_id = %(id)s AND first_record = chunks.first_record
                UNION
                SELECT record
                FROM import_deferred
                WHERE import_id = %(id)s AND record >= chunks.first_record AND record < chunks.first_record + chunks.records
            ) AS without_result
        FROM chunks
        JOIN import_payloads AS payload ON payload.import_id = %(id)s AND payload.first_record = chunks.first_record
        WHERE job_id = %(id)s AND seq > %(after_seq)s AND kind = 'records' AND state = 'done'
        ORDER BY seq
        LIMIT 1
        """,
        {"id": id, "after_seq": after_seq},
    )
    return await cursor.fetchone()
