"""The work on an export: read, write to a file, and describe it, all in the transaction that also marks the chunk done."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from datetime import datetime
from pathlib import Path
from time import perf_counter
from uuid import UUID

import msgspec

from db import export, exports, queue
from db.exports import File, Work
from db.pool import Connection
from db.queue import Claim, Counts
from db.resources import RESOURCES
from db.settings import Settings

# how long a disk may keep the worker busy before the server takes the worker for dead
DISK_SECONDS_MAX = 60
# The system is made to write after so many bytes, lest it have all to write at the end.
SYNC_BYTES = 64 * 1024 * 1024

_PART = re.compile(r"\.([0-9a-f-]{36})\.([0-9]+)\.part")


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """An export that was committed, for metrics and logs."""

    resource: str
    format: str
    records: int
    bytes: int
    request_id: str | None
    seconds: float


async def perform(conn: Connection, claim: Claim, *, settings: Settings) -> Done | None:
    """Works on the claimed export in one transaction; None when its job was stopped. Raises `queue.ClaimLost`, `OSError`.

    The file has its last name just before the commit, and nobody is given it before the job is completed. The name tells the
    lease: a worker that has lost its claim without knowing cannot touch the file of the one that took over.
    """
    start = perf_counter()
    folder = _folder(settings)
    async with conn.transaction():
        if not await queue.fence(conn, claim):
            await queue.drop(conn, claim)
            return None
        work = await exports.work(conn, claim)
        snapshot_at = await export.begin(conn, patience_seconds=DISK_SECONDS_MAX)
        _remove_earlier(folder, claim)
        with _part(folder, claim) as part:
            async with aclosing(export.blocks(conn, RESOURCES[work.resource], work.format)) as blocks:
                async for block in blocks:
                    part.write(block)
            part.sync()
            file = _described(claim, work, part, snapshot_at)
            await exports.describe(conn, claim.job_id, file)
            await queue.finish(conn, claim, Counts())
            # last of all: a commit whose end is unknown must find the file, one that fails leaves a file that nobody is given
            part.publish(file.name)
    return Done(
        resource=work.resource,
        format=work.format,
        records=file.records,
        bytes=file.bytes,
        request_id=work.request_id,
        seconds=perf_counter() - start,
    )


async def sweep_parts(conn: Connection, settings: Settings) -> int:
    """Removes what dead workers had begun to write on this machine; how many files. Those of other databases are left."""
    folder = _folder(settings)
    parts = _parts(folder)
    if not parts:
        return 0
    lost = await exports.lost(conn, set(parts))
    for claim in lost:
        parts[claim].unlink(missing_ok=True)
    return len(lost)


def _folder(settings: Settings) -> Path:
    return Path(settings.export_dir).resolve()


class _Part:
    """A file being written under a name of its own. Plain writes: a worker has nothing else to do meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self.records = 0
        self.sha256 = hashlib.sha256()
        self._unsynced = 0
        self._file = path.open("wb", buffering=0)

    def write(self, block: export.Block) -> None:
        data = memoryview(block.data)
        while data:
            # an unbuffered file may take less than it is given
            data = data[self._file.write(data) :]
        self.sha256.update(block.data)
        self.bytes += len(block.data)
        self.records += block.records
        self._unsynced += len(block.data)
        if self._unsynced >= SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def publish(self, name: str) -> None:
        """Gives the file its last name, for good: also after the machine has lost its power."""
        self.path.rename(self.path.with_name(name))
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        self._file.close()


@contextmanager
def _part(folder: Path, claim: Claim) -> Iterator[_Part]:
    """A part of this claim; whatever ends the work before the file is published takes it away."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{claim.job_id}.{claim.lease}.part"
    part = _Part(path)
    try:
        yield part
    finally:
        part.close()
        path.unlink(missing_ok=True)


def _described(claim: Claim, work: Work, part: _Part, snapshot_at: datetime) -> File:
    return File(
        name=f"{work.resource}-{claim.job_id}-{claim.lease}.{work.format}",
        bytes=part.bytes,
        records=part.records,
        sha256=part.sha256.digest(),
        snapshot_at=snapshot_at,
    )


def _remove_earlier(folder: Path, claim: Claim) -> None:
    """Removes what earlier claims of this export left: none of them was committed, or there would be no claim now."""
    for path in [*folder.glob(f".{claim.job_id}.*.part"), *folder.glob(f"*-{claim.job_id}-*")]:
        path.unlink(missing_ok=True)


def _parts(folder: Path) -> dict[tuple[UUID, int], Path]:
    """The parts in the folder, by the claim that wrote them."""
    found: dict[tuple[UUID, int], Path] = {}
    for path in folder.glob(".*.part"):
        if match := _PART.fullmatch(path.name):
            found[UUID(match[1]), int(match[2])] = path
    return found
