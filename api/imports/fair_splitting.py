"""Splitting runs on the event loop. Uploads that are costly to split take turns, so that other requests are answered meanwhile.

Most files are split at hundreds of megabytes a second. A JSON array of tiny elements or deep brackets takes up to a second for
each megabyte, and ten such uploads at once would delay every response by the time of ten blocks.
"""

import asyncio
import time

from api.imports.splitting import FileSplitter
from db.imports.payload import Chunk

# CPU time from which on an upload counts as costly: for a byte, and at least in all
COSTLY_SECONDS_A_BYTE = 0.08 / (1024 * 1024)
COSTLY_SECONDS_MIN = 0.001
# the first block of an upload, and each block of a costly one, is split in parts of this size
PART_BYTES = 16 * 1024


class FairSplitter:
    """Feeds `splitter`. `turn` is shared by the uploads of a process, and held by one costly upload at a time."""

    def __init__(self, splitter: FileSplitter, turn: asyncio.Lock) -> None:
        self._splitter = splitter
        self._turn = turn
        # None until the first bytes were split
        self._is_costly: bool | None = None

    async def feed(self, block: bytes) -> list[Chunk]:
        """The chunks that these bytes complete. Raises `Unreadable`."""
        chunks: list[Chunk] = []
        position = 0
        while position < len(block):
            part = block[position:] if self._is_costly is False else block[position : position + PART_BYTES]
            position += len(part)
            if not self._is_costly:
                self._feed(part, chunks)
                continue
            async with self._turn:
                seconds = self._feed(part, chunks)
                # leaves the event loop to others for as long as it was busy
                await asyncio.sleep(seconds)
        return chunks

    def _feed(self, part: bytes, chunks: list[Chunk]) -> float:
        """Adds the chunks, and returns the CPU time."""
        began = time.thread_time()
        chunks += self._splitter.feed(part)
        seconds = time.thread_time() - began
        self._is_costly = seconds > max(COSTLY_SECONDS_MIN, COSTLY_SECONDS_A_BYTE * len(part))
        return seconds
