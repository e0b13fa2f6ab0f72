"""The refused and the unprocessed records of an import as a file like the one that was sent, ready to be mended and sent again.

Each chunk is read by a statement of its own, on a connection that is held no longer: a slow client holds nothing.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from litestar.response.base import ASGIResponse

from api.http.problems import Problem
from api.http.streaming import BlockStream
from api.imports import annotations
from api.imports.splitting import FileSplitter, Unreadable
from db.connections.pool import Pool
from db.formats import MEDIA_TYPES
from db.imports import records as leftovers
from db.imports.actions import Source
from db.imports.records import Gone, Note, Piece

Which: TypeAlias = Literal["failed", "unprocessed", "all"]

BLOCK_BYTES = 128 * 1024

_ENDINGS = re.compile(r"(?:\.(?:csv|ndjson|jsonl|json|gz|zst|txt))+$", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


class Frame(NamedTuple):
    """What makes a file of records: what stands before, between and behind them."""

    head: bytes
    separator: bytes
    tail: bytes


def frame(source: Source) -> Frame:
    """Of an empty CSV file, which has no header, nothing."""
    if source.format == "json":
        return Frame(b"[", b",\n", b"]")
    return Frame(source.csv_header or b"", b"", b"")


async def pieces(pool: Pool, source: Source, which: Which) -> AsyncGenerator[Piece, None]:
    """The records by chunks, in the order of the file. Raises `Gone`, also at the end if they were not all."""
    failed, unprocessed = which != "unprocessed", which != "failed"
    wanted = source.failed * failed + (source.left - source.failed) * unprocessed
    given, after_seq = 0, 0
    while True:
        async with pool.connection() as conn:
            piece = await leftovers.piece(conn, source.id, after_seq=after_seq, failed=failed, unprocessed=unprocessed)
        if piece is None:
            break
        yield piece
        given += len(piece.numbers)
        after_seq = piece.seq
    # what has expired goes bit by bit, and must not pass for a file without faults
    if source.is_final and given != wanted:
        raise Gone


async def answer(pool: Pool, source: Source, which: Which, *, is_annotated: bool) -> ASGIResponse:
    """Streams the file. Raises `Problem` 404 when the records were removed."""
    name = download_name(source.file_name, source.resource, which, source.format)
    try:
        return await stream(_blocks(pool, source, which, is_annotated=is_annotated), MEDIA_TYPES[source.format], name)
    except Gone:
        raise removed() from None


async def stream(blocks: AsyncGenerator[bytes, None], media_type: str, name: str) -> ASGIResponse:
    """An answer of these blocks, to be saved as `name`; what fails before the first of them can still become a problem."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(aclosing(blocks))
        first = await anext(blocks, b"")
        return BlockStream(
            _chain(first, blocks),
            held=stack.pop_all(),
            media_type=media_type,
            headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
            status_code=200,
        )


def download_name(file_name: str | None, resource: str, what: str, ending: str) -> str:
    """What the client may call the answer, like `users-failed.csv`: after the import's file, in harmless characters only."""
    stem = _ENDINGS.sub("", re.split(r"[/\\]", file_name or "")[-1])
    return f"{_UNSAFE.sub('_', stem).strip('_')[:100] or resource}-{what}.{ending}"


def removed() -> Problem:
    return Problem("not-found", "The records of this import were removed.")


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for block in rest:
        yield block


async def _blocks(pool: Pool, source: Source, which: Which, *, is_annotated: bool) -> AsyncGenerator[bytes, None]:
    head, separator, tail = frame(source)
    csv = annotations.Csv(source.csv_columns or (), source.csv_delimiter) if source.format == "csv" else None
    if head and csv and is_annotated:
        head = csv.header(head)
    before = head
    async with aclosing(pieces(pool, source, which)) as found:
        async for piece in found:
            notes = await _notes(pool, source, piece) if is_annotated else None
            records = [
                _given_back(raw, line, None if notes is None else notes.get(number, []), csv=csv, source=source)
                for number, line, raw in piece.records(source.format)
            ]
            data = before + separator.join(records)
            for start in range(0, len(data), BLOCK_BYTES):
                yield data[start : start + BLOCK_BYTES]
            before = separator
    if before is head:
        tail = head + tail
    if tail:
        yield tail


async def _notes(pool: Pool, source: Source, piece: Piece) -> dict[int, list[Note]]:
    async with pool.connection() as conn:
        return await leftovers.notes(conn, source.id, first=piece.numbers[0], last=piece.numbers[-1])


def _given_back(
    raw: bytes, line: int, notes: list[Note] | None, *, csv: annotations.Csv | None, source: Source
) -> bytes:
    """The record as it was; with notes, annotated.

    Of a record that was too large only the beginning was kept. In a JSON array that would break all others: an object which
    tells but the line stands in its place.
    """
    if source.format == "json" and not _is_element(raw):
        return annotations.json(b"{}", line, notes) if notes is not None else b'{"_line":%d}' % line
    if notes is None:
        return raw
    return csv.record(raw, line, notes) if csv else annotations.json(raw, line, notes)


def _is_element(raw: bytes) -> bool:
    """Whether the bytes can be an element of an array, right or wrong, without harm to its neighbours."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        size = len(raw)
        splitter = FileSplitter(format="json", batch_size=2, chunk_max_bytes=size, record_max_bytes=size)
        try:
            splitter.feed(b"[" + raw + b"]")
            splitter.finish()
        except Unreadable:
            return False
        return splitter.record_count == 1
    return True
