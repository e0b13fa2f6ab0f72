"""Chunks of one upload on their way into the database, some megabytes at a time, while the next ones arrive."""

import asyncio
from types import TracebackType
from typing import Self
from uuid import UUID

from db.connections.pool import Pool
from db.imports import uploads
from db.imports.payload import Chunk

# chunks are held back until they have so many bytes: fewer, still short transactions
FLUSH_BYTES = 4 * 1024 * 1024


class Store:
    """To be entered. When its block ends all that was added is stored; if it fails, nothing is under way any more.

    Without an `id` the chunks are only counted. Both `add` and the end raise `uploading.Gone`.
    """

    def __init__(self, pool: Pool, id: UUID | None) -> None:
        self.pool = pool
        self.id = id
        self.chunks = 0
        self._held: list[Chunk] = []
        self._held_bytes = 0
        self._under_way: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self._flush()
            await self._arrived()
        elif self._under_way is not None:
            self._under_way.cancel()
            await asyncio.gather(self._under_way, return_exceptions=True)

    async def add(self, chunks: list[Chunk]) -> None:
        self.chunks += len(chunks)
        if self.id is None:
            return
        self._held += chunks
        self._held_bytes += sum(len(chunk.data) for chunk in chunks)
        if self._held_bytes >= FLUSH_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        """Begins to store what is held, when what was begun before is done: their order is that of the file."""
        await self._arrived()
        if self._held and self.id is not None:
            self._under_way = asyncio.create_task(self._append(self.id, self._held, self.chunks - len(self._held) + 1))
        self._held = []
        self._held_bytes = 0

    async def _arrived(self) -> None:
        if self._under_way is not None:
            await self._under_way
            self._under_way = None

    async def _append(self, id: UUID, chunks: list[Chunk], first_seq: int) -> None:
        async with self.pool.connection() as conn, conn.transaction():
            await uploads.append(conn, id, chunks, first_seq=first_seq)
