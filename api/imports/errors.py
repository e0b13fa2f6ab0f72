"""Streams all record errors of an import as CSV or NDJSON. No connection is held while the client reads."""

import csv
import io
from collections.abc import AsyncGenerator, Callable
from typing import Literal

import msgspec
from litestar.response.base import ASGIResponse

from api.imports.records import download_name, removed, stream
from db.connections.pool import Pool
from db.formats import FORMULA_PREFIXES, MEDIA_TYPES
from db.imports import errors as record_errors
from db.imports.jobs import Import
from db.imports.records import Gone
from db.resources.definition import RecordError

PAGE_ERRORS = 1000


async def download(
    pool: Pool, job: Import, *, format: Literal["csv", "ndjson"], code: str | None, field: str | None
) -> ASGIResponse:
    """The errors in the order of the file. CSV has a header, and no cell that a spreadsheet would read as a formula.

    Raises `Problem` 404 if the errors were removed.
    """
    write = _csv if format == "csv" else msgspec.json.Encoder().encode_lines
    head = _row(RecordError.__struct_fields__) if format == "csv" else b""
    name = download_name(job.file_name, job.resource, "errors", format)
    try:
        return await stream(_blocks(pool, job, head, write, code, field), MEDIA_TYPES[format], name)
    except Gone:
        raise removed() from None


async def _blocks(
    pool: Pool,
    job: Import,
    head: bytes,
    write: Callable[[list[RecordError]], bytes],
    code: str | None,
    field: str | None,
) -> AsyncGenerator[bytes, None]:
    """Raises `Gone` if errors were removed meanwhile, so that an incomplete file does not look complete."""
    position = record_errors.START
    while position is not None:
        async with pool.connection() as conn:
            errors, position = await record_errors.page(
                conn, job.id, after=position, code=code, field=field, limit=PAGE_ERRORS
            )
            if position is None and not await record_errors.are_complete(conn, job.id):
                raise Gone
        if head or errors:
            yield head + write(errors)
        head = b""


def _csv(errors: list[RecordError]) -> bytes:
    return b"".join(_row(msgspec.structs.astuple(error)) for error in errors)


def _row(cells: tuple[object, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_safe(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue().encode()


def _safe(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA_PREFIXES) else cell
