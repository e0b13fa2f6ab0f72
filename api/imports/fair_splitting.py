"""Splitting runs on the event loop. Uploads that are costly to split take turns, so that other requests are answered meanwhile.

Most files are split at hundreds of megabytes a second. A JSON array of tiny elements or deep brackets takes up to a second for
each megabyte, and ten such uploads at once would delay every response by the time of ten blocks.
"""

import asyncio
import time

from api.imports.splitting import FileSplitter
from db.imports.payload import Chunk

# CPU time for one block, from which on an upload counts as costly
COSTLY_SECONDS = 0.005
# a block of a costly upload is split in parts of this size
PART_BYTES = 64 * 1024


class FairSplitter:
    """Feeds `splitter`. `turn` is shared by the uploads of a process, and held by one costly upload at a time."""

    def __init__(self, splitter: FileSplitter, turn: asyncio.Lock) -> None:
        self._splitter = splitter
        self._turn = turn
        self._is_costly = False

    async def feed(self, block: bytes) -> list[Chunk]:
        """The chunks that these bytes complete. Raises `Unreadable`."""
        if not self._is_costly:
            chunks, _ = self._feed(block)
            return chunks
        chunks = []
        for start in range(0, len(block), PART_BYTES):
            async with self._turn:
                part, seconds = self._feed(block[start : start + PART_BYTES])
                chunks += part
                # leaves the event loop to others for as long as it was busy
                await asyncio.sleep(seconds)
        return chunks

    def _feed(self, block: bytes) -> tuple[list[Chunk], float]:
        began = time.thread_time()
        chunks = self._splitter.feed(block)
        seconds = time.thread_time() - began
        self._is_costly = seconds > COSTLY_SECONDS
        return chunks, seconds
