"""The work on an export: read, pack, write to a file, and describe it, all in the transaction that also marks the chunk done."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from time import perf_counter

import msgspec
import structlog

from db import compression as packing
from db import queue
from db.compression import Compression
from db.connections import pool
from db.connections.pool import Connection
from db.errors import UNAVAILABLE
from db.exports import copy_out, files, jobs, storage
from db.exports.jobs import Work
from db.exports.storage import File, Storage
from db.queue import Claim, Counts
from db.resources import RESOURCES
from db.settings import Settings
from monitoring import throttle

log = structlog.get_logger(__name__)

# how long the storage may keep the worker busy before the server takes the worker for dead
PATIENCE_SECONDS = storage.SECONDS_MAX + 30
# how often a worker tells how far it is, and asks whether it shall go on; one that is done sooner does neither
WATCH_SECONDS = 1.0


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """An export that was committed, for metrics and logs. `bytes` is before compression."""

    resource: str
    format: str
    records: int
    bytes: int
    seconds: float


class _Stopped(Exception):
    """The job is not wanted any more."""


async def perform(conn: Connection, claim: Claim, *, settings: Settings) -> Done | None:
    """Works on the claimed export in one transaction; None when its job was stopped. Raises `queue.ClaimLost`, `storage.ERRORS`.

    The file has its last name just before the commit, and nobody is given it before the job is completed. The name tells the
    lease: a worker that has lost its claim without knowing cannot touch the file of the one that took over.
    """
    try:
        return await _write(conn, claim, settings)
    except _Stopped:
        # rolled back; this time the fence sees what the watch saw, and the chunk is dropped
        return await _write(conn, claim, settings)


async def _write(conn: Connection, claim: Claim, settings: Settings) -> Done | None:
    start = perf_counter()
    place = storage.of(settings)
    async with conn.transaction():
        # the count and the records are of one snapshot
        await jobs.isolate(conn)
        is_wanted = await queue.fence(conn, claim)
        work = await jobs.work(conn, claim)
        await _remove_left(place, claim, work)
        if not is_wanted:
            await queue.drop(conn, claim)
            return None
        snapshot_at = await copy_out.begin(conn, patience_seconds=PATIENCE_SECONDS)
        name = _stored_name(claim, work)
        resource, selection = RESOURCES[work.resource], work.selection
        tally = _Tally(await copy_out.count(conn, resource, selection))
        async with (
            _watched(claim, tally, settings),
            place.writer(
                name,
                media_type=files.media_type(work.format, work.compression),
                called=files.export_name(work.resource, work.format, snapshot_at, work.compression),
            ) as file,
        ):
            packed = _Packed(file, work.compression)
            async with aclosing(
                copy_out.blocks(conn, resource, work.format, selection, csv_safe=work.csv_safe)
            ) as blocks:
                async for block in blocks:
                    await packed.write(block.data)
                    tally.records += block.records
            await packed.end()
            described = jobs.File(
                name=name,
                bytes=packed.bytes,
                records=tally.records,
                sha256=packed.sha256.digest(),
                snapshot_at=snapshot_at,
            )
            await jobs.describe(conn, claim.job_id, described)
            await queue.finish(conn, claim, Counts())
            # last of all: a commit whose end is unknown must find the file, one that fails leaves a file that nobody is given
            await file.publish()
    return Done(
        resource=work.resource,
        format=work.format,
        records=tally.records,
        bytes=packed.bytes_before,
        seconds=perf_counter() - start,
    )


class _Tally:
    """How far the work is: shared with the watch, which tells it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.records = 0


class _Packed:
    """A file that is packed as it is written, and what there is to know of its bytes."""

    def __init__(self, file: File, compression: Compression) -> None:
        self.file = file
        self.packer = packing.packer(compression)
        self.bytes_before = 0
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    async def write(self, data: bytes) -> None:
        self.bytes_before += len(data)
        await self._store(self.packer.pack(data))

    async def end(self) -> None:
        await self._store(self.packer.end())

    async def _store(self, data: bytes) -> None:
        if data:
            self.sha256.update(data)
            self.bytes += len(data)
            await self.file.write(data)


@asynccontextmanager
async def _watched(claim: Claim, tally: _Tally, settings: Settings) -> AsyncIterator[None]:
    """Tells how far the work inside is. Ends it, by `_Stopped`, when its job is cancelled."""
    limit = asyncio.timeout(None)
    try:
        async with limit:
            watching = asyncio.create_task(_watch(claim, tally, settings, limit))
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.wait({watching})
    except TimeoutError:
        if limit.expired():
            raise _Stopped from None
        raise


async def _watch(claim: Claim, tally: _Tally, settings: Settings, limit: asyncio.Timeout) -> None:
    """On a connection of its own: nobody sees into the transaction of the work, and the work's connection is busy."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            # short-lived: a connection that rests is one that somebody else lacks
            async with await pool.connect(settings, name="bulk export watch") as conn:
                is_stopped = await jobs.tell(conn, claim, total_records=tally.total, records=tally.records)
        except UNAVAILABLE as error:
            # the work goes on as long as it has a connection itself
            throttle.warning(log, "export_not_watched", job_id=str(claim.job_id), error=type(error).__name__)
        else:
            if is_stopped:
                # ends the work, wherever it waits
                limit.reschedule(asyncio.get_running_loop().time())
                return


def _stored_name(claim: Claim, work: Work) -> str:
    return files.stored_name(work.resource, work.format, work.compression, id=claim.job_id, lease=claim.lease)


async def _remove_left(place: Storage, claim: Claim, work: Work) -> None:
    """Removes what this claim and those before it left: none of them was committed, or there would be no claim now."""
    leases = range(1, claim.lease + 1)
    await place.remove(files.stored_names(work.resource, work.format, work.compression, id=claim.job_id, leases=leases))
