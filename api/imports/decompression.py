"""Decompresses gzip and zstd incrementally, in blocks of bounded size and within the limits of an upload."""

import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from api.http.problems import Problem
from db.formats import Compression
from db.settings import Settings

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# up to this size an upload may decompress to any multiple of its size
RATIO_FREE_BYTES = 16 * 1024 * 1024

# size of a decompressed block, which is processed without yielding to the event loop
BLOCK_BYTES = 64 * 1024
# size of the pieces that are read after the end of a member
STEP_BYTES = 4 * 1024
# a concatenation of many files may contain a few empty ones
EMPTY_MAX = 1000
# exponent of 8 MiB: the limit of RFC 9659, which `zstd -19` uses; the decoder needs as much memory
ZSTD_WINDOW_LOG_MAX = 23


class Undecodable(Exception):
    """The bytes are not valid data of this compression, or end too early."""


class Decoder(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """The blocks that these bytes decompress to. Raises `Undecodable`."""
        ...

    def finish(self) -> None:
        """Raises `Undecodable` when the compressed data is not complete."""
        ...


class Plain:
    """No compression."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        pass


class Members(ABC):
    """Members (gzip) or frames (zstd), one or several in a row, as in the output of `cat a.gz b.gz`."""

    name: str

    def __init__(self) -> None:
        self._is_between = True
        self._is_empty = True
        self._empty = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        position, step = 0, BLOCK_BYTES
        while position < len(data):
            piece = data[position : position + step]
            # the bytes behind the end of a member are copied, so many tiny members must not be taken from a large piece
            remaining = yield from self._part(piece)
            position += len(piece) - remaining
            step = STEP_BYTES if remaining else min(2 * step, BLOCK_BYTES)

    def finish(self) -> None:
        if not self._is_between:
            raise Undecodable(f"the {self.name} data ends too early")

    @abstractmethod
    def _part(self, data: bytes) -> Generator[bytes, None, int]:
        """Decompresses the part of one member. Returns the number of bytes after its end."""

    def _count(self, block: bytes, *, is_end: bool) -> None:
        """Raises `Undecodable` after too many empty members, which cost time without reaching a limit in bytes."""
        self._is_between = is_end
        self._is_empty &= not block
        if is_end:
            self._empty += self._is_empty
            self._is_empty = True
            if self._empty > EMPTY_MAX:
                raise Undecodable(f"the {self.name} data has more than {EMPTY_MAX} empty members")


class Gzip(Members):
    name = "gzip"

    def __init__(self) -> None:
        super().__init__()
        self._member = zlib.decompressobj(wbits=31)

    def _part(self, data: bytes) -> Generator[bytes, None, int]:
        if self._member.eof:
            self._member = zlib.decompressobj(wbits=31)
        is_full = False
        try:
            # after a full block there may be more output although all input was consumed
            while (data or is_full) and not self._member.eof:
                block = self._member.decompress(data, BLOCK_BYTES)
                is_full = len(block) == BLOCK_BYTES
                self._count(block, is_end=self._member.eof)
                data = self._member.unconsumed_tail
                if block:
                    yield block
        except zlib.error as error:
            raise Undecodable(f"not valid gzip: {error}") from None
        return len(self._member.unused_data)


class Zstd(Members):
    name = "zstd"

    def __init__(self) -> None:
        super().__init__()
        self._frame = _frame()

    def _part(self, data: bytes) -> Generator[bytes, None, int]:
        if self._frame.eof:
            self._frame = _frame()
        try:
            while (data or not self._frame.needs_input) and not self._frame.eof:
                block = self._frame.decompress(data, BLOCK_BYTES)
                self._count(block, is_end=self._frame.eof)
                data = b""
                if block:
                    yield block
        except zstd.ZstdError as error:
            raise Undecodable(f"not valid zstd: {error}") from None
        return len(self._frame.unused_data)


def _frame() -> zstd.ZstdDecompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX})


def decoder(compression: Compression) -> Decoder:
    return {"none": Plain, "gzip": Gzip, "zstd": Zstd}[compression]()


class Decompressor:
    """A decoder whose output is limited, in bytes and in proportion to the bytes received.

    `received` returns the number of bytes of the request's body so far, as sent. For a compressed file in a compressed form
    both decoders use it, so that their ratios do not multiply. Raises `Problem`: 400, 413.
    """

    def __init__(self, compression: Compression, settings: Settings, received: Callable[[], int]) -> None:
        self._decoder = decoder(compression)
        self._settings = settings
        self._received = received
        self._output_bytes = 0

    def feed(self, block: bytes) -> Iterator[bytes]:
        try:
            for output in self._decoder.feed(block):
                self._output_bytes += len(output)
                self._check()
                yield output
        except Undecodable as error:
            raise _undecodable(error) from None

    def finish(self) -> None:
        try:
            self._decoder.finish()
        except Undecodable as error:
            raise _undecodable(error) from None

    def _check(self) -> None:
        if self._output_bytes > self._settings.upload_max_bytes:
            raise too_large(self._settings.upload_max_bytes)
        ratio = self._settings.unpack_ratio_max
        if self._output_bytes > max(RATIO_FREE_BYTES, self._received() * ratio):
            raise Problem(
                "payload-too-large",
                f"A compressed upload may decompress to {ratio} times its size, from {RATIO_FREE_BYTES} bytes on.",
                limit_ratio=ratio,
            )


def too_large(limit: int) -> Problem:
    return Problem("payload-too-large", f"An upload may have {limit} bytes, sent and decompressed.", limit_bytes=limit)


def _undecodable(error: Undecodable) -> Problem:
    return Problem("invalid-request", f"The file cannot be decompressed: {error}.")
