"""Writes the file of a claimed export, in the transaction that also marks the chunk as done."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from time import perf_counter

import msgspec
import structlog

from db import queue
from db.compression import compressor
from db.connections import liveness, pool
from db.connections.pool import Connection
from db.errors import UNAVAILABLE
from db.exports import claimed, copy_out, files, output, parallel, storage, watermarks
from db.exports.claimed import ClaimedExport
from db.exports.storage import File, Storage
from db.formats import Compression
from db.queue import Claim, Counts
from db.resources import RESOURCES
from db.settings import Settings
from monitoring import throttle

log = structlog.get_logger(__name__)

# how long a call of the storage may keep the transaction idle before the server ends it
IDLE_SECONDS_MAX = storage.SECONDS_MAX + 30
# how often the progress is reported and a cancellation is looked for
REPORT_SECONDS = 1.0


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A committed export, for metrics and logs. `bytes` is the size before compression."""

    resource: str
    format: str
    records: int
    bytes: int
    seconds: float


class _Cancelled(Exception):
    """The job was cancelled while its file was written."""


async def perform(conn: Connection, claim: Claim, *, settings: Settings) -> Done | None:
    """Writes the file in one transaction. Returns None if the job was cancelled. Raises `queue.ClaimLost`, `storage.ERRORS`.

    The file is published just before the commit, and clients get it only when the job is completed. The file name contains the
    lease, so a worker that has lost its claim without noticing cannot overwrite the file of its successor.
    """
    try:
        return await _write(conn, claim, settings)
    except _Cancelled:
        # rolled back; the fence of the second transaction sees the cancellation, and the chunk is dropped
        return await _write(conn, claim, settings)


async def _write(conn: Connection, claim: Claim, settings: Settings) -> Done | None:
    start = perf_counter()
    store = storage.of(settings)
    async with conn.transaction():
        # one snapshot for the count and the records
        await claimed.use_repeatable_read(conn)
        is_wanted = await queue.fence(conn, claim)
        export = await claimed.load_claimed(conn, claim)
        await _remove_earlier_attempts(store, claim, export)
        if not is_wanted:
            await queue.drop(conn, claim)
            return None
        snapshot_at = await liveness.begin_long_read(conn, client_timeout_seconds=IDLE_SECONDS_MAX)
        selection = export.selection
        snapshot = await watermarks.begin(conn, selection.changed_since)
        name = files.stored_name(export.resource, export.format, export.compression, id=claim.job_id, lease=claim.lease)
        progress = _Progress(await copy_out.count(conn, RESOURCES[export.resource], selection))
        async with (
            _reported(claim, progress, settings),
            store.writer(
                name,
                media_type=files.media_type(export.format, export.compression),
                download_name=files.download_name(export.resource, export.format, snapshot_at, export.compression),
            ) as file,
        ):
            async with parallel.sessions(
                conn, selection, settings, total=progress.total, client_timeout_seconds=IDLE_SECONDS_MAX
            ) as conns:
                compressed = await _copy(conns, file, export, progress)
            description = claimed.File(
                name=name,
                bytes=compressed.bytes,
                records=progress.records,
                sha256=compressed.sha256.digest(),
                snapshot_at=snapshot_at,
                watermark=str(snapshot.watermark),
            )
            await claimed.store_file(conn, claim.job_id, description)
            await queue.finish(conn, claim, Counts())
            # Last: if the outcome of the commit is unknown, the file must exist. If the commit fails, the file is never offered.
            await file.publish()
    return Done(
        resource=export.resource,
        format=export.format,
        records=progress.records,
        bytes=compressed.bytes_in,
        seconds=perf_counter() - start,
    )


async def _copy(
    conns: Sequence[Connection], file: File, export: ClaimedExport, progress: "_Progress"
) -> "_CompressedFile":
    compressed = _CompressedFile(file, export.compression)
    blocks = output.blocks(
        conns,
        RESOURCES[export.resource],
        export.format,
        export.selection,
        csv_safe=export.csv_safe,
        bom=export.bom,
    )
    async with aclosing(blocks):
        async for block in blocks:
            await compressed.write(block.data)
            progress.records += block.records
    await compressed.flush()
    return compressed


class _Progress:
    """The progress of the work, shared with the task that reports it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.records = 0


class _CompressedFile:
    """Compresses a file while it is written. Computes its size and digest."""

    def __init__(self, file: File, compression: Compression) -> None:
        self.file = file
        self._compressor = compressor(compression)
        self.bytes_in = 0
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    async def write(self, data: bytes) -> None:
        self.bytes_in += len(data)
        await self._store(self._compressor.compress(data))

    async def flush(self) -> None:
        await self._store(self._compressor.flush())

    async def _store(self, data: bytes) -> None:
        if data:
            self.sha256.update(data)
            self.bytes += len(data)
            await self.file.write(data)


@asynccontextmanager
async def _reported(claim: Claim, progress: _Progress, settings: Settings) -> AsyncIterator[None]:
    """Reports the progress of the work inside. Raises `_Cancelled` when the job is cancelled."""
    limit = asyncio.timeout(None)
    try:
        async with limit:
            reporting = asyncio.create_task(_report(claim, progress, settings, limit))
            try:
                yield
            finally:
                reporting.cancel()
                await asyncio.wait({reporting})
    except TimeoutError:
        if limit.expired():
            raise _Cancelled from None
        raise


async def _report(claim: Claim, progress: _Progress, settings: Settings, limit: asyncio.Timeout) -> None:
    """Uses a second connection: the first is busy, and what its open transaction writes is not visible to others."""
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        try:
            # opened for each report, so that no idle connection counts against the server's limit
            async with await pool.connect(settings, name="bulk export progress") as conn:
                is_cancelled = await claimed.report_progress(
                    conn, claim, total_records=progress.total, records=progress.records
                )
        except UNAVAILABLE as error:
            # the work continues as long as its own connection does
            throttle.warning(log, "export progress not reported", job_id=str(claim.job_id), error=type(error).__name__)
        else:
            if is_cancelled:
                # interrupts the work at its current await
                limit.reschedule(asyncio.get_running_loop().time())
                return


async def _remove_earlier_attempts(store: Storage, claim: Claim, export: ClaimedExport) -> None:
    """Removes the files of this lease and the ones before. None was committed, or the chunk could not have been claimed."""
    leases = range(1, claim.lease + 1)
    names = files.stored_names(export.resource, export.format, export.compression, id=claim.job_id, leases=leases)
    await store.remove(names)
