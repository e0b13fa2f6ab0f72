"""Reads the body of an import request, in any of its three forms, as one stream of parameters and of the file's bytes.

Only the current block is held in memory, except for the form of a JSON object, which is for small imports and has its own limit.
"""

import asyncio
import hashlib
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any, NamedTuple, TypeAlias

import msgspec
from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from api.http.headers import AnyRequest, content_digest
from api.http.parameters import PARAMETERS_MAX
from api.http.problems import Problem, invalid
from api.imports.admission import Admission
from api.imports.columns import COLUMNS_MAX_BYTES
from api.imports.decompression import BLOCK_BYTES, Decompressor, too_large
from api.imports.file_type import compression_of, recognised
from db.formats import (
    COMPRESSION_BY_MEDIA_TYPE,
    IMPORT_FORMAT_BY_MEDIA_TYPE,
    XLSX_MEDIA_TYPE,
    Compression,
    ImportFormat,
)
from db.queue import SMALL_BYTES
from db.settings import Settings

# media types that do not determine the format
OPAQUE = ("", "application/octet-stream", "text/plain", *COMPRESSION_BY_MEDIA_TYPE)

PARAMETER_MAX_BYTES = 4096
# how many leading blank bytes are skipped to find the first byte, which distinguishes an array from an object
BLANK_BYTES_MAX = 64 * 1024
PARTS_MAX = 32
BOUNDARY_MAX_CHARACTERS = 200


class Parameter(NamedTuple):
    name: str
    value: Any


class File(NamedTuple):
    """The start of the file; its blocks follow. `format` is None if neither media type nor name determine it."""

    name: str | None
    format: ImportFormat | None


Event: TypeAlias = Parameter | File | bytes


