"""The record errors of an import: stored by chunk up to a limit, read in pages, and summarised by code and field."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import msgspec
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb

from db import copy
from db.connections.pool import Connection
from db.resources.definition import Code, RecordError

# maximum entries of a summary
KINDS_MAX = 100


class ErrorCount(msgspec.Struct, frozen=True, kw_only=True):
    """The number of stored errors with this code and field, and the line of the first one."""

    code: Code
    field: str | None
    count: int
    first_line: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The most frequent combinations of code and field, and the number of all combinations."""

    counts: list[ErrorCount]
    kinds: int


class Position(msgspec.Struct, frozen=True, array_like=True):
    """An error's position in the order of the file."""

    record: int
    n: int


START = Position(0, 0)


async def insert(
    conn: Connection, import_id: UUID, errors: Sequence[RecordError], *, unlisted: Sequence[int], errors_max: int
) -> int:
    """Stores errors, which are in the order of their records, until the import has `errors_max` of them.

    Returns the number of errors that were not stored. The numbers of their records, and of the refused records `unlisted`, are
    stored as ranges. Concurrent chunks do not see each other's errors, so the limit may be exceeded by a chunk's errors each.
    """
    if not errors and not unlisted:
        return 0
    kept = errors[: max(0, errors_max - await _stored(conn, import_id))]
    if kept:
        columns = ["import_id", "record", "n", "line", "record_id", "record_key", "field", "code", "message", "value"]
        types = ["uuid", "int8", "int2", "int8", *["text"] * 6, "int8"]
        await copy.rows(conn, "import_errors", [*columns, "duplicate_of_line"], types, _rows(import_id, kept))
    last = kept[-1].record if kept else 0
    refused = {error.record for error in errors[len(kept) :]} - {last}
    await _keep_refused(conn, import_id, [*refused, *unlisted])
    return len(errors) - len(kept)


async def remove_excess(
    conn: Connection, import_id: UUID, chunks: Sequence[int], *, listed: int, errors_max: int
) -> int:
    """Removes those of the `listed` errors of this transaction that exceed the limit. Returns their number.

    For errors that an SQL statement has inserted. `chunks` are the ids of the chunks of their records; empty means all.
    """
    stored = await _stored(conn, import_id)
    if stored + listed <= errors_max:
        return 0
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        # the bounds are for the index; between chunks that were claimed together there may be chunks of other workers
        """
        WITH slice AS MATERIALIZED (
            SELECT first_record, first_record + records AS next_record
            FROM chunks
            WHERE id = ANY (%(chunks)s::bigint[]) OR (%(chunks)s::bigint[] = '{}' AND import_id = %(id)s AND kind = 'records')
        ), excess AS (
            SELECT record, n
            FROM import_errors
            WHERE import_id = %(id)s
                AND record >= (SELECT min(first_record) FROM slice)
                AND record < (SELECT max(next_record) FROM slice)
                AND (
                    %(chunks)s::bigint[] = '{}'
                    OR EXISTS (SELECT 1 FROM slice WHERE record >= first_record AND record < next_record)
                )
            ORDER BY record, n
            OFFSET %(allowed)s
        )
        DELETE FROM import_errors
        USING excess
        WHERE import_id = %(id)s AND import_errors.record = excess.record AND import_errors.n = excess.n
        RETURNING import_errors.record
        """,
        {
            "id": import_id,
            "chunks": list(chunks),
            "allowed": errors_max if not chunks else max(0, errors_max - stored),
        },
    )
    removed = await cursor.fetchall()
    if removed:
        await cursor.execute(
            """
            SELECT record
            FROM unnest(%(records)s::bigint[]) AS removed (record)
            WHERE NOT EXISTS (SELECT 1 FROM import_errors WHERE import_id = %(id)s AND import_errors.record = removed.record)
            """,
            {"id": import_id, "records": list(set(removed))},
        )
        await _keep_refused(conn, import_id, await cursor.fetchall())
    return len(removed)


async def page(
    conn: Connection, import_id: UUID, *, after: Position, code: str | None, field: str | None, limit: int
) -> tuple[list[RecordError], Position | None]:
    """Errors in the order of the file, starting after the position `after`; and the last one's position if there are more."""
    cursor = conn.cursor(row_factory=class_row(_Row))
    await cursor.execute(
        """
        SELECT line, record, n, record_id AS id, record_key AS key, field, code, message, value, duplicate_of_line
        FROM import_errors
        WHERE import_id = %(id)s
            AND (record, n) > (%(record)s, %(n)s)
            AND (%(code)s::text IS NULL OR code = %(code)s)
            AND (%(field)s::text IS NULL OR field = %(field)s)
        ORDER BY record, n
        LIMIT %(limit)s
        """,
        {"id": import_id, "record": after.record, "n": after.n, "code": code, "field": field, "limit": limit + 1},
    )
    rows = await cursor.fetchall()
    errors = [msgspec.convert(row, RecordError, from_attributes=True) for row in rows[:limit]]
    return errors, Position(rows[limit - 1].record, rows[limit - 1].n) if len(rows) > limit else None


async def count(conn: Connection, import_id: UUID, *, code: str | None, field: str | None) -> int:
    """The number of stored errors."""
    cursor = await conn.execute(
        """
        SELECT count(*)
        FROM import_errors
        WHERE import_id = %(id)s
            AND (%(code)s::text IS NULL OR code = %(code)s)
            AND (%(field)s::text IS NULL OR field = %(field)s)
        """,
        {"id": import_id, "code": code, "field": field},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def are_complete(conn: Connection, import_id: UUID) -> bool:
    """Whether no stored error has been removed: what has expired is removed in steps. True while the import runs."""
    cursor = await conn.execute(
        """
        SELECT finished_at IS NULL
            OR errors - errors_omitted = (SELECT count(*) FROM import_errors WHERE import_id = %(id)s)
        FROM import_jobs
        WHERE id = %(id)s
        """,
        {"id": import_id},
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def summary(conn: Connection, import_id: UUID) -> Summary:
    """The summary: the stored one of a final job, otherwise counted now."""
    cursor = conn.cursor(row_factory=class_row(_StoredSummary))
    await cursor.execute(
        "SELECT error_summary AS counts, error_kinds AS kinds FROM import_jobs WHERE id = %(id)s AND error_kinds IS NOT NULL",
        {"id": import_id},
    )
    row = await cursor.fetchone()
    if row is None:
        await cursor.execute(SUMMARISE, {"id": import_id, "kinds_max": KINDS_MAX})
        row = await cursor.fetchone()
    return (
        Summary(counts=msgspec.convert(row.counts, list[ErrorCount]), kinds=row.kinds)
        if row
        else Summary(counts=[], kinds=0)
    )


# one row: the most frequent combinations as JSON, and the number of combinations
SUMMARISE = """
SELECT coalesce(jsonb_agg(kind ORDER BY place) FILTER (WHERE place <= %(kinds_max)s), '[]') AS counts, count(*) AS kinds
FROM (
    SELECT code, field, count(*) AS count, min(line) AS first_line,
        row_number() OVER (ORDER BY count(*) DESC, code, field) AS place
    FROM import_errors
    WHERE import_id = %(id)s
    GROUP BY code, field
) AS ranked
CROSS JOIN LATERAL (SELECT code, field, count, first_line) AS kind
"""


async def write_summary(conn: Connection, import_id: UUID) -> None:
    """Stores the summary with a job that has just become final."""
    found = await summary(conn, import_id)
    await conn.execute(
        "UPDATE import_jobs SET error_summary = %(counts)s, error_kinds = %(kinds)s WHERE id = %(id)s",
        {"id": import_id, "counts": Jsonb(msgspec.to_builtins(found.counts)), "kinds": found.kinds},
    )


async def _stored(conn: Connection, import_id: UUID) -> int:
    """The number of errors that the import's finished chunks have stored."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        "SELECT coalesce(sum(errors - errors_omitted), 0)::bigint FROM chunks WHERE job_id = %(id)s AND errors > 0",
        {"id": import_id},
    )
    return await cursor.fetchone() or 0


async def _keep_refused(conn: Connection, import_id: UUID, records: Sequence[int]) -> None:
    """Stores the numbers of refused records without a stored error, as ranges by chunk."""
    if not records:
        return
    await conn.execute(
        """
        INSERT INTO import_refused (import_id, first_record, records)
        SELECT %(id)s, chunk.first_record, range_agg(int8range(record, record, '[]'))
        FROM unnest(%(records)s::bigint[]) AS refused (record)
        CROSS JOIN LATERAL (
            SELECT first_record
            FROM import_payloads
            WHERE import_id = %(id)s AND first_record <= record
            ORDER BY first_record DESC
            LIMIT 1
        ) AS chunk
        GROUP BY chunk.first_record
        ON CONFLICT (import_id, first_record) DO UPDATE SET records = import_refused.records + excluded.records
        """,
        {"id": import_id, "records": list(records)},
    )


def _rows(import_id: UUID, errors: Sequence[RecordError]) -> Iterator[tuple[Any, ...]]:
    record, n = 0, 0
    for e in errors:
        n = n + 1 if e.record == record else 1
        record = e.record
        yield import_id, record, n, e.line, e.id, e.key, e.field, e.code, e.message, e.value, e.duplicate_of_line


class _Row(RecordError, kw_only=True):
    n: int


class _StoredSummary(msgspec.Struct, kw_only=True):
    counts: list[dict[str, Any]]
    kinds: int
