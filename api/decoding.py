"""Undoes gzip and zstd as the bytes arrive, in blocks of bounded size, whatever the ratio."""

import sys
import zlib
from collections.abc import Iterator
from typing import Literal, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["gzip", "zstd"]

BLOCK_BYTES = 256 * 1024


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


class Gzip:
    """One gzip member or several in a row, as `cat a.gz b.gz` makes them."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._is_between = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        is_full = False
        try:
            # a full block may leave output behind although all input was taken
            while data or is_full:
                if self._member.eof:
                    self._member = zlib.decompressobj(wbits=31)
                block = self._member.decompress(data, BLOCK_BYTES)
                is_full = len(block) == BLOCK_BYTES and not self._member.eof
                self._is_between = self._member.eof
                data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
                if block:
                    yield block
        except zlib.error as error:
            raise Undecodable(f"not valid gzip: {error}") from None

    def finish(self) -> None:
        if not self._is_between:
            raise Undecodable("the gzip data ends too early")


class Zstd:
    """One zstd frame or several in a row."""

    def __init__(self) -> None:
        self._frame = zstd.ZstdDecompressor()
        self._is_between = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            while data or not (self._frame.eof or self._frame.needs_input):
                if self._frame.eof:
                    self._frame = zstd.ZstdDecompressor()
                block = self._frame.decompress(data, BLOCK_BYTES)
                self._is_between = self._frame.eof
                data = self._frame.unused_data if self._frame.eof else b""
                if block:
                    yield block
        except zstd.ZstdError as error:
            raise Undecodable(f"not valid zstd: {error}") from None

    def finish(self) -> None:
        if not self._is_between:
            raise Undecodable("the zstd data ends too early")


def decoder(compression: Compression | None) -> Decoder:
    return {None: Plain, "gzip": Gzip, "zstd": Zstd}[compression]()