class Body:
    """Reads one request. `bytes_received` counts the bytes as sent; `Content-Digest` is verified at the end."""

    def __init__(self, request: AnyRequest, settings: Settings, admission: Admission) -> None:
        self._request = request
        self._settings = settings
        self._admission = admission
        self._expected = content_digest(request)
        self._digest = hashlib.sha256()
        self.bytes_received = 0

    @property
    def is_small(self) -> bool:
        """Whether the request announces at most SMALL_BYTES. Compressed, they may still contain a large file."""
        length = self._request.headers.get("content-length", "")
        return length.isdigit() and int(length) <= SMALL_BYTES

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yields the parameters, and the blocks of one file, unless it is the parameter `source`.

        Raises `Problem`: 400, 413, 415.
        """
        media_type, options = parse_options_header(self._request.headers.get("content-type", ""))
        if media_type == "multipart/form-data":
            events = self._multipart(options.get("boundary", ""))
        elif media_type == "application/json":
            events = self._json()
        else:
            events = self._raw(media_type)
        async with aclosing(events):
            async for event in events:
                yield event
                # a small compressed block may produce very many events without any wait in between
                await asyncio.sleep(0)
        if self._expected is not None and self._expected != self._digest.digest():
            raise Problem("digest-mismatch", "The received bytes do not have the sha-256 of Content-Digest.")

    async def _blocks(self) -> AsyncIterator[bytes]:
        """The bytes as sent."""
        limit = self._settings.upload_max_bytes
        length = self._request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large(limit)
        async for block in self._request.stream():
            self.bytes_received += len(block)
            if self.bytes_received > limit:
                raise too_large(limit)
            if self._expected is not None:
                self._digest.update(block)
            yield block
        self._check_length(length)

    def _check_length(self, announced: str) -> None:
        """Raises `Problem` 400 if the body is shorter than announced: an incomplete upload must not be accepted."""
        is_chunked = "transfer-encoding" in self._request.headers
        if not announced and not is_chunked:
            raise invalid(
                "Content-Length", "is required, or Transfer-Encoding: chunked; for an empty file it is 0", "missing"
            )
        if announced and int(announced) != self.bytes_received:
            raise invalid("Content-Length", f"is {announced}, but {self.bytes_received} bytes were received")
        if is_chunked and not self.bytes_received:
            raise invalid(
                "Transfer-Encoding",
                "announces a body, but no byte was received; for an empty file send Content-Length: 0",
            )

    async def _raw(self, media_type: str) -> AsyncGenerator[Event, None]:
        if (
            media_type not in IMPORT_FORMAT_BY_MEDIA_TYPE
            and media_type not in OPAQUE
            and "format" not in self._request.query_params
        ):
            raise Problem(
                "unsupported-format",
                f"Content-Type {media_type[:100]} is not supported. Send text/csv, application/x-ndjson, application/json, "
                f"{XLSX_MEDIA_TYPE} or multipart/form-data, or set the parameter format.",
            )
        yield File(None, IMPORT_FORMAT_BY_MEDIA_TYPE.get(media_type))
        encoding = _content_encoding(self._request)
        compression = COMPRESSION_BY_MEDIA_TYPE.get(media_type, "none") if encoding == "none" else encoding
        async for block in self._decoded(compression):
            yield block

    async def _decoded(self, compression: Compression) -> AsyncIterator[bytes]:
        decompressor = Decompressor(compression, self._settings, lambda: self.bytes_received)
        async for block in self._blocks():
            for output in decompressor.feed(block):
                yield output
                await asyncio.sleep(0)
        decompressor.finish()

    async def _json(self) -> AsyncGenerator[Event, None]:
        """An array is a file; an object contains the records and the parameters."""
        decoded = self._decoded(_content_encoding(self._request))
        head = b""
        async for block in decoded:
            head += block
            if head.lstrip(b"\xef\xbb\xbf \t\r\n") or len(head) > BLANK_BYTES_MAX:
                break
        if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") or "format" in self._request.query_params:
            yield File(None, "json")
            yield head
            async for block in decoded:
                yield block
            return
        limit = self._settings.json_body_max_bytes
        with self._admission.buffer() as buffered:
            buffered(len(head))
            whole = bytearray(head)
            async for block in decoded:
                buffered(len(block))
                whole += block
                if len(whole) > limit:
                    raise Problem(
                        "payload-too-large",
                        f"A JSON object with records may have {limit} bytes. Send more records as a file.",
                        limit_bytes=limit,
                    )
            for event in _object(whole):
                yield event

    async def _multipart(self, boundary: str) -> AsyncGenerator[Event, None]:
        form = _Form(boundary, self._settings, lambda: self.bytes_received)
        async for block in self._decoded(_content_encoding(self._request)):
            for event in form.feed(block):
                yield event
        form.finish()


class _Form:
    """A multipart form, part by part."""

    def __init__(self, boundary: str, settings: Settings, received: Callable[[], int]) -> None:
        # RFC 2046 allows 70 characters
        if not 1 <= len(boundary) <= BOUNDARY_MAX_CHARACTERS:
            raise invalid(
                "Content-Type", f"needs a boundary of 1 to {BOUNDARY_MAX_CHARACTERS} characters", "invalid_value"
            )
        self._settings = settings
        self._received = received
        self._parser = PushMultipartParser(boundary, max_segment_count=PARTS_MAX)
        self._part: MultipartSegment | None = None
        self._value = b""
        self._decompressor: Decompressor | None = None
        self._has_file = False

    def feed(self, block: bytes) -> Iterator[Event]:
        if not block:
            return
        try:
            for event in self._parser.parse(block):
                if isinstance(event, MultipartSegment):
                    yield from self._begin(event)
                elif event is None:
                    yield from self._end()
                elif self._decompressor is not None:
                    yield from self._decompressor.feed(bytes(event))
                else:
                    self._value += event
                    if len(self._value) > (limit := _value_max_bytes(self._name)):
                        raise invalid(self._name, f"has more than {limit} bytes", "too_long")
        except ParserLimitReached:
            raise Problem(
                "invalid-request", f"The form has more than {PARTS_MAX} parts, or a part's head is too long."
            ) from None
        except MultipartError as error:
            raise Problem("invalid-request", f"The form cannot be read: {error}") from None

    def finish(self) -> None:
        try:
            self._parser.close()
        except MultipartError as error:
            raise Problem("invalid-request", f"The form cannot be read: {error}") from None

    @property
    def _name(self) -> str:
        return (self._part.name if self._part else None) or ""

    def _begin(self, part: MultipartSegment) -> Iterator[Event]:
        self._part = part
        if part.filename is None and self._name != "file":
            return
        if self._name != "file":
            raise invalid(self._name, "is a file, which must be the part named file", "unknown_parameter")
        if self._has_file:
            raise invalid("file", "is repeated", "repeated_parameter")
        self._has_file = True
        # PostgreSQL cannot store the character U+0000 in a text
        name = part.filename and part.filename.replace("\0", "\ufffd")
        format, compression = recognised((part.content_type or "").lower(), name)
        self._decompressor = Decompressor(compression, self._settings, self._received)
        yield File(name, format)

    def _end(self) -> Iterator[Event]:
        if self._decompressor is not None:
            self._decompressor.finish()
            self._decompressor = None
        else:
            try:
                yield Parameter(self._name, self._value.decode())
            except UnicodeDecodeError:
                raise invalid(self._name, "is not UTF-8") from None
        self._value = b""


def _value_max_bytes(name: str) -> int:
    return COLUMNS_MAX_BYTES if name == "columns" else PARAMETER_MAX_BYTES


def _object(whole: bytearray) -> Iterator[Event]:
    if whole.startswith(BOM_UTF8):
        del whole[: len(BOM_UTF8)]
    try:
        members = msgspec.json.decode(whole, type=dict[str, msgspec.Raw])
        records = members.pop("records", None)
        if len(members) > PARAMETERS_MAX:
            raise Problem("invalid-request", f"There are more than {PARAMETERS_MAX} parameters.")
        parameters = [Parameter(name, msgspec.json.decode(value)) for name, value in members.items()]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("invalid-request", f"The body is not a JSON object: {error}") from None
    yield from parameters
    if records is None:
        if "source" in members:
            return
        raise invalid("records", "is required: an array of records (or send the array itself)", "missing")
    yield File(None, "json")
    # parts of the object itself, which is not copied as a whole
    content = memoryview(records)
    for start in range(0, len(content), BLOCK_BYTES):
        yield bytes(content[start : start + BLOCK_BYTES])


def _content_encoding(request: AnyRequest) -> Compression:
    return compression_of(request.headers.get("content-encoding", "identity"))
