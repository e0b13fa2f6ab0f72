"""Reading a whole resource: one COPY, which is one snapshot, handed on in blocks of bytes.

What is written here imports again unchanged. The provenance columns are not in a resource's struct, and so never exported.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import NamedTuple

from psycopg import sql

from db.payload import Format
from db.pool import Connection
from db.resource import Resource

BLOCK_BYTES = 128 * 1024

# How a CSV cell is written where COPY's own text would not do: the same words and times as in JSON, a list as JSON in one cell.
_CSV_CELLS = {
    "bool": sql.SQL("{}::text"),
    "timestamptz": sql.SQL("btrim(to_json({})::text, '\"')"),
    "text[]": sql.SQL("to_json({})::text"),
}

# Null is an unquoted empty cell; COPY quotes an empty text by itself, so that the two differ.
_CSV = sql.SQL("FORMAT csv, HEADER, NULL '', ENCODING 'UTF8'")
# Neither character can be in JSON unescaped, so that a line of JSON passes through as it is.
_LINES = sql.SQL("FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02', ENCODING 'UTF8'")


class Block(NamedTuple):
    """The next bytes of an export, and how many records begin in them."""

    data: bytes
    records: int


async def begin(conn: Connection, *, patience_seconds: int) -> datetime:
    """Makes the transaction fit for a long read, and returns its snapshot's time: what was committed before then is read.

    `patience_seconds` is how long the reader may rest between two blocks before the server gives the connection up. The
    session's own limits are made for short work: they would end the read of a large table, or one for a slow client.
    """
    patience = str(patience_seconds * 1000)
    settings = {
        "TimeZone": "UTC",
        "statement_timeout": "0",
        "transaction_timeout": "0",
        "idle_in_transaction_session_timeout": patience,
        # a reader that rests closes the window of its socket, which to this limit looks like a dead one
        "tcp_user_timeout": patience,
    }
    cursor = await conn.execute(
        """
        WITH changed AS MATERIALIZED (
            SELECT set_config(name, wanted.setting, true)
            FROM unnest(%(names)s::text[], %(settings)s::text[]) AS wanted (name, setting)
            JOIN pg_settings USING (name)
        )
        SELECT transaction_timestamp(), (SELECT count(*) FROM changed)
        """,
        {"names": list(settings), "settings": list(settings.values())},
    )
    row = await cursor.fetchone()
    assert row is not None, "a SELECT without FROM has one row"  # noqa: S101
    return row[0]


async def blocks(conn: Connection, resource: Resource, format: Format) -> AsyncGenerator[Block]:
    """All records of the resource in the order of their ids, in blocks of about BLOCK_BYTES; needs a transaction.

    The last block comes after the server has said that all is well. Whoever stops before must close the generator, which
    ends the COPY; until then the connection is of no use.
    """
    rows: list[bytes] = []
    size = 0
    is_first = True
    async with conn.cursor().copy(_statement(resource, format)) as copy:
        # the server sends one message for each row, and one for the header of CSV
        async for row in copy:
            rows.append(bytes(row))
            size += len(row)
            if size >= BLOCK_BYTES:
                yield _block(rows, format, is_first=is_first, is_last=False)
                # with rows always at hand nothing else would suspend, and so neither a cancellation nor others be served
                await asyncio.sleep(0)
                rows, size, is_first = [], 0, False
    last = _block(rows, format, is_first=is_first, is_last=True)
    if last.data:
        yield last


def _block(rows: Sequence[bytes], format: Format, *, is_first: bool, is_last: bool) -> Block:
    data = b"".join(rows)
    if format == "json":
        opening = b"[" if is_first else b",\n" if rows else b""
        # a newline within a text is written \n in JSON, so that these are the ends of the rows
        data = opening + data[:-1].replace(b"\n", b",\n") + (b"]" if is_last else b"")
    header = 1 if format == "csv" and is_first else 0
    return Block(data, len(rows) - header)


def _statement(resource: Resource, format: Format) -> sql.Composed:
    table = sql.Identifier(resource.name)
    order = sql.Identifier(resource.name, "id")
    if format == "csv":
        cells = [_csv_cell(*column) for column in zip(resource.columns, resource.column_types, strict=True)]
        return sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT ({})").format(
            sql.SQL(", ").join(cells), table, order, _CSV
        )
    columns = sql.SQL(", ").join(map(sql.Identifier, resource.columns))
    return sql.SQL(
        "COPY (SELECT row_to_json(record) FROM (SELECT {} FROM {} ORDER BY {}) AS record) TO STDOUT ({})"
    ).format(columns, table, order, _LINES)


def _csv_cell(column: str, type: str) -> sql.Composed:
    name = sql.Identifier(column)
    return sql.SQL("{} AS {}").format(_CSV_CELLS.get(type, sql.SQL("{}")).format(name), name)
