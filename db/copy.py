"""COPY of many rows into a table, in PostgreSQL's binary format."""

import re
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.errors import LockNotAvailable
from psycopg.postgres import types as postgres_types
from psycopg.pq import Format

from db.connections.pool import Connection

INT4 = postgres_types["int4"]


class Int4ArrayDumper(Dumper):
    """int4[] of integers without NULL, all elements at once: psycopg's own takes ten times as long."""

    format = Format.BINARY
    oid = INT4.array_oid

    def dump(self, obj: Sequence[int]) -> bytes:
        if not obj:
            return struct.pack("!3i", 0, 0, INT4.oid)
        # each element after its size
        elements = array("i", [4]) * (2 * len(obj))
        elements[1::2] = array("i", obj)
        if sys.byteorder == "little":
            elements.byteswap()
        # the number of dimensions, whether there are NULLs, the elements' type, their number, the index of the first
        return struct.pack("!5i", 1, 0, INT4.oid, len(obj), 1) + elements.tobytes()


async def rows(
    conn: Connection, table: str, columns: Sequence[str], types: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPYs `rows`, whose values have the PostgreSQL types `types`, into the columns of a table.

    Rows are formatted without awaiting and sent in blocks: awaiting the write of each row would cost as much as its formatting.
    """
    cursor = conn.cursor()
    if "int4[]" in types:
        cursor.adapters.register_dumper(None, Int4ArrayDumper)
    async with cursor.copy(_command(table, tuple(columns))) as copy:
        copy.set_types(types)
        for row in rows:
            if block := copy.formatter.write_row(row):
                await copy.write(block)


def blocked_row(error: LockNotAvailable) -> int | None:
    """The number of the row, from 1, whose unique value an open transaction has stored; None if `rows` waited for another lock.

    The error's context has it, after a line about the index, in any language of the server: `COPY users, line 7`.
    """
    found = re.fullmatch(r".+\nCOPY \S+, \D*(\d+)\D*", error.diag.context or "")
    return int(found[1]) if found else None


@cache
def _command(table: str, columns: tuple[str, ...]) -> bytes:
    command = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(sql.Identifier(table), names(columns))
    return command.as_bytes()


def names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
