"""COPY of many rows into a table, in PostgreSQL's binary format."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from psycopg import sql

from db.connections.pool import Connection


async def rows(
    conn: Connection, table: str, columns: Sequence[str], types: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPYs `rows`, whose values have the PostgreSQL types `types`, into the columns of a table.

    Rows are formatted without awaiting and sent in blocks: awaiting the write of each row would cost as much as its formatting.
    """
    async with conn.cursor().copy(_command(table, tuple(columns))) as copy:
        copy.set_types(types)
        for row in rows:
            if block := copy.formatter.write_row(row):
                await copy.write(block)


@cache
def _command(table: str, columns: tuple[str, ...]) -> bytes:
    command = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(sql.Identifier(table), names(columns))
    return command.as_bytes()


def names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
