"""Storage in a local folder, or in a network folder that all machines mount at the same path."""

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from io import BufferedReader
from pathlib import Path

BLOCK_BYTES = 256 * 1024
# fsync after this many bytes, so that `publish` does not have to write the whole file
SYNC_BYTES = 64 * 1024 * 1024


class Folder:
    """A file is written as `.NAME.part` and renamed when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @asynccontextmanager
    async def writer(self, name: str, *, media_type: str, download_name: str) -> AsyncIterator["_Part"]:
        # a file system stores neither
        del media_type, download_name
        _make_private(self.path)
        part = _Part(self._part(name), self.path / name)
        try:
            yield part
        finally:
            part.close()
            part.path.unlink(missing_ok=True)

    @asynccontextmanager
    async def reader(self, name: str, part: range, *, size: int) -> AsyncIterator[AsyncIterator[bytes]]:
        with await asyncio.to_thread(_open, self.path / name, part.start, size) as file:
            yield _blocks(file, len(part))

    async def presigned_url(self, name: str, *, size: int) -> str | None:
        del name, size

    async def remove(self, names: Iterable[str]) -> None:
        names = list(names)
        await self.discard(names)
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    async def unfinished(self) -> list[str]:
        return [path.name[1 : -len(".part")] for path in self.path.glob(".*.part")]

    async def discard(self, names: Iterable[str]) -> None:
        for name in names:
            self._part(name).unlink(missing_ok=True)

    async def check(self) -> None:
        await asyncio.to_thread(_write_temporary_file, self.path)

    def _part(self, name: str) -> Path:
        return self.path / f".{name}.part"


class _Part:
    def __init__(self, path: Path, final_path: Path) -> None:
        self.path = path
        self.final_path = final_path
        self._unsynced = 0
        self._file = path.open("wb", buffering=0)

    async def write(self, data: bytes) -> None:
        remaining = memoryview(data)
        while remaining:
            # an unbuffered write may write less than requested
            remaining = remaining[self._file.write(remaining) :]
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            await self._sync()

    async def publish(self) -> None:
        """fsyncs file and folder, so that the complete file also survives a power failure."""
        await self._sync()
        self.path.rename(self.final_path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        self._file.close()

    async def _sync(self) -> None:
        # in a thread, so that the process notices a cancellation during a slow fsync
        await asyncio.to_thread(os.fsync, self._file.fileno())
        self._unsynced = 0


def _make_private(path: Path) -> None:
    """Creates the folder. Takes the rights of other users on a folder that existed: exports contain personal data.

    A folder of another user is left as it is, and so is one with the sticky bit, like /tmp, which is meant for several users.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid == os.geteuid() and found.st_mode & 0o077 and not found.st_mode & stat.S_ISVTX:
        path.chmod(0o700)


def _open(path: Path, start: int, size: int) -> BufferedReader:
    if path.stat().st_size != size:
        raise FileNotFoundError(path)
    file = path.open("rb")
    file.seek(start)
    return file


async def _blocks(file: BufferedReader, size: int) -> AsyncIterator[bytes]:
    while size:
        block = await asyncio.to_thread(file.read, min(size, BLOCK_BYTES))
        if not block:
            raise EOFError("the file is shorter than its recorded size")
        size -= len(block)
        yield block


def _write_temporary_file(path: Path) -> None:
    """Writes a file: permissions alone do not detect a full or read-only disk."""
    _make_private(path)
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(b"x")
