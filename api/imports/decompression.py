"""Undoes gzip and zstd as the bytes arrive, in blocks of bounded size, whatever the ratio."""

import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import Literal, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["gzip", "zstd"]

BLOCK_BYTES = 256 * 1024
# so many bytes are looked at for the next member, behind the end of one
STEP_BYTES = 4 * 1024
# `cat` of many files may have a few empty ones
EMPTY_MAX = 1000
# as a power of two, 8 MiB: what RFC 9659 allows, and `zstd -19` uses; the decoder holds as much
ZSTD_WINDOW_LOG_MAX = 23


class Undecodable(Exception):
    """The bytes are not of the compression that they claim, or end too early."""


class Decoder(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """The blocks that these bytes unpack to. Raises `Undecodable`."""
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
    """Members, as gzip calls them, or frames, as zstd does: one or several in a row, as `cat a.gz b.gz` makes them."""

    name: str

    def __init__(self) -> None:
        self._is_between = True
        self._is_empty = True
        self._empty = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        position, step = 0, BLOCK_BYTES
        while position < len(data):
            piece = data[position : position + step]
            # what is left behind the end of a member is copied: many tiny ones must not be cut from a large piece
            left = yield from self._part(piece)
            position += len(piece) - left
            step = STEP_BYTES if left else min(2 * step, BLOCK_BYTES)

    def finish(self) -> None:
        if not self._is_between:
            raise Undecodable(f"the {self.name} data ends too early")

    @abstractmethod
    def _part(self, data: bytes) -> Generator[bytes, None, int]:
        """Unpacks what belongs to one member; how many bytes are left over."""

    def _saw(self, block: bytes, *, is_end: bool) -> None:
        """Raises `Undecodable` after too many members that hold nothing: they cost time, and no bytes of any limit."""
        self._is_between = is_end
        self._is_empty &= not block
        if is_end:
            self._empty += self._is_empty
            self._is_empty = True
            if self._empty > EMPTY_MAX:
                raise Undecodable(f"the {self.name} data has more than {EMPTY_MAX} members with nothing in them")


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
            # a full block may leave output behind although all input was taken
            while (data or is_full) and not self._member.eof:
                block = self._member.decompress(data, BLOCK_BYTES)
                is_full = len(block) == BLOCK_BYTES
                self._saw(block, is_end=self._member.eof)
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
                self._saw(block, is_end=self._frame.eof)
                data = b""
                if block:
                    yield block
        except zstd.ZstdError as error:
            raise Undecodable(f"not valid zstd: {error}") from None
        return len(self._frame.unused_data)


def _frame() -> zstd.ZstdDecompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX})


def decoder(compression: Compression | None) -> Decoder:
    return {None: Plain, "gzip": Gzip, "zstd": Zstd}[compression]()
