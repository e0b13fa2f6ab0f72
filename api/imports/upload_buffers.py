"""The memory of uploads: what all of them hold together is bounded, however many there are and however slowly they arrive.

An upload holds the chunk that is being filled, the beginning of the next record, and the chunks that are being stored. When all
uploads of the process together hold more than UPLOAD_BUFFERS_MAX_BYTES, those that hold more than their share store what they
have, also as a chunk that is not full, before they read on. That includes uploads whose client sends nothing at the moment.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from api.http.problems import limit_reached
from api.imports.chunk_writer import ChunkWriter
from api.imports.splitting import FileSplitter
from db.imports.payload import Chunk
from db.settings import Settings

RETRY_SECONDS = 1


class UploadBuffers:
    """The bytes that the uploads of this process hold."""

    def __init__(self, settings: Settings) -> None:
        self.maximum = settings.upload_buffers_max_bytes
        self._uploads: set[BufferedUpload] = set()

    @property
    def is_full(self) -> bool:
        return sum(upload.held_bytes for upload in self._uploads) > self.maximum

    @property
    def share(self) -> float:
        """What each upload may hold when the limit is reached."""
        return self.maximum / len(self._uploads)

    @asynccontextmanager
    async def upload(self, splitter: FileSplitter, writer: ChunkWriter) -> AsyncIterator["BufferedUpload"]:
        """Counts an upload while the block runs."""
        upload = BufferedUpload(self, splitter, writer)
        self._uploads.add(upload)
        try:
            yield upload
            await upload.finish()
        finally:
            self._uploads.discard(upload)
            await upload.cancel()

    def is_only(self, upload: "BufferedUpload") -> bool:
        """Whether there is no other upload."""
        return self._uploads == {upload}

    def relieve_others(self, upload: "BufferedUpload") -> None:
        """Makes the uploads that hold more than their share store it."""
        for other in self._uploads:
            if other is not upload and other.held_bytes > self.share:
                other.relieve()


class BufferedUpload:
    """One upload: its splitter and its writer, which are used under a lock, because `relieve` uses them too."""

    def __init__(self, buffers: UploadBuffers, splitter: FileSplitter, writer: ChunkWriter) -> None:
        self._buffers = buffers
        self._splitter = splitter
        self._writer = writer
        self._lock = asyncio.Lock()
        self._relieving: asyncio.Task[None] | None = None

    @property
    def held_bytes(self) -> int:
        return self._splitter.held_bytes + self._writer.held_bytes

    async def add(self, chunks: Sequence[Chunk]) -> None:
        """Stores chunks, and makes room if all uploads hold too much. Raises `Problem` 429, and what the writer raises."""
        await self.finish()
        async with self._lock:
            await self._writer.add(chunks)
            if not self._buffers.is_full:
                return
            self._buffers.relieve_others(self)
            await self._make_room()
            # the beginning of a record cannot be stored
            if self._buffers.is_full and self.held_bytes > self._buffers.share and not self._buffers.is_only(self):
                raise limit_reached(
                    "upload_buffers_max_bytes",
                    self._buffers.maximum,
                    "bytes of incomplete records at once",
                    retry_seconds=RETRY_SECONDS,
                )

    def relieve(self) -> None:
        """Starts to store what the upload holds while it waits for its client."""
        if self._relieving is None and not self._lock.locked():
            self._relieving = asyncio.create_task(self._relieve())

    async def finish(self) -> None:
        """Waits until what `relieve` has begun is stored. Raises what the writer raises."""
        if self._relieving is not None:
            relieving, self._relieving = self._relieving, None
            await relieving

    async def cancel(self) -> None:
        """Ends what `relieve` has begun, after an error of the upload, which is raised instead of any other."""
        if self._relieving is not None:
            self._relieving.cancel()
            await asyncio.gather(self._relieving, return_exceptions=True)

    async def _relieve(self) -> None:
        async with self._lock:
            await self._make_room()

    async def _make_room(self) -> None:
        await self._writer.drain()
        if self._buffers.is_full and self._splitter.held_bytes > self._buffers.share:
            await self._writer.add(self._splitter.cut())
            await self._writer.drain()
