"""Objects of buckets from which files are imported, and URLs by which clients upload such objects.

An object is read in parts. Each request has the ETag of the first one (If-Match), so that a replaced object is detected. If a
connection breaks in a part, obstore requests the rest of it, with the same ETag.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache

import msgspec
import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import S3Store

from db import buckets, locations

# Retries are counted for each part. It is not held in memory.
PART_BYTES = 8 * 1024 * 1024
# A part is read as fast as its chunks are stored.
PART_SECONDS_MAX = 600


class ObjectError(Exception):
    """An object cannot be read. The cause has what the service said."""


class Missing(ObjectError):
    """There is no such object or no such bucket."""


class Refused(ObjectError):
    """The credentials of the service may not read it."""


class Changed(ObjectError):
    """It was replaced or deleted while it was read."""


class Unavailable(ObjectError):
    """The bucket could not be reached, or failed, until the retries ended."""


class Object(msgspec.Struct, frozen=True, kw_only=True):
    """An object as it was found. `media_type` and `encoding` are empty if they are not set."""

    url: str
    bytes: int
    e_tag: str
    last_modified: datetime
    media_type: str
    encoding: str


async def find(url: str) -> Object:
    """The object. Raises `ObjectError`."""
    bucket, key = locations.split(url)
    with _object_errors():
        found = await obstore.get_async(_store(bucket), key, options={"head": True})
    e_tag = found.meta["e_tag"]
    if e_tag is None:
        raise Refused("the object has no ETag")
    return Object(
        url=url,
        bytes=found.meta["size"],
        e_tag=e_tag,
        last_modified=found.meta["last_modified"],
        media_type=found.attributes.get("Content-Type", ""),
        encoding=found.attributes.get("Content-Encoding", ""),
    )


async def blocks(found: Object) -> AsyncIterator[bytes]:
    """The bytes of the object. Raises `ObjectError`."""
    position = 0
    while position < found.bytes:
        end = min(position + PART_BYTES, found.bytes)
        try:
            async for block in _part(found, position, end):
                position += len(block)
                yield block
        except Unavailable:
            # if the rest of a part is refused because the object has changed, obstore raises the error of the connection
            if await _has_changed(found):
                raise Changed from None
            raise
        if position != end:
            raise Unavailable("a part is incomplete")


async def _part(found: Object, start: int, end: int) -> AsyncIterator[bytes]:
    bucket, key = locations.split(found.url)
    with _object_errors(missing=Changed):
        part = await obstore.get_async(_store(bucket), key, options={"range": (start, end), "if_match": found.e_tag})
        async for block in part.stream(min_chunk_size=1):
            yield block


async def _has_changed(found: Object) -> bool:
    try:
        return (await find(found.url)).e_tag != found.e_tag
    except Missing:
        return True
    except ObjectError:
        return False


async def upload_url(url: str, *, seconds: float) -> str:
    """A URL to which the object can be sent by PUT. Raises `ObjectError`."""
    bucket, key = locations.split(url)
    with _object_errors():
        return await obstore.sign_async(_store(bucket), "PUT", key, timedelta(seconds=seconds))


@cache
def _store(bucket: str) -> S3Store:
    return buckets.store(f"s3://{bucket}", request_seconds_max=PART_SECONDS_MAX, retry_seconds_max=PART_SECONDS_MAX)


@contextmanager
def _object_errors(missing: type[ObjectError] = Missing) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise missing from error
    except PreconditionError as error:
        raise Changed from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise Refused from error
    except (BaseError, OSError) as error:
        raise Unavailable from error
