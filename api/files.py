"""A whole file by HTTP: validators, digest, and ranges, so that a download that broke can go on (RFC 9110, RFC 9530)."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from io import BufferedReader
from pathlib import Path

from litestar import Request, Response
from litestar.response.base import ASGIResponse

from api.errors import Problem
from api.streaming import BlockStream
from db.payload import Format

BLOCK_BYTES = 256 * 1024

MEDIA_TYPES: dict[Format, str] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
}

_RANGE = re.compile(r"bytes=(?P<first>\d{0,18})-(?P<last>\d{0,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Download:
    """A file as it was described when it was written, and the name it should have with the client."""

    path: Path
    sha256: bytes
    bytes: int
    media_type: str
    name: str

    @property
    def etag(self) -> str:
        return f'"{self.sha256.hex()}"'


def export_name(resource: str, format: Format, snapshot_at: datetime) -> str:
    """What an export is called on the client's disk."""
    return f"{resource}-{snapshot_at:%Y%m%dT%H%M%SZ}.{format}"


async def answer(request: Request, download: Download) -> ASGIResponse:
    """The file, or the part that is asked for; 304 when the client has it. Raises `Problem` 416, `FileNotFoundError`.

    A file that is not as it was described counts as not found: it must not be taken for the one that was exported.
    """
    headers = {
        "ETag": download.etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{download.name}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(download.sha256).decode()}:",
    }
    if _knows(request, download.etag):
        return Response(b"", status_code=304, headers=headers, media_type=download.media_type).to_asgi_response(
            None, request
        )
    wanted = _wanted(request, download)
    part = range(download.bytes) if wanted is None else wanted
    async with AsyncExitStack() as stack:
        file = stack.enter_context(await asyncio.to_thread(_open, download, part.start))
        held = stack.pop_all()
    headers["Content-Length"] = str(len(part))
    if wanted is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{download.bytes}"
    return BlockStream(
        _blocks(file, len(part)),
        held=held,
        media_type=download.media_type,
        headers=headers,
        status_code=200 if wanted is None else 206,
    )


def _knows(request: Request, etag: str) -> bool:
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    return etag in known or "*" in known


def _wanted(request: Request, download: Download) -> range | None:
    """The range to send; None is the whole file, which also answers several ranges, or one for another version of it."""
    whole = range(download.bytes)
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if match is None or request.headers.get("if-range", download.etag).strip() != download.etag:
        return None
    first, last = match["first"], match["last"]
    if first:
        if last and int(last) < int(first):
            return None
        wanted = whole[int(first) : int(last) + 1 if last else None]
    elif last:
        wanted = whole[max(0, download.bytes - int(last)) :]
    else:
        return None
    if not wanted:
        raise Problem(
            "range-not-satisfiable",
            f"The file has {download.bytes} bytes.",
            headers={"Content-Range": f"bytes */{download.bytes}"},
        )
    return wanted


def _open(download: Download, start: int) -> BufferedReader:
    if download.path.stat().st_size != download.bytes:
        raise FileNotFoundError(download.path)
    file = download.path.open("rb")
    file.seek(start)
    return file


async def _blocks(file: BufferedReader, size: int) -> AsyncIterator[bytes]:
    while size:
        block = await asyncio.to_thread(file.read, min(size, BLOCK_BYTES))
        if not block:
            raise EOFError("the file ends before its end")
        size -= len(block)
        yield block
