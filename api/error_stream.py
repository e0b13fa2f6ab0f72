"""All record errors of an import in one answer, as CSV or NDJSON. Read page by page, so that a slow client holds nothing."""

import csv
import io
from collections.abc import AsyncGenerator, Callable
from typing import Literal

import msgspec
from litestar.response.base import ASGIResponse

from api import files
from api.leftovers import download_name, stream
from db import imports, record_errors
from db.imports import Import
from db.leftovers import Gone
from db.pool import Pool
from db.resource import RecordError

PAGE_ERRORS = 1000

# what makes a spreadsheet take a cell for a formula; the values come from strangers
FORMULA = ("=", "+", "-", "@", "\t", "\r")


async def answer(
    pool: Pool, job: Import, *, format: Literal["csv", "ndjson"], code: str | None, field: str | None
) -> ASGIResponse:
    """The errors in the order of the file; CSV with a header, and fit to be opened in a spreadsheet."""
    write = _csv if format == "csv" else msgspec.json.Encoder().encode_lines
    head = _row(RecordError.__struct_fields__) if format == "csv" else b""
    name = download_name(job.file_name, job.resource, "errors", format)
    return await stream(_blocks(pool, job, head, write, code, field), files.MEDIA_TYPES[format], name)


async def _blocks(
    pool: Pool,
    job: Import,
    head: bytes,
    write: Callable[[list[RecordError]], bytes],
    code: str | None,
    field: str | None,
) -> AsyncGenerator[bytes, None]:
    """Raises `Gone` when the import was removed half way: then these were not all."""
    if head:
        yield head
    place = record_errors.START
    while place is not None:
        async with pool.connection() as conn:
            errors, place = await record_errors.page(
                conn, job.id, after=place, code=code, field=field, limit=PAGE_ERRORS
            )
            if place is None and await imports.get(conn, job.id) is None:
                raise Gone
        if errors:
            yield write(errors)


def _csv(errors: list[RecordError]) -> bytes:
    return b"".join(_row(msgspec.structs.astuple(error)) for error in errors)


def _row(cells: tuple[object, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_safe(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue().encode()


def _safe(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell
