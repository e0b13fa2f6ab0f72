"""Loads what a worker needs for a claim: the import's parameters and the payloads of its chunks."""

from typing import Any, LiteralString

import msgspec
from psycopg.rows import kwargs_row

from db.connections.pool import Connection
from db.formats import Format
from db.imports.jobs import Mode
from db.imports.payload import Chunk
from db.queue import Claim


class ClaimedImport(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of the import that a claimed chunk belongs to."""

    resource: str
    mode: Mode
    dry_run: bool
    # whether the import has an error budget
    has_budget: bool
    unknown_fields: str
    format: Format
    csv_delimiter: str
    csv_safe: bool
    csv_columns: list[str | None] | None
    columns: dict[str, str | None] | None
    total_chunks: int
    undoable: bool


# what `row` takes
COLUMNS: LiteralString = """
    payload.first_record, payload.first_line, chunks.records, payload.data, payload.starts, payload.lines,
    resource, mode, dry_run, unknown_fields, format, csv_delimiter, csv_safe,
    csv_columns, columns, total_chunks, undoable,
    on_error = 'stop' OR max_errors IS NOT NULL OR max_error_rate IS NOT NULL AS has_budget
"""


async def load_claimed(conn: Connection, claim: Claim) -> tuple[ClaimedImport, list[Chunk]]:
    """The claim's import, and the payloads of its chunks in the order of the file (none for a settle chunk).

    Switches synchronous_commit off for the rest of the transaction. Records and chunk states are committed together: if the
    server crashes before they are on disk, both are lost and the chunk is processed again. The commit that makes the job final
    is synchronous, which also flushes all commits before it.
    """
    cursor = conn.cursor(row_factory=kwargs_row(row), binary=True)
    await conn.execute("SET LOCAL synchronous_commit = off")
    await cursor.execute(
        f"""
        SELECT {COLUMNS}
        FROM chunks
        JOIN import_jobs ON import_jobs.id = chunks.import_id
        LEFT JOIN import_payloads AS payload
            ON kind = 'records' AND payload.import_id = chunks.import_id AND payload.first_record = chunks.first_record
        WHERE chunks.id = ANY (%(ids)s)
        ORDER BY seq
        """,  # noqa: S608  of literals only
        {"ids": claim.ids},
    )
    rows = await cursor.fetchall()
    return rows[0][0], [chunk for _, chunk in rows if chunk is not None]


def row(
    *,
    first_record: int,
    first_line: int,
    records: int,
    data: bytes | None,
    starts: list[int] | None,
    lines: list[int] | None,
    **parameters: Any,
) -> tuple[ClaimedImport, Chunk | None]:
    chunk = None if data is None else Chunk(first_record, first_line, records, data, starts, lines)
    return ClaimedImport(**parameters), chunk
