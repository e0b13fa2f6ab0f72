"""The refused records of an import, a page at a time, with their errors.

What a page costs does not depend on the size of the import. A filter reads stored errors, which are IMPORT_ERRORS_MAX at most.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from db.connections.pool import Connection
from db.imports.records import NOT_STORED, ChunkRecords, Gone, RecordNote, exists


class RefusedError(RecordNote, frozen=True, kw_only=True, omit_defaults=True):
    """The same with the value that was sent, cut as in the list of errors."""

    value: str | None = None


class Selection(NamedTuple):
    """Those of the refused records that have an error with this code and field; `unrepaired`: without those in repairs.

    Of records whose errors are not stored it is not known.
    """

    code: str | None
    field: str | None
    unrepaired: bool


async def next_chunk(
    conn: Connection, id: UUID, selection: Selection, *, after_record: int, limit: int
) -> ChunkRecords | None:
    """The first refused records behind `after_record`, at most `limit` of one chunk; None at the end.

    If repairs have all records of the chunk that `import_refused` leads to, `numbers` is empty, but further chunks may follow.
    Chunks are found from the errors by their key, so that those without refused records cost nothing. Raises `Gone` if the
    import was deleted meanwhile.
    """
    cursor = conn.cursor(row_factory=class_row(ChunkRecords), binary=True)
    await cursor.execute(
        """
        WITH next AS MATERIALIZED (
            SELECT least(
                (
                    SELECT record
                    FROM import_errors
                    WHERE import_id = %(id)s
                        AND record > %(after)s
                        AND (%(code)s::text IS NULL OR code = %(code)s)
                        AND (%(field)s::text IS NULL OR field = %(field)s)
                        AND NOT (%(unrepaired)s AND EXISTS (
                            SELECT 1
                            FROM import_repairs
                            WHERE parent_id = %(id)s AND import_repairs.record = import_errors.record
                        ))
                    ORDER BY record
                    LIMIT 1
                ),
                (
                    SELECT (
                        SELECT min(greatest(lower(numbers), %(after)s + 1))
                        FROM unnest(records) AS numbers
                        WHERE upper(numbers) > %(after)s + 1
                    )
                    FROM import_refused
                    WHERE %(code)s::text IS NULL
                        AND %(field)s::text IS NULL
                        AND import_id = %(id)s
                        AND upper(records) > %(after)s + 1
                        -- from the chunk of the next record on, if that is here
                        AND first_record >= coalesce(
                            (
                                SELECT max(first_record)
                                FROM import_refused
                                WHERE import_id = %(id)s AND first_record <= %(after)s + 1
                            ),
                            0
                        )
                    ORDER BY first_record
                    LIMIT 1
                )
            ) AS record
        ), chunk AS MATERIALIZED (
            SELECT payload.*,
                coalesce(
                    (
                        SELECT min(first_record)
                        FROM import_payloads
                        WHERE import_id = %(id)s AND first_record > payload.first_record
                    ),
                    (SELECT total_records + 1 FROM import_jobs WHERE id = %(id)s)
                ) AS next_record
            FROM next
            CROSS JOIN LATERAL (
                SELECT first_record, first_line, data, starts, lines
                FROM import_payloads
                WHERE import_id = %(id)s AND first_record <= next.record
                ORDER BY first_record DESC
                LIMIT 1
            ) AS payload
        )
        SELECT coalesce(first_record, record) AS first_record, coalesce(first_line, 0) AS first_line,
            coalesce(next_record - first_record, 0)::integer AS count, data, starts, lines,
            ARRAY(
                SELECT record
                FROM (
                    SELECT record
                    FROM import_errors
                    WHERE import_id = %(id)s
                        AND record >= next.record
                        AND record < next_record
                        AND (%(code)s::text IS NULL OR code = %(code)s)
                        AND (%(field)s::text IS NULL OR field = %(field)s)
                    UNION
                    SELECT generate_series(greatest(lower(numbers), next.record), upper(numbers) - 1)
                    FROM import_refused, unnest(records) AS numbers
                    WHERE %(code)s::text IS NULL
                        AND %(field)s::text IS NULL
                        AND import_id = %(id)s
                        AND import_refused.first_record = chunk.first_record
                ) AS refused
                WHERE NOT (%(unrepaired)s AND EXISTS (
                    SELECT 1
                    FROM import_repairs
                    WHERE parent_id = %(id)s AND import_repairs.record = refused.record
                ))
                ORDER BY record
                LIMIT %(limit)s
            ) AS numbers
        FROM next
        LEFT JOIN chunk ON true
        WHERE record IS NOT NULL
        """,
        {"id": id, "after": after_record, "limit": limit, **selection._asdict()},
    )
    found = await cursor.fetchone()
    if found is None and not await exists(conn, id):
        raise Gone
    return found


async def count(conn: Connection, id: UUID, selection: Selection) -> int:
    """How many records were refused so far that the selection has."""
    if selection.code is None and selection.field is None:
        query = """
            SELECT CASE
                WHEN finished_at IS NULL THEN (SELECT coalesce(sum(failed), 0)::bigint FROM chunks WHERE job_id = import_jobs.id)
                ELSE failed
            END - (SELECT count(*) FROM import_repairs WHERE %(unrepaired)s AND parent_id = %(id)s)
            FROM import_jobs
            WHERE id = %(id)s
        """
    else:
        query = """
            SELECT count(*)
            FROM (
                SELECT DISTINCT record
                FROM import_errors
                WHERE import_id = %(id)s
                    AND (%(code)s::text IS NULL OR code = %(code)s)
                    AND (%(field)s::text IS NULL OR field = %(field)s)
            ) AS matching
            WHERE NOT (%(unrepaired)s AND EXISTS (
                SELECT 1
                FROM import_repairs
                WHERE parent_id = %(id)s AND import_repairs.record = matching.record
            ))
        """
    cursor = await conn.execute(query, {"id": id, **selection._asdict()})
    row = await cursor.fetchone()
    return row[0] if row else 0


async def errors(conn: Connection, id: UUID, *, numbers: Sequence[int]) -> dict[int, list[RefusedError]]:
    """All stored errors of these refused records, by record; `NOT_STORED` for a record without."""
    cursor = await conn.execute(
        """
        SELECT record, field, code, message, duplicate_of_line, value
        FROM import_errors
        WHERE import_id = %(id)s AND record = ANY (%(numbers)s)
        ORDER BY record, n
        """,
        {"id": id, "numbers": list(numbers)},
    )
    found: dict[int, list[RefusedError]] = {}
    async for record, field, code, message, line, value in cursor:
        error = RefusedError(field=field, code=code, message=message, duplicate_of_line=line, value=value)
        found.setdefault(record, []).append(error)
    missing = RefusedError(**msgspec.structs.asdict(NOT_STORED))
    return {number: found.get(number, [missing]) for number in numbers}
