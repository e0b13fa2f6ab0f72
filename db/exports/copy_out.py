"""Exports the records of a resource with one COPY TO, as blocks of bytes.

The output can be imported again without changes. Provenance columns are not part of a resource's struct and are not exported.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NamedTuple

from psycopg import AsyncCopy, sql
from psycopg.abc import PQGen
from psycopg.rows import scalar_row

from db.connections.pool import Connection
from db.exports import filters
from db.exports.filters import Selection
from db.formats import FORMULA_PREFIXES, Format
from db.resources.definition import Resource

BLOCK_BYTES = 128 * 1024
# how long the server may take to end a COPY that is cancelled
CANCEL_SECONDS = 5.0

# CSV cells of types whose text form in COPY differs from JSON: booleans and times as in JSON, an array as JSON in one cell.
_CSV_CELLS = {
    "bool": sql.SQL("{}::text"),
    "timestamptz": sql.SQL("btrim(to_json({})::text, '\"')"),
    "text[]": sql.SQL("to_json({})::text"),
}

# csv_safe: an apostrophe before each text that a spreadsheet would read as a formula. Texts that begin with an apostrophe get one
# too, so that an import with csv_safe=true can remove it without ambiguity.
_CSV_SAFE_TEXT = "CASE WHEN left({cell}, 1) = ANY ({prefixes}) THEN '''' || {cell} ELSE {cell} END"
_CSV_SAFE_PREFIXES = sql.Literal([*FORMULA_PREFIXES, "'"])

# NULL is an unquoted empty cell; COPY quotes empty texts, so that the two differ.
_CSV = sql.SQL("FORMAT csv, NULL '', ENCODING 'UTF8'")
_CSV_WITH_HEADER = _CSV + sql.SQL(", HEADER")
# JSON escapes both characters, so COPY never quotes a line of JSON.
_LINES = sql.SQL("FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02', ENCODING 'UTF8'")


class Part(NamedTuple):
    """Whether a part of an export begins its file, and whether it ends it."""

    is_first: bool
    is_last: bool


WHOLE = Part(is_first=True, is_last=True)


class Block(NamedTuple):
    """Some bytes of an export and the number of records that begin in them."""

    data: bytes
    records: int


async def blocks(
    conn: Connection,
    resource: Resource,
    format: Format,
    selection: Selection,
    *,
    csv_safe: bool = False,
    part: Part = WHOLE,
) -> AsyncGenerator[Block]:
    """The selected records in order of id, in blocks of about BLOCK_BYTES. Needs a transaction.

    `part`: another call makes the beginning, or the end, of the file; only the last part may have no record.

    With `csv_safe`, CSV cells are escaped so that a spreadsheet does not read them as formulas. The last block is yielded after
    the server has confirmed the end of the COPY. A caller that stops earlier must close the generator, which cancels the COPY;
    the connection cannot be used before that.
    """
    if not selection.conditions and selection.changed_since is None:
        # Reads a whole table by its index. A sort may take less time in total, but its first record comes only after all rows
        # were read.
        await conn.execute("SET LOCAL enable_sort = off")
    command, values = statement(resource, format, selection, csv_safe=csv_safe, has_header=part.is_first)
    is_first = part.is_first
    is_last = False
    # COPY takes no parameters; psycopg inserts the values as quoted literals
    async with _started(conn, command, values) as copy:
        while not is_last:
            data, rows = await conn.wait(_fill(copy))
            is_last = len(data) < BLOCK_BYTES
            block = _block(data, rows, format, is_first=is_first, is_last=is_last and part.is_last)
            if block.data:
                yield block
                # if rows are always available nothing else suspends this task: let other tasks and a cancellation run
                await asyncio.sleep(0)
            is_first = False


async def count(conn: Connection, resource: Resource, selection: Selection) -> int:
    """The number of records that `blocks` yields in the same snapshot."""
    cursor = conn.cursor(row_factory=scalar_row)
    where, values = filters.where(resource, selection)
    await cursor.execute(
        sql.SQL("SELECT count(*) FROM (SELECT FROM {} {} LIMIT %(limit)s::bigint) AS selected").format(
            sql.Identifier(resource.name), where
        ),
        {**values, "limit": selection.limit},
    )
    return await cursor.fetchone() or 0


def statement(
    resource: Resource, format: Format, selection: Selection, *, csv_safe: bool = False, has_header: bool = True
) -> tuple[sql.Composed, dict[str, Any]]:
    """The COPY statement and the values of its placeholders. `has_header`: of a CSV."""
    select, values = query(resource, format, selection, csv_safe=csv_safe)
    options = _LINES if format != "csv" else _CSV_WITH_HEADER if has_header else _CSV
    return sql.SQL("COPY ({}) TO STDOUT ({})").format(select, options), values


def query(
    resource: Resource, format: Format, selection: Selection, *, csv_safe: bool = False
) -> tuple[sql.Composed, dict[str, Any]]:
    """The SELECT within the COPY, of CSV columns or of one JSON object per row, and the values of its placeholders."""
    where, values = filters.where(resource, selection)
    clauses = [sql.SQL("FROM"), sql.Identifier(resource.name), where]
    clauses += [sql.SQL("ORDER BY"), sql.Identifier(resource.name, "id")]
    if selection.limit is not None:
        clauses.append(sql.SQL("LIMIT %(limit)s"))
        values["limit"] = selection.limit
    types = dict(zip(resource.columns, resource.column_types, strict=True))
    if format == "csv":
        columns = [_csv_cell(column, types[column], is_safe=csv_safe) for column in selection.fields]
    else:
        columns = [sql.Identifier(column) for column in selection.fields]
    select = sql.SQL("SELECT {} {}").format(sql.SQL(", ").join(columns), sql.SQL(" ").join(clauses))
    if format != "csv":
        select = sql.SQL("SELECT row_to_json(record) FROM ({}) AS record").format(select)
    return select, values


@asynccontextmanager
async def _started(conn: Connection, command: sql.Composed, values: dict[str, Any]) -> AsyncIterator[AsyncCopy]:
    """A COPY. If the task is cancelled while it starts, psycopg would leave a connection that cannot be used any more."""
    async with AsyncExitStack() as stack:
        start = asyncio.ensure_future(stack.enter_async_context(conn.cursor().copy(command, values)))
        try:
            copy = await asyncio.shield(start)
        except asyncio.CancelledError:
            with suppress(Exception):
                await conn.cancel_safe(timeout=CANCEL_SECONDS)
            await asyncio.wait([start], timeout=CANCEL_SECONDS)
            # the server does not answer: psycopg closes the connection
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
            raise
        yield copy


def _fill(copy: AsyncCopy) -> PQGen[tuple[bytes, int]]:
    """Reads rows until there are BLOCK_BYTES. Returns fewer bytes only at the end. Also returns the number of rows.

    The server sends one message per row, and one for the CSV header. Awaiting each from a coroutine costs more than receiving
    it, so psycopg's generator (a private method) is run repeatedly within one wait.
    """
    rows = 0
    data = bytearray()
    while len(data) < BLOCK_BYTES and (row := (yield from copy._read_gen())):  # pyright: ignore[reportPrivateUsage]
        data += row
        rows += 1
    return bytes(data), rows


def _block(data: bytes, rows: int, format: Format, *, is_first: bool, is_last: bool) -> Block:
    if format == "json":
        opening = b"[" if is_first else b",\n" if rows else b""
        # JSON escapes newlines in texts, so every newline here ends a row
        data = opening + data[:-1].replace(b"\n", b",\n") + (b"]" if is_last else b"")
    header = 1 if format == "csv" and is_first else 0
    return Block(data, rows - header)


def _csv_cell(column: str, type: str, *, is_safe: bool) -> sql.Composed:
    name = sql.Identifier(column)
    if is_safe and type == "text":
        cell = sql.SQL(_CSV_SAFE_TEXT).format(cell=name, prefixes=_CSV_SAFE_PREFIXES)
    else:
        cell = _CSV_CELLS.get(type, sql.SQL("{}")).format(name)
    return sql.SQL("{} AS {}").format(cell, name)
