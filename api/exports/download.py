"""A whole file by HTTP: validators, digest, and ranges, so that a download that broke can go on (RFC 9110, RFC 9530)."""

import base64
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass

from litestar import Request, Response
from litestar.response.base import ASGIResponse

from api.http.problems import Problem
from api.http.streaming import BlockStream
from db.exports.files import MEDIA_TYPES, export_name
from db.exports.storage import Storage

__all__ = ["MEDIA_TYPES", "Download", "answer", "export_name"]

_RANGE = re.compile(r"bytes=(?P<first>\d{0,18})-(?P<last>\d{0,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Download:
    """A file as it was described when it was written, and the name it should have with the client."""

    storage: Storage
    key: str
    sha256: bytes
    bytes: int
    media_type: str
    name: str

    @property
    def etag(self) -> str:
        return f'"{self.sha256.hex()}"'


async def answer(request: Request, download: Download, *, may_redirect: bool) -> ASGIResponse:
    """The file, or the part that is asked for; 304 when the client has it. Raises `Problem` 416, `FileNotFoundError`.

    A file that is not as it was described counts as not found: it must not be taken for the one that was exported. If that is
    allowed, the client is sent to the storage itself where that can serve it. Ranges and validators are the storage's own
    there: a client that goes on with a download sends its Range and If-Range here and there alike.
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
    if may_redirect and (address := await download.storage.address(download.key, size=download.bytes)):
        return ASGIResponse(status_code=307, headers={"Location": address, "Cache-Control": "no-store"})
    wanted = _wanted(request, download)
    part = range(download.bytes) if wanted is None else wanted
    async with AsyncExitStack() as stack:
        blocks = await stack.enter_async_context(download.storage.reader(download.key, part, size=download.bytes))
        held = stack.pop_all()
    headers["Content-Length"] = str(len(part))
    if wanted is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{download.bytes}"
    return BlockStream(
        blocks,
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
