"""Stores the chunks of one upload, some megabytes at a time, while the next ones arrive."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self
from uuid import UUID

from db.connections.pool import Pool
from db.errors import ConnectionLost
from db.imports import uploads
from db.imports.payload import Chunk

# bytes of chunks stored in one transaction
FLUSH_BYTES = 4 * 1024 * 1024


class ChunkWriter:
    """Used in an `async with` block, at whose end all chunks are stored; if the block fails, the pending write is cancelled.

    `add` and the end of the block raise `db.imports.uploads.Gone`.
    """

    def __init__(self, pool: Pool, id: UUID, storing: asyncio.Semaphore) -> None:
        self.chunk_count = 0
        self._pool = pool
        self._id = id
        # held by each write
        self._storing = storing
        self._collected: list[Chunk] = []
        self._collected_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._writing_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of the chunks that are not stored yet."""
        return self._collected_bytes + self._writing_bytes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.drain()
        elif self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)

    async def add(self, chunks: Sequence[Chunk]) -> None:
        self.chunk_count += len(chunks)
        self._collected += chunks
        self._collected_bytes += sum(len(chunk.data) for chunk in chunks)
        if self._collected_bytes >= FLUSH_BYTES:
            await self._flush()

    async def drain(self) -> None:
        """Stores all chunks that were added."""
        await self._flush()
        await self._wait()

    async def _flush(self) -> None:
        """Starts to store the collected chunks when the previous write has ended: chunks are stored in order."""
        await self._wait()
        if self._collected:
            first_seq = self.chunk_count - len(self._collected) + 1
            self._writing = asyncio.create_task(self._append(self._collected, first_seq))
            self._writing_bytes = self._collected_bytes
        self._collected = []
        self._collected_bytes = 0

    async def _wait(self) -> None:
        if self._writing is not None:
            await self._writing
            self._writing = None
            self._writing_bytes = 0

    async def _append(self, chunks: list[Chunk], first_seq: int) -> None:
        async with self._storing:
            try:
                await self._try_append(chunks, first_seq, is_repeat=False)
            except ConnectionLost:
                await self._try_append(chunks, first_seq, is_repeat=True)

    async def _try_append(self, chunks: list[Chunk], first_seq: int, *, is_repeat: bool) -> None:
        async with self._pool.connection() as conn, conn.transaction():
            await uploads.append(conn, self._id, chunks, first_seq=first_seq, is_repeat=is_repeat)
