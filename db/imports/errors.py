"""The record errors of an import: written in bulk, read in pages, counted by kind."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from db import copy
from db.connections.pool import Connection
from db.resources.definition import Code, RecordError


class ErrorCount(msgspec.Struct, frozen=True, kw_only=True):
    """How often one thing was wrong with one field, and the line where it was so first."""

    code: Code
    field: str | None
    count: int
    first_line: int


class Position(msgspec.Struct, frozen=True, array_like=True):
    """An error's place in the order of the file."""

    record: int
    n: int


START = Position(0, 0)


async def insert(conn: Connection, import_id: UUID, errors: Sequence[RecordError]) -> None:
    """COPYs the errors, which are in the order of their records; where there are none, nothing is asked of the server."""
    if not errors:
        return
    columns = ["import_id", "record", "n", "line", "record_id", "record_key", "field", "code", "message", "value"]
    types = ["uuid", "int8", "int2", "int8", *["text"] * 6, "int8"]
    await copy.rows(conn, "import_errors", [*columns, "duplicate_of_line"], types, _rows(import_id, errors))


def _rows(import_id: UUID, errors: Sequence[RecordError]) -> Iterator[tuple[Any, ...]]:
    record, n = 0, 0
    for e in errors:
        n = n + 1 if e.record == record else 1
        record = e.record
        yield import_id, record, n, e.line, e.id, e.key, e.field, e.code, e.message, e.value, e.duplicate_of_line


async def page(
    conn: Connection, import_id: UUID, *, after: Position, code: str | None, field: str | None, limit: int
) -> tuple[list[RecordError], Position | None]:
    """Errors in the order of the file, from the one after `after`; and the last one's place when there are more."""
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


async def summary(conn: Connection, import_id: UUID) -> list[ErrorCount]:
    """What was wrong, most frequent first."""
    cursor = conn.cursor(row_factory=class_row(ErrorCount))
    await cursor.execute(
        """
        SELECT code, field, count(*) AS count, min(line) AS first_line
        FROM import_errors
        WHERE import_id = %(id)s
        GROUP BY code, field
        ORDER BY count(*) DESC, code, field
        """,
        {"id": import_id},
    )
    return await cursor.fetchall()


class _Row(RecordError, kw_only=True):
    n: int
