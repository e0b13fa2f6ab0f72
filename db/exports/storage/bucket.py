"""Files in a bucket of S3, or of anything that speaks like it.

Credentials, region and endpoint are the usual AWS_* variables, which obstore reads by itself. A file is one multipart upload,
so that it appears at once or not at all. What a killed process leaves of one can neither be read nor listed as a file; a
lifecycle rule of the bucket (AbortIncompleteMultipartUpload) clears it away.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import obstore
from obstore.store import S3Store

# a bucket takes 10,000 parts a file, so this bounds the file at 160 GB; the memory of one upload is three of them
PART_BYTES = 16 * 1024 * 1024
PARTS_AT_ONCE = 2
# a download that is streamed through holds one of these
BLOCK_BYTES = 4 * 1024 * 1024

# each request has so long; what failed for a passing reason is tried again within the second limit
REQUEST_SECONDS_MAX = 30
RETRY_SECONDS_MAX = 60
RETRIES_MAX = 4
ADDRESS_SECONDS = 600

# beneath this nothing is ever stored, so that listing it is the cheapest question that proves address, credentials and bucket
_NOTHING = ".ready"


class _Abandoned(Exception):
    """Ends an upload in such a way that the bucket forgets its parts."""


class Bucket:
    """`url` is s3://bucket/prefix."""

    def __init__(self, url: str) -> None:
        self.store = S3Store.from_url(
            url,
            # plain http is for the endpoint's address to choose, not to be forbidden a second time
            client_options={
                "timeout": timedelta(seconds=REQUEST_SECONDS_MAX),
                "connect_timeout": timedelta(seconds=5),
                "allow_http": True,
            },
            retry_config={"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=RETRY_SECONDS_MAX)},
        )

    @asynccontextmanager
    async def writer(self, name: str, *, media_type: str, called: str) -> AsyncIterator["_Upload"]:
        # told now, for whoever fetches the file from the bucket itself
        upload = _Upload(
            self.store,
            name,
            {"Content-Type": media_type, "Content-Disposition": f'attachment; filename="{called}"'},
        )
        try:
            yield upload
        finally:
            await upload.close()

    @asynccontextmanager
    async def reader(self, name: str, part: range, *, size: int) -> AsyncIterator[AsyncIterator[bytes]]:
        await self._check_size(name, size)
        yield self._blocks(name, part)

    async def address(self, name: str, *, size: int) -> str | None:
        await self._check_size(name, size)
        return await obstore.sign_async(self.store, "GET", name, timedelta(seconds=ADDRESS_SECONDS))

    async def remove(self, names: Iterable[str]) -> None:
        if names := list(names):
            await obstore.delete_async(self.store, names)

    async def unfinished(self) -> list[str]:
        return []

    async def discard(self, names: Iterable[str]) -> None:
        del names

    async def check(self) -> None:
        async for _ in self.store.list(_NOTHING):
            return

    async def _check_size(self, name: str, size: int) -> None:
        if (await obstore.head_async(self.store, name))["size"] != size:
            raise FileNotFoundError(name)

    async def _blocks(self, name: str, part: range) -> AsyncIterator[bytes]:
        # one request a block: a single one for all would have to end in time however slowly the client reads
        for start in range(part.start, part.stop, BLOCK_BYTES):
            end = min(start + BLOCK_BYTES, part.stop)
            yield bytes(await obstore.get_range_async(self.store, name, start=start, end=end))


class _Upload:
    """Hands what is written on to one upload. That is never cancelled, which would leave its parts in the bucket."""

    def __init__(self, store: S3Store, name: str, attributes: dict[str, Any]) -> None:
        self._blocks: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._is_whole = False
        self._upload = asyncio.ensure_future(
            obstore.put_async(
                store,
                name,
                self._handed_on(),
                attributes=attributes,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        )

    async def write(self, data: bytes) -> None:
        await self._hand_on(data)

    async def publish(self) -> None:
        self._is_whole = True
        await self._hand_on(None)
        await asyncio.shield(self._upload)

    async def close(self) -> None:
        """Waits for the upload's end, and makes it one without a file unless it was published."""
        if not self._upload.done():
            self._is_whole = False
            with suppress(asyncio.QueueEmpty):
                self._blocks.get_nowait()
            self._blocks.put_nowait(None)
        await asyncio.wait({self._upload})
        if not self._upload.cancelled():
            # whoever wrote or published was told already
            self._upload.exception()

    async def _hand_on(self, block: bytes | None) -> None:
        handing = asyncio.ensure_future(self._blocks.put(block))
        try:
            await asyncio.wait({handing, self._upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            handing.cancel()
        if self._upload.done():
            self._upload.result()

    async def _handed_on(self) -> AsyncIterator[bytes]:
        while (block := await self._blocks.get()) is not None:
            yield block
        if not self._is_whole:
            raise _Abandoned
