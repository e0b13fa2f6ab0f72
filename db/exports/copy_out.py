"""Reading a resource: one COPY, which is one snapshot, handed on in blocks of bytes.

What is written here imports again unchanged. The provenance columns are not in a resource's struct, and so never exported.
"""

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncCopy, sql
from psycopg.abc import PQGen
from psycopg.rows import scalar_row

from db.exports import filters as selecting
from db.imports.payload import Format
from db.connections.pool import Connection
from db.resources.definition import Resource
from db.exports.filters import Selection

BLOCK_BYTES = 128 * 1024

# How a CSV cell is written where COPY's own text would not do: the same words and times as in JSON, a list as JSON in one cell.
_CSV_CELLS = {
    "bool": sql.SQL("{}::text"),
    "timestamptz": sql.SQL("btrim(to_json({})::text, '\"')"),
    "text[]": sql.SQL("to_json({})::text"),
}

# What makes a spreadsheet take a cell for a formula gets an apostrophe before it; and so does an apostrophe, so that whoever
# knows can take them all away again.
_CSV_SAFE_TEXT = sql.SQL(
    "CASE WHEN left({0}, 1) = ANY (ARRAY['=', '+', '-', '@', E'\\t', E'\\r', '''']) THEN '''' || {0} ELSE {0} END"
)

# Null is an unquoted empty cell; COPY quotes an empty text by itself, so that the two differ.
_CSV = sql.SQL("FORMAT csv, HEADER, NULL '', ENCODING 'UTF8'")
# Neither character can be in JSON unescaped, so that a line of JSON passes through as it is.
_LINES = sql.SQL("FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02', ENCODING 'UTF8'")


class Block(NamedTuple):
    """The next bytes of an export, and how many records begin in them."""

    data: bytes
    records: int


async def begin(conn: Connection, *, patience_seconds: float) -> datetime:
    """Makes the transaction fit for a long read, and returns its snapshot's time: what was committed before then is read.

    On a standby that is the time of what was last replayed there, however long ago.

    `patience_seconds` is how long the reader may rest between two blocks before the server gives the connection up. The
    session's own limits are made for short work: they would end the read of a large table, or one for a slow client.
    """
    patience = str(round(patience_seconds * 1000))
    settings = {
        "TimeZone": "UTC",
        "statement_timeout": "0",
        "transaction_timeout": "0",
        # compiling would delay the first record, and gain little: the time goes into reading and writing rows
        "jit": "off",
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
        SELECT
            CASE
                WHEN pg_is_in_recovery()
                THEN coalesce(pg_last_xact_replay_timestamp(), (SELECT checkpoint_time FROM pg_control_checkpoint()))
                ELSE transaction_timestamp()
            END,
            (SELECT count(*) FROM changed)
        """,
        {"names": list(settings), "settings": list(settings.values())},
    )
    row = await cursor.fetchone()
    assert row is not None, "a SELECT without FROM has one row"  # noqa: S101
    return row[0]


async def blocks(
    conn: Connection, resource: Resource, format: Format, selection: Selection, *, csv_safe: bool = False
) -> AsyncGenerator[Block]:
    """The selected records in the order of their ids, in blocks of about BLOCK_BYTES; needs a transaction.

    With `csv_safe` no cell of a CSV is a formula to a spreadsheet. The last block comes after the server has said that all is
    well. Whoever stops before must close the generator, which ends the COPY; until then the connection is of no use.
    """
    if not selection.conditions:
        # A whole table comes in the order of its index, from the first moment on. Sorting may cost less in the end, but then
        # the first record waits for the last.
        await conn.execute("SET LOCAL enable_sort = off")
    command, values = statement(resource, format, selection, csv_safe=csv_safe)
    is_first = True
    is_last = False
    # COPY takes no parameters: psycopg writes the values as literals, quoted by the rules of the connection
    async with conn.cursor().copy(command, values) as copy:
        while not is_last:
            data, rows = await conn.wait(_fill(copy))
            is_last = len(data) < BLOCK_BYTES
            block = _block(data, rows, format, is_first=is_first, is_last=is_last)
            if block.data:
                yield block
                # with rows always at hand nothing else would suspend, and so neither a cancellation nor others be served
                await asyncio.sleep(0)
            is_first = False


async def count(conn: Connection, resource: Resource, selection: Selection) -> int:
    """How many records `blocks` will have in the same snapshot."""
    cursor = conn.cursor(row_factory=scalar_row)
    where, values = selecting.where(resource, selection)
    await cursor.execute(
        sql.SQL("SELECT count(*) FROM (SELECT FROM {} {} LIMIT %(limit)s::bigint) AS selected").format(
            sql.Identifier(resource.name), where
        ),
        {**values, "limit": selection.limit},
    )
    return await cursor.fetchone() or 0


def statement(
    resource: Resource, format: Format, selection: Selection, *, csv_safe: bool = False
) -> tuple[sql.Composed, dict[str, Any]]:
    """The COPY, and the values of its placeholders."""
    select, values = query(resource, format, selection, csv_safe=csv_safe)
    options = _CSV if format == "csv" else _LINES
    return sql.SQL("COPY ({}) TO STDOUT ({})").format(select, options), values


def query(
    resource: Resource, format: Format, selection: Selection, *, csv_safe: bool = False
) -> tuple[sql.Composed, dict[str, Any]]:
    """What is copied: the cells of CSV, or one JSON object a row; and the values of its placeholders."""
    where, values = selecting.where(resource, selection)
    rest = [sql.SQL("FROM"), sql.Identifier(resource.name), where]
    rest += [sql.SQL("ORDER BY"), sql.Identifier(resource.name, "id")]
    if selection.limit is not None:
        rest.append(sql.SQL("LIMIT %(limit)s"))
        values["limit"] = selection.limit
    types = dict(zip(resource.columns, resource.column_types, strict=True))
    if format == "csv":
        columns = [_csv_cell(column, types[column], is_safe=csv_safe) for column in selection.fields]
    else:
        columns = [sql.Identifier(column) for column in selection.fields]
    select = sql.SQL("SELECT {} {}").format(sql.SQL(", ").join(columns), sql.SQL(" ").join(rest))
    if format != "csv":
        select = sql.SQL("SELECT row_to_json(record) FROM ({}) AS record").format(select)
    return select, values


def _fill(copy: AsyncCopy) -> PQGen[tuple[bytes, int]]:
    """Rows until there are BLOCK_BYTES of them, fewer only at the end, and how many they are.

    The server sends one message for each row, and one for the header of CSV. Read one by one from a coroutine, each would
    cost more than it does to libpq; so psycopg's own step is taken over and over within one wait.
    """
    rows = 0
    data = bytearray()
    while len(data) < BLOCK_BYTES and (row := (yield from copy._read_gen())):
        data += row
        rows += 1
    return bytes(data), rows


def _block(data: bytes, rows: int, format: Format, *, is_first: bool, is_last: bool) -> Block:
    if format == "json":
        opening = b"[" if is_first else b",\n" if rows else b""
        # a newline within a text is written \n in JSON, so that these are the ends of the rows
        data = opening + data[:-1].replace(b"\n", b",\n") + (b"]" if is_last else b"")
    header = 1 if format == "csv" and is_first else 0
    return Block(data, rows - header)


def _csv_cell(column: str, type: str, *, is_safe: bool) -> sql.Composed:
    name = sql.Identifier(column)
    cell = _CSV_SAFE_TEXT if is_safe and type == "text" else _CSV_CELLS.get(type, sql.SQL("{}"))
    return sql.SQL("{} AS {}").format(cell.format(name), name)
