"""`GET /imports/{id}/failed-records?as=cells`: a page of the refused records, split into cells, with their errors."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from api.http import responses
from api.imports import annotations
from api.imports.splitting import FileSplitter
from db.connections.pool import Connection
from db.formats import ANNOTATIONS
from db.imports import errors, refused
from db.imports.actions import ParentImport
from db.imports.csv_row import RowReader
from db.imports.records import Gone
from db.imports.refused import RefusedError, Selection
from db.resources.definition import Unreadable

# a record without cells is shown as text up to this size
RAW_MAX_BYTES = 64 * 1024
# a page ends early when its records and errors come to more
PAGE_MAX_BYTES = 4 * 1024 * 1024
# JSON: a record whose members would make more columns has no cells
COLUMNS_MAX = 1000


class RefusedRecord(msgspec.Struct, kw_only=True):
    """A refused record. `cells` are its values by `columns`, null where there is none.

    `cells` is null for a record that cannot be split, and then `raw` is its text. Both are null when it has more than 64 KiB or
    only its beginning was kept.
    """

    line: int
    record: int
    cells: list[Any] | None
    raw: str | None
    errors: list[RefusedError]


class RefusedPage(msgspec.Struct, kw_only=True):
    """`total` counts all records that match."""

    columns: list[str]
    records: list[RefusedRecord]
    next_cursor: str | None
    total: int


class Found(msgspec.Struct, frozen=True):
    """A record as it is stored, with its errors."""

    number: int
    line: int
    raw: bytes
    errors: list[RefusedError]

    @property
    def size(self) -> int:
        return len(self.raw) + sum(len(error.message) + len(error.value or "") for error in self.errors)


async def page(
    conn: Connection,
    job: ParentImport,
    selection: Selection,
    *,
    cursor: str | None,
    limit: int,
    record_max_bytes: int,
) -> RefusedPage:
    """The refused records behind the cursor. Raises `Gone` when they were removed, and `Problem` 400."""
    shown: list[Found] = []
    size, is_last = 0, True
    async for found in _refused(conn, job, selection, after=_position(cursor), limit=limit + 1):
        if len(shown) == limit or (shown and size + found.size > PAGE_MAX_BYTES):
            is_last = False
            break
        shown.append(found)
        size += found.size
    if is_last and job.is_final and not await errors.are_complete(conn, job.id):
        raise Gone
    columns, records = _csv(job, shown, record_max_bytes) if job.format == "csv" else _json(shown, record_max_bytes)
    return RefusedPage(
        columns=columns,
        records=records,
        next_cursor=None if is_last else str(shown[-1].number),
        total=await refused.count(conn, job.id, selection),
    )


async def _refused(
    conn: Connection, job: ParentImport, selection: Selection, *, after: int, limit: int
) -> AsyncIterator[Found]:
    """Raises `Gone`."""
    while chunk := await refused.next_chunk(conn, job.id, selection, after_record=after, limit=limit):
        by_record = await refused.errors(conn, job.id, numbers=chunk.numbers)
        for number, line, raw in chunk.records(job.format):
            yield Found(number, line, raw, by_record[number])
        after = chunk.numbers[-1] if chunk.numbers else chunk.first_record + chunk.count - 1


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    # a bigint
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise responses.invalid_cursor()
    return int(cursor)


def _csv(job: ParentImport, found: Sequence[Found], record_max_bytes: int) -> tuple[list[str], list[RefusedRecord]]:
    """The columns of the file and the records, without annotations. Texts are as sent, also with csv_safe."""
    header = _header(job)
    reader = RowReader(job.csv_delimiter, len(header))
    annotated = annotations.Csv(header, job.csv_delimiter)
    places = [place for place, name in enumerate(header) if name not in ANNOTATIONS]
    records: list[RefusedRecord] = []
    for each in found:
        row = reader.bare(each.raw)
        cells = None
        if not _is_cut(each, row, record_max_bytes):
            try:
                read = reader.cells(row.decode())
                cells = [read[place] for place in places]
            except (Unreadable, UnicodeDecodeError):
                row = reader.bare(annotated.bare(each.raw))
        records.append(_record(each, cells, row, record_max_bytes))
    return [header[place] for place in places], records


def _header(job: ParentImport) -> list[str]:
    """The names in the header, as the file has them."""
    if job.csv_header is None:
        return []
    size = len(job.csv_header)
    splitter = FileSplitter(
        format="csv", delimiter=job.csv_delimiter, batch_size=1, chunk_max_bytes=size, record_max_bytes=size
    )
    splitter.feed(job.csv_header)
    splitter.finish()
    return splitter.columns or []


def _json(found: Sequence[Found], record_max_bytes: int) -> tuple[list[str], list[RefusedRecord]]:
    """All members of these objects in the order in which they appear, and the records by them."""
    places: dict[str, int] = {}
    objects: list[Mapping[str, msgspec.Raw] | None] = []
    for each in found:
        members = None if _is_cut(each, each.raw, record_max_bytes) else _members(each.raw)
        if members is not None and len(places.keys() | members.keys()) > COLUMNS_MAX:
            members = None
        objects.append(members)
        for name in members or ():
            places.setdefault(name, len(places))
    records = [
        _record(
            each,
            None if members is None else [members.get(name) for name in places],
            each.raw.strip(b" \t\r\n"),
            record_max_bytes,
        )
        for each, members in zip(found, objects, strict=True)
    ]
    return [*places], records


def _members(raw: bytes) -> dict[str, msgspec.Raw] | None:
    """The members of an object, each as its text; of a name that comes twice the last one. None for anything else."""
    try:
        members = msgspec.json.decode(raw.decode(), type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return {name: value for name, value in members.items() if name not in ANNOTATIONS}


def _is_cut(found: Found, raw: bytes, record_max_bytes: int) -> bool:
    """Whether only the beginning of the record is stored."""
    return len(raw) > record_max_bytes or any(error.code == "record_too_large" for error in found.errors)


def _record(found: Found, cells: list[Any] | None, raw: bytes, record_max_bytes: int) -> RefusedRecord:
    is_shown = cells is None and len(raw) <= RAW_MAX_BYTES and not _is_cut(found, raw, record_max_bytes)
    return RefusedRecord(
        line=found.line,
        record=found.number,
        cells=cells,
        raw=raw.decode(errors="replace") if is_shown else None,
        errors=found.errors,
    )
