"""Streaming gzip and zstd compressors. The levels favour speed, so that compression is not the bottleneck of a stream."""

import sys
import zlib
from typing import Protocol

from db.formats import Compression

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_LEVEL = 1
ZSTD_LEVEL = 3


class Compressor(Protocol):
    def compress(self, data: bytes) -> bytes:
        """The output that is available so far, possibly empty."""
        ...

    def flush(self) -> bytes:
        """The rest of the output. Without it a decompressor reports truncated input."""
        ...


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        # no timestamp in the gzip header: the same records give the same bytes
        self._stream = zlib.compressobj(GZIP_LEVEL, wbits=31)

    def compress(self, data: bytes) -> bytes:
        return self._stream.compress(data)

    def flush(self) -> bytes:
        return self._stream.flush()


class _Zstd:
    def __init__(self) -> None:
        self._stream = zstd.ZstdCompressor(level=ZSTD_LEVEL)

    def compress(self, data: bytes) -> bytes:
        return self._stream.compress(data)

    def flush(self) -> bytes:
        return self._stream.flush()


def compressor(compression: Compression) -> Compressor:
    return {"none": _Plain, "gzip": _Gzip, "zstd": _Zstd}[compression]()
