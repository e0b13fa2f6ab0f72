"""Unpacks an upload within limits: the bytes that come out are counted, and compared with those that went in."""

from collections.abc import Iterator

from api.http.problems import Problem
from api.imports.decompression import Compression, Undecodable, decoder
from db.settings import Settings

# before that a packed file may unpack to any multiple of its size
RATIO_FREE_BYTES = 16 * 1024 * 1024


class Unpacking:
    """A decoder whose output is limited, in bytes and in proportion to its input. Raises `Problem`: 400, 413."""

    def __init__(self, compression: Compression | None, settings: Settings) -> None:
        self._decoder = decoder(compression)
        self._settings = settings
        self._packed = 0
        self._unpacked = 0

    def feed(self, block: bytes) -> Iterator[bytes]:
        self._packed += len(block)
        try:
            for unpacked in self._decoder.feed(block):
                self._unpacked += len(unpacked)
                self._check()
                yield unpacked
        except Undecodable as error:
            raise _unpackable(error) from None

    def finish(self) -> None:
        try:
            self._decoder.finish()
        except Undecodable as error:
            raise _unpackable(error) from None

    def _check(self) -> None:
        if self._unpacked > self._settings.upload_max_bytes:
            raise too_large(self._settings.upload_max_bytes)
        ratio = self._settings.unpack_ratio_max
        if self._unpacked > max(RATIO_FREE_BYTES, self._packed * ratio):
            raise Problem(
                "payload-too-large",
                f"A packed upload may unpack to {ratio} times its size, from {RATIO_FREE_BYTES} bytes on.",
                limit_ratio=ratio,
            )


def too_large(limit: int) -> Problem:
    return Problem("payload-too-large", f"An upload may have {limit} bytes, sent and unpacked.", limit_bytes=limit)


def _unpackable(error: Undecodable) -> Problem:
    return Problem("invalid-request", f"The file cannot be unpacked: {error}.")
