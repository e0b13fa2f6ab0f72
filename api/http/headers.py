"""Request headers, parsed by Werkzeug: conditional requests, ranges, preferences, idempotency keys and digests."""

import base64
import re
from typing import Any, TypeAlias

from litestar import Request
from werkzeug.http import parse_etags, parse_list_header, parse_options_header, parse_range_header

from api.http.problems import Problem, invalid

AnyRequest: TypeAlias = Request[Any, Any, Any]

WAIT_SECONDS_MAX = 30
# far longer than any sensible list of preferences or media types
LIST_MAX_CHARACTERS = 1000

IDEMPOTENCY_KEY_MAX_CHARACTERS = 255


def matches_etag(request: AnyRequest, etag: str) -> bool:
    """Whether If-None-Match contains this strong ETag (without its quotes), so that the answer is 304."""
    return parse_etags(request.headers.get("if-none-match")).contains_weak(etag)


def byte_range(request: AnyRequest, etag: str, length: int) -> range | None:
    """The requested part of a file of `length` bytes; None if the whole file is to be sent.

    The whole file is the answer to a Range header that is malformed or has several ranges, and when If-Range names another
    version. Raises `Problem` 416.
    """
    requested = parse_range_header(request.headers.get("range"))
    if requested is None or requested.units != "bytes" or len(requested.ranges) != 1:
        return None
    # a strong comparison: a weak ETag never matches
    if request.headers.get("if-range", f'"{etag}"').strip() != f'"{etag}"':
        return None
    start, stop = requested.ranges[0]
    part = range(length)[start:stop] if start >= 0 else range(length)[max(0, length + start) :]
    if not part:
        raise Problem(
            "range-not-satisfiable",
            f"The file has {length} bytes.",
            headers={"Content-Range": f"bytes */{length}"},
        )
    return part


def wait_seconds(request: AnyRequest) -> int | None:
    """The seconds of `Prefer: wait=N` (RFC 7240), at most `WAIT_SECONDS_MAX`; None without it.

    The first of several counts. A preference that cannot be read is ignored, as the RFC demands.
    """
    header = ", ".join(request.headers.getall("prefer", []))
    if len(header) > LIST_MAX_CHARACTERS:
        return None
    for item in parse_list_header(header):
        name, _, value = parse_options_header(item)[0].partition("=")
        if name.strip().lower() == "wait":
            value = value.strip().strip('"')
            return min(int(value), WAIT_SECONDS_MAX) if re.fullmatch("[0-9]{1,18}", value) else None
    return None


def idempotency_key(request: AnyRequest) -> str | None:
    """The header Idempotency-Key, bare or as a quoted string. Raises `Problem` 400."""
    header = request.headers.get("idempotency-key")
    if header is None:
        return None
    key = header.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX_CHARACTERS:
        raise invalid("Idempotency-Key", f"must have 1 to {IDEMPOTENCY_KEY_MAX_CHARACTERS} characters")
    return key


def content_digest(request: AnyRequest) -> bytes | None:
    """The sha-256 of Content-Digest (RFC 9530); None if there is none. Other algorithms are ignored. Raises `Problem` 400."""
    for item in request.headers.get("content-digest", "").split(","):
        name, _, value = item.strip().partition("=")
        if name.lower() == "sha-256":
            try:
                digest = base64.b64decode(value.strip(":"), validate=True)
            except ValueError:
                digest = b""
            if len(digest) != 32 or not (value.startswith(":") and value.endswith(":")):
                raise invalid("Content-Digest", "must be like sha-256=:<44 characters of base64>:")
            return digest
    return None
