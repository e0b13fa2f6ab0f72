"""Storage in a bucket of S3 or a compatible service.

A file is one multipart upload, which becomes visible when it is completed. The parts of a killed process cannot be read or
listed as a file; a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) removes them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import obstore
from obstore.store import S3Store

from db import buckets

# S3 allows 10,000 parts per file, so the largest file is 160 GB; an upload holds three parts in memory
PART_BYTES = 16 * 1024 * 1024
PARTS_AT_ONCE = 2
# a download through the API holds one block in memory
BLOCK_BYTES = 4 * 1024 * 1024

# the limit of one request, and the limit of one call with its retries
REQUEST_SECONDS_MAX = 30
RETRY_SECONDS_MAX = 60
PRESIGNED_URL_SECONDS = 600

# No file has this prefix. Listing it is the cheapest request that checks endpoint, credentials and bucket.
_EMPTY_PREFIX = ".ready"


class _Abandoned(Exception):
    """Aborts the multipart upload."""


class Bucket:
    """`url` is s3://bucket/prefix."""

    def __init__(self, url: str) -> None:
        self.store = buckets.store(url, request_seconds_max=REQUEST_SECONDS_MAX, retry_seconds_max=RETRY_SECONDS_MAX)

    @asynccontextmanager
    async def writer(self, name: str, *, media_type: str, download_name: str) -> AsyncIterator["_Upload"]:
        # sent with the upload, for clients that download from the bucket directly
        upload = _Upload(
            self.store,
            name,
            {"Content-Type": media_type, "Content-Disposition": f'attachment; filename="{download_name}"'},
        )
        try:
            yield upload
        finally:
            await upload.close()

    @asynccontextmanager
    async def reader(self, name: str, part: range, *, size: int) -> AsyncIterator[AsyncIterator[bytes]]:
        await self._check_size(name, size)
        yield self._blocks(name, part)

    async def presigned_url(self, name: str, *, size: int) -> str | None:
        await self._check_size(name, size)
        return await obstore.sign_async(self.store, "GET", name, timedelta(seconds=PRESIGNED_URL_SECONDS))

    async def remove(self, names: Iterable[str]) -> None:
        if names := list(names):
            await obstore.delete_async(self.store, names)

    async def unfinished(self) -> list[str]:
        return []

    async def discard(self, names: Iterable[str]) -> None:
        del names

    async def check(self) -> None:
        async for _ in self.store.list(_EMPTY_PREFIX):
            return

    async def _check_size(self, name: str, size: int) -> None:
        if (await obstore.head_async(self.store, name))["size"] != size:
            raise FileNotFoundError(name)

    async def _blocks(self, name: str, part: range) -> AsyncIterator[bytes]:
        # One request per block: a single request for the whole range would time out with a slow client.
        for start in range(part.start, part.stop, BLOCK_BYTES):
            end = min(start + BLOCK_BYTES, part.stop)
            yield bytes(await obstore.get_range_async(self.store, name, start=start, end=end))


class _Upload:
    """Passes blocks to one multipart upload. The upload is never cancelled, which would leave its parts in the bucket."""

    def __init__(self, store: S3Store, name: str, attributes: dict[str, Any]) -> None:
        self._blocks: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._is_complete = False
        self._upload = asyncio.ensure_future(
            obstore.put_async(
                store,
                name,
                self._queued_blocks(),
                attributes=attributes,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        )

    async def write(self, data: bytes) -> None:
        await self._put(data)

    async def publish(self) -> None:
        self._is_complete = True
        await self._put(None)
        await asyncio.shield(self._upload)

    async def close(self) -> None:
        """Waits for the upload to end. Aborts it unless `publish` was called."""
        if not self._upload.done():
            self._is_complete = False
            with suppress(asyncio.QueueEmpty):
                self._blocks.get_nowait()
            self._blocks.put_nowait(None)
        await asyncio.wait({self._upload})
        if not self._upload.cancelled():
            # marks the exception as retrieved: `write` or `publish` has raised it
            self._upload.exception()

    async def _put(self, block: bytes | None) -> None:
        putting = asyncio.ensure_future(self._blocks.put(block))
        try:
            await asyncio.wait({putting, self._upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        if self._upload.done():
            self._upload.result()

    async def _queued_blocks(self) -> AsyncIterator[bytes]:
        while (block := await self._blocks.get()) is not None:
            yield block
        if not self._is_complete:
            raise _Abandoned
