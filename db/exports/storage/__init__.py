"""Where the files of exports are: a folder of this machine, or a bucket that many machines share. EXPORT_DIR says which."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from functools import cache
from pathlib import Path
from typing import Protocol

from obstore.exceptions import BaseError

from db.settings import Settings
from db.exports.storage.bucket import Bucket
from db.exports.storage.folder import Folder

# What a storage raises when it is away, full, or refuses us; a FileNotFoundError, for a file that is not there, is one of them.
ERRORS: tuple[type[Exception], ...] = (OSError, BaseError)

# the longest that one call may take, with all that is tried again meanwhile
SECONDS_MAX = 90


class File(Protocol):
    """A file being written, which nobody can read before it is published."""

    async def write(self, data: bytes) -> None: ...

    async def publish(self) -> None:
        """Makes the file appear, whole, for good. Nothing can be written after that."""
        ...


class Storage(Protocol):
    """Files by their names. All of it may raise `ERRORS`."""

    def writer(self, name: str, *, media_type: str, called: str) -> AbstractAsyncContextManager[File]:
        """A new file; one that is left before it was published leaves nothing. `called`: its name on a client's disk."""
        ...

    def reader(self, name: str, part: range, *, size: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes `part` of a file. Raises `FileNotFoundError` before the first of them, also when it has not `size` bytes."""
        ...

    async def address(self, name: str, *, size: int) -> str | None:
        """Where anybody may fetch the file for a few minutes, if there is such a place. Raises `FileNotFoundError` likewise."""
        ...

    async def remove(self, names: Iterable[str]) -> None:
        """Removes these files, and what was begun under these names, as far as they are there."""
        ...

    async def unfinished(self) -> list[str]:
        """The names of the files that were begun and, as far as this storage can tell, not published."""
        ...

    async def discard(self, names: Iterable[str]) -> None:
        """Removes what was begun under these names. A file that has been published meanwhile stays."""
        ...

    async def check(self) -> None:
        """Returns when a file could be written now."""
        ...


@cache
def of(settings: Settings) -> Storage:
    """The storage that EXPORT_DIR names. Each process needs its own: connections do not outlive a fork."""
    if settings.export_dir.startswith("s3://"):
        return Bucket(settings.export_dir)
    return Folder(Path(settings.export_dir).resolve())
