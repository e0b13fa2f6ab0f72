"""Files in a folder of this machine, or of a network that several mount alike."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from io import BufferedReader
from pathlib import Path

BLOCK_BYTES = 256 * 1024
# The system is made to write after so many bytes, lest it have all to write at the end.
SYNC_BYTES = 64 * 1024 * 1024


class Folder:
    """A file has its last name when it is whole; until then it is a hidden part."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @asynccontextmanager
    async def writer(self, name: str, *, media_type: str, called: str) -> AsyncIterator["_Part"]:
        # a file has no place for what it is, and what it is called elsewhere
        del media_type, called
        self.path.mkdir(parents=True, exist_ok=True)
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

    async def address(self, name: str, *, size: int) -> str | None:
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
        await asyncio.to_thread(_write_something, self.path)

    def _part(self, name: str) -> Path:
        return self.path / f".{name}.part"


class _Part:
    def __init__(self, path: Path, last_path: Path) -> None:
        self.path = path
        self.last_path = last_path
        self._unsynced = 0
        self._file = path.open("wb", buffering=0)

    async def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            # an unbuffered file may take less than it is given
            left = left[self._file.write(left) :]
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            await self._sync()

    async def publish(self) -> None:
        """Also after the machine has lost its power the file is there, and whole."""
        await self._sync()
        self.path.rename(self.last_path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        self._file.close()

    async def _sync(self) -> None:
        # a slow disk must not keep the process from noticing that the work is not wanted any more
        await asyncio.to_thread(os.fsync, self._file.fileno())
        self._unsynced = 0


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
            raise EOFError("the file ends before its end")
        size -= len(block)
        yield block


def _write_something(path: Path) -> None:
    """Permissions alone do not tell whether a file can be written: a full or read-only disk has the same."""
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(b"x")
