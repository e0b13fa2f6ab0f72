"""Failed and unprocessed records, in the format and the order of the file that was sent.

Each chunk is read by a statement of its own. No connection is held while the client reads.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, nullcontext
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from litestar.response.base import ASGIResponse

from api.http.problems import Problem
from api.http.streaming import BlockStream
from api.imports import annotations
from api.imports.admission import Admission
from api.imports.splitting import FileSplitter, Unreadable
from db.connections.pool import Pool
from db.formats import MEDIA_TYPES
from db.imports import records, repairs
from db.imports.actions import ParentImport
from db.imports.records import NOT_STORED, ChunkRecords, Gone, RecordNote

# unrepaired: the failed ones, remaining: the failed and the unprocessed ones, all: every record, each without those in repairs
Which: TypeAlias = Literal["failed", "unprocessed", "unrepaired", "remaining", "all"]

BLOCK_BYTES = 128 * 1024

_UNLIMITED: AbstractContextManager[None] = nullcontext()
_ENDINGS = re.compile(r"(?:\.(?:csv|ndjson|jsonl|json|xlsx|xlsm|gz|zst|txt))+$", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


class FileFrame(NamedTuple):
    """The bytes before, between and after the records of a file."""

    head: bytes
    separator: bytes
    tail: bytes


def file_frame(parent: ParentImport) -> FileFrame:
    """The frame of the import's format. A CSV file without a header has none."""
    if parent.format == "json":
        return FileFrame(b"[", b",\n", b"]")
    return FileFrame(parent.csv_header or b"", b"", b"")


async def read_chunks(pool: Pool, parent: ParentImport, which: Which) -> AsyncGenerator[ChunkRecords, None]:
    """Yields the records chunk by chunk, in the order of the file. Raises `Gone`, also at the end if some are missing."""
    failed, unprocessed = which != "unprocessed", which in ("unprocessed", "remaining")
    unrepaired = which in ("unrepaired", "remaining", "all")
    expected = parent.failed * failed + (parent.remaining - parent.failed) * unprocessed
    if which == "all":
        expected = parent.total_records
    if unrepaired:
        async with pool.connection() as conn:
            expected -= (await repairs.taken_on(conn, parent.id)).count
    yielded, after_seq = 0, 0
    while True:
        async with pool.connection() as conn:
            chunk = await records.next_chunk(
                conn,
                parent.id,
                after_seq=after_seq,
                failed=failed,
                unprocessed=unprocessed,
                every=which == "all",
                unrepaired=unrepaired,
            )
        if chunk is None:
            break
        if chunk.numbers:
            yield chunk
        yielded += len(chunk.numbers)
        after_seq = chunk.seq
    # Retention removes records in several steps, and a repair may have taken some on meanwhile. An incomplete file must not look
    # complete.
    if parent.is_final and yielded != expected:
        raise Gone


async def download(
    pool: Pool, admission: Admission, parent: ParentImport, which: Which, *, is_annotated: bool
) -> ASGIResponse:
    """Streams the file. Raises `Problem` 404 if the records were removed, 429 if there are too many downloads."""
    what = "unprocessed" if which == "unprocessed" else "failed"
    name = download_name(parent.file_name, parent.resource, what, parent.format)
    try:
        return await stream(
            _blocks(pool, parent, which, is_annotated=is_annotated),
            MEDIA_TYPES[parent.format],
            name,
            admitted=admission.download(),
        )
    except Gone:
        raise removed() from None


async def stream(
    blocks: AsyncGenerator[bytes, None],
    media_type: str,
    name: str,
    *,
    admitted: AbstractContextManager[None] = _UNLIMITED,
) -> ASGIResponse:
    """A response with these blocks, to be saved as `name`. An error before the first block becomes a problem document.

    `admitted` is entered for as long as the response is sent.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(admitted)
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
    """The name of the download, like `users-failed.csv`: the name of the import's file, reduced to safe characters."""
    stem = _ENDINGS.sub("", re.split(r"[/\\]", file_name or "")[-1])
    return f"{_UNSAFE.sub('_', stem).strip('_')[:100] or resource}-{what}.{ending}"


def removed() -> Problem:
    return Problem("not-found", "The records of this import were removed.")


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for block in rest:
        yield block


async def _blocks(pool: Pool, parent: ParentImport, which: Which, *, is_annotated: bool) -> AsyncGenerator[bytes, None]:
    head, separator, tail = file_frame(parent)
    csv = annotations.Csv(parent.csv_columns or (), parent.csv_delimiter) if parent.format == "csv" else None
    if head and csv and is_annotated:
        head = csv.header(head)
    before = head
    async with aclosing(read_chunks(pool, parent, which)) as found:
        async for chunk in found:
            notes = await _notes(pool, parent, chunk) if is_annotated else None
            missing = [NOT_STORED] if which in ("failed", "unrepaired") else []
            # not kept as a list: a slow client holds what is here
            data = before + separator.join(
                [
                    _record(raw, line, None if notes is None else notes.get(number, missing), csv=csv, parent=parent)
                    for number, line, raw in chunk.records(parent.format)
                ]
            )
            for start in range(0, len(data), BLOCK_BYTES):
                yield data[start : start + BLOCK_BYTES]
            before = separator
    if before is head:
        tail = head + tail
    if tail:
        yield tail


async def _notes(pool: Pool, parent: ParentImport, chunk: ChunkRecords) -> dict[int, list[RecordNote]]:
    async with pool.connection() as conn:
        return await records.notes(conn, parent.id, first=chunk.numbers[0], last=chunk.numbers[-1])


def _record(
    raw: bytes, line: int, notes: list[RecordNote] | None, *, csv: annotations.Csv | None, parent: ParentImport
) -> bytes:
    """The record as it was sent; with notes, annotated.

    A record that was too large is stored truncated. In a JSON array an object with its line replaces it, so that the array is
    still valid.
    """
    if parent.format == "json" and not _is_element(raw):
        return annotations.json(b"{}", line, notes) if notes is not None else b'{"_line":%d}' % line
    if notes is None:
        return raw
    return csv.record(raw, line, notes) if csv else annotations.json(raw, line, notes)


def _is_element(raw: bytes) -> bool:
    """Whether the bytes are one element of an array, valid or not, whose brackets are balanced."""
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
