"""Sends a stored file: conditional requests, ranges (RFC 9110) and the digest of the file (RFC 9530)."""

import base64
from contextlib import AsyncExitStack
from dataclasses import dataclass

from litestar import Response
from litestar.response.base import ASGIResponse

from api.http.headers import AnyRequest, byte_range, matches_etag
from api.http.streaming import BlockStream
from db.exports.storage import Storage


@dataclass(frozen=True, slots=True)
class Download:
    """A stored file with the size and digest from the job's record, and the file name for the client."""

    storage: Storage
    key: str
    sha256: bytes
    bytes: int
    media_type: str
    name: str

    @property
    def etag(self) -> str:
        return self.sha256.hex()


async def respond(request: AnyRequest, download: Download, *, may_redirect: bool) -> ASGIResponse:
    """The file or the requested range of it; 304 if the client has it. Raises `Problem` 416, `FileNotFoundError`.

    A file whose size differs from the job's record is treated as missing. With `may_redirect` the client is redirected to the
    storage if it has presigned URLs. The storage then evaluates Range and If-Range itself; a client that resumes a download
    sends them both here and there.
    """
    headers = {
        "ETag": f'"{download.etag}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{download.name}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(download.sha256).decode()}:",
    }
    if matches_etag(request, download.etag):
        return Response(b"", status_code=304, headers=headers, media_type=download.media_type).to_asgi_response(
            None, request
        )
    if may_redirect and (url := await download.storage.presigned_url(download.key, size=download.bytes)):
        return ASGIResponse(status_code=307, headers={"Location": url, "Cache-Control": "no-store"})
    requested = byte_range(request, download.etag, download.bytes)
    part = range(download.bytes) if requested is None else requested
    async with AsyncExitStack() as stack:
        blocks = await stack.enter_async_context(download.storage.reader(download.key, part, size=download.bytes))
        held = stack.pop_all()
    headers["Content-Length"] = str(len(part))
    if requested is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{download.bytes}"
    return BlockStream(
        blocks,
        held=held,
        media_type=download.media_type,
        headers=headers,
        status_code=200 if requested is None else 206,
    )
