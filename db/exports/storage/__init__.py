"""Storage of export files: a local folder or an S3 bucket, selected by EXPORT_DIR."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from functools import cache
from pathlib import Path
from typing import Protocol

from obstore.exceptions import BaseError

from db.exports.storage.bucket import Bucket
from db.exports.storage.folder import Folder
from db.settings import Settings

# Raised when the storage is unavailable, full, or refuses access; includes FileNotFoundError for a missing file.
ERRORS: tuple[type[Exception], ...] = (OSError, BaseError)

# the maximum duration of one call, retries included
SECONDS_MAX = 90


class File(Protocol):
    """A file that is being written. It cannot be read before it is published."""

    async def write(self, data: bytes) -> None: ...

    async def publish(self) -> None:
        """Makes the complete file visible and durable. Nothing can be written afterwards."""
        ...


class Storage(Protocol):
    """Files by name. Every method may raise `ERRORS`."""

    def writer(self, name: str, *, media_type: str, download_name: str) -> AbstractAsyncContextManager[File]:
        """A new file. Leaving the context before `publish` removes it. `download_name` is the name offered to clients."""
        ...

    def reader(self, name: str, part: range, *, size: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes `part` of a file. Raises `FileNotFoundError` on entry if the file is missing or its size is not `size`."""
        ...

    async def presigned_url(self, name: str, *, size: int) -> str | None:
        """A URL of the file that is valid for some minutes, if the storage has such. Raises `FileNotFoundError` as `reader`."""
        ...

    async def remove(self, names: Iterable[str]) -> None:
        """Removes these files and their unpublished parts. Missing files are ignored."""
        ...

    async def unfinished(self) -> list[str]:
        """The names of files that were begun but not published, as far as the storage can list them."""
        ...

    async def discard(self, names: Iterable[str]) -> None:
        """Removes the unpublished parts of these names. A file that was published meanwhile stays."""
        ...

    async def check(self) -> None:
        """Returns if a file can be written now, else raises."""
        ...


@cache
def of(settings: Settings) -> Storage:
    """The storage named by EXPORT_DIR. Call it after a fork: connections cannot be shared between processes."""
    if settings.export_dir.startswith("s3://"):
        return Bucket(settings.export_dir)
    return Folder(Path(settings.export_dir).resolve())
