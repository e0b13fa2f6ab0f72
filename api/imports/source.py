"""The parameter `source`: the file is an object of a bucket, which is read instead of the body of the request."""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import structlog
from multipart import parse_options_header

from api.http.problems import Problem, invalid
from api.imports.body import File
from api.imports.decompression import BLOCK_BYTES, Decompressor, too_large
from api.imports.file_type import compression_of, recognised
from db import locations
from db.formats import Compression
from db.imports import objects
from db.imports.objects import Changed, Missing, Object, ObjectError, Refused
from db.settings import Settings
from monitoring import throttle

log = structlog.get_logger(__name__)

# The ETag of an object that was uploaded in one part is the MD5 of its bytes, if it is not encrypted with a key of its own.
_MD5 = re.compile(r'"([0-9a-f]{32})"')


def check(url: str, settings: Settings) -> None:
    """Raises `Problem` 400 if this is no address of an object, 403 if the object is not below a prefix that is allowed."""
    if not locations.is_object(url):
        raise invalid("source", "is not s3://bucket/key, where the key has no empty segment and none that is . or ..")
    if not any(locations.contains(prefix, url) for prefix in settings.source_prefixes):
        raise Problem(
            "source-not-allowed", "The object is not below a prefix of IMPORT_SOURCES, or IMPORT_SOURCES is not set."
        )


def excludes_file() -> Problem:
    return invalid(
        "source", "is a member of a JSON object, and excludes a file and records in the request", "conflicting_values"
    )


class ObjectReader:
    """Reads one object. `read` after the last block: what stays with the import."""

    def __init__(self, found: Object, settings: Settings, *, sha256: str | None) -> None:
        self._found = found
        self._settings = settings
        self._expected = sha256 and sha256.lower()
        self._sha256 = hashlib.sha256()
        self._e_tag = _MD5.fullmatch(found.e_tag)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._bytes_read = 0
        media_type = parse_options_header(found.media_type)[0]
        name = found.url.rpartition("/")[2]
        format, compression = recognised(media_type, name)
        self._compression: Compression = compression_of(found.encoding) if found.encoding else compression
        self.file = File(name, format)

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """The decompressed file. Raises `Problem` 400, 409, 413, 503."""
        if self._found.bytes > self._settings.upload_max_bytes:
            raise too_large(self._settings.upload_max_bytes)
        decompressor = Decompressor(self._compression, self._settings, lambda: self._bytes_read)
        with problems(self._found.url):
            async for part in objects.blocks(self._found):
                for start in range(0, len(part), BLOCK_BYTES):
                    block = part[start : start + BLOCK_BYTES]
                    self._bytes_read += len(block)
                    if self._expected is not None:
                        self._sha256.update(block)
                    elif self._e_tag is not None:
                        self._md5.update(block)
                    for output in decompressor.feed(block):
                        yield output
                        # a small block may decompress to very many
                        await asyncio.sleep(0)
        decompressor.finish()
        if self._expected is not None and self._expected != self._sha256.hexdigest():
            raise Problem("digest-mismatch", f"The bytes of {self._found.url} do not have the digest source_sha256.")

    def read(self) -> dict[str, Any]:
        """The members of `api.imports.view.ImportSource`."""
        found = self._found
        return {
            "url": found.url,
            "bytes": found.bytes,
            "e_tag": found.e_tag,
            "last_modified": found.last_modified.isoformat(),
            "verified": self._verified(),
        }

    def _verified(self) -> Literal["sha256", "md5"] | None:
        if self._expected is not None:
            return "sha256"
        return "md5" if self._e_tag is not None and self._e_tag[1] == self._md5.hexdigest() else None


async def opened(url: str, settings: Settings, *, sha256: str | None) -> ObjectReader:
    """Raises `Problem` 400, 415, 503."""
    with problems(url):
        found = await objects.find(url)
    return ObjectReader(found, settings, sha256=sha256)


@contextmanager
def problems(url: str) -> Iterator[None]:
    """Raises the `Problem` for an `ObjectError` of the block."""
    try:
        yield
    except Missing:
        raise invalid("source", f"names no object: {url}") from None
    except Refused as error:
        _warn("bucket refuses access", error)
        raise invalid("source", f"cannot be read with the credentials of the service: {url}") from None
    except Changed:
        raise Problem(
            "source-changed", f"{url} was replaced or deleted while it was read. Repeat the request."
        ) from None
    except ObjectError as error:
        _warn("bucket unavailable", error)
        raise Problem("unavailable", f"The bucket of {url} is not available. Repeat the request.") from None


def _warn(event: str, error: ObjectError) -> None:
    # the message of the cause names the object
    throttle.warning(log, event, error=type(error.__cause__ or error).__name__)
