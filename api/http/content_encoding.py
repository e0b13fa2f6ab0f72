"""Content negotiation (RFC 9110, 12.5) by Accept and Accept-Encoding; compression of a response while it is sent."""

from collections.abc import AsyncIterator, Mapping
from typing import TypeVar

from werkzeug.datastructures import Accept, MIMEAccept
from werkzeug.http import parse_accept_header

from api.http.headers import LIST_MAX_CHARACTERS, AnyRequest
from api.http.problems import Problem, invalid
from db import compression
from db.formats import COMPRESSION_BY_ENCODING, Compression

T = TypeVar("T")

# the smallest quality above 0 that a header can have
QUALITY_MIN = 0.001


def acceptable(request: AnyRequest, choices: Mapping[str, T]) -> T:
    """The choice whose media type has the highest quality in Accept; the first of equals. Raises `Problem` 406."""
    header = _header(request, "accept")
    if not header.strip():
        return next(iter(choices.values()))
    accept = parse_accept_header(header, MIMEAccept)
    best = max(choices, key=accept.quality)
    if not accept.quality(best):
        raise Problem("not-acceptable", f"The media types are {', '.join(choices)}.")
    return choices[best]


def acceptable_encoding(request: AnyRequest) -> Compression:
    """The compression with the highest quality in Accept-Encoding; none without the header. Raises `Problem` 406."""
    accept = parse_accept_header(_header(request, "accept-encoding"), Accept)
    quality = {name: accept.quality(name) for name in COMPRESSION_BY_ENCODING}
    if "identity" not in accept:
        quality["identity"] = QUALITY_MIN
    best = max(quality, key=lambda name: quality[name])
    if not quality[best]:
        raise Problem("not-acceptable", f"The encodings are {', '.join(COMPRESSION_BY_ENCODING)}.")
    return COMPRESSION_BY_ENCODING[best]


async def compress(blocks: AsyncIterator[bytes], encoding: Compression) -> AsyncIterator[bytes]:
    """The blocks as one compressed stream. If `blocks` fails, the stream has no end and cannot be decompressed completely."""
    compressor = compression.compressor(encoding)
    async for block in blocks:
        if data := compressor.compress(block):
            yield data
    if data := compressor.flush():
        yield data


def _header(request: AnyRequest, name: str) -> str:
    header = request.headers.get(name, "")
    if len(header) > LIST_MAX_CHARACTERS:
        raise invalid(name.title(), f"must not have more than {LIST_MAX_CHARACTERS} characters")
    return header
