"""Packs bytes as they come. Levels are chosen so that packing is not what a reader waits for."""

import sys
import zlib
from typing import Literal, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["none", "gzip", "zstd"]

GZIP_LEVEL = 1
ZSTD_LEVEL = 3


class Packer(Protocol):
    def pack(self, data: bytes) -> bytes:
        """What can be said so far, perhaps nothing."""
        ...

    def end(self) -> bytes:
        """The rest; without it a reader knows that the data is not whole."""
        ...


class _Plain:
    def pack(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        # without a time in its head, so that the same records are the same bytes
        self._stream = zlib.compressobj(GZIP_LEVEL, wbits=31)

    def pack(self, data: bytes) -> bytes:
        return self._stream.compress(data)

    def end(self) -> bytes:
        return self._stream.flush()


class _Zstd:
    def __init__(self) -> None:
        self._stream = zstd.ZstdCompressor(level=ZSTD_LEVEL)

    def pack(self, data: bytes) -> bytes:
        return self._stream.compress(data)

    def end(self) -> bytes:
        return self._stream.flush()


def packer(compression: Compression) -> Packer:
    return {"none": _Plain, "gzip": _Gzip, "zstd": _Zstd}[compression]()
