"""The addresses of objects in buckets, s3://bucket/key, and of prefixes, s3://bucket or s3://bucket/some/folder."""

import re

_BUCKET = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
# of a key: not empty, neither `.` nor `..`, without control characters
_SEGMENT = r"/(?!\.{1,2}(?:/|\Z))[^/\x00-\x1f\x7f]+"
_PREFIX = re.compile(f"{_BUCKET}(?:{_SEGMENT})*/?")
_OBJECT = re.compile(f"{_BUCKET}(?:{_SEGMENT})+")
# the limit of S3
_KEY_MAX_BYTES = 1024


def is_prefix(text: str) -> bool:
    return _PREFIX.fullmatch(text) is not None


def is_object(text: str) -> bool:
    return _OBJECT.fullmatch(text) is not None and len(split(text)[1].encode()) <= _KEY_MAX_BYTES


def split(location: str) -> tuple[str, str]:
    """The bucket, and the key or prefix without a slash at its end."""
    bucket, _, key = location.removeprefix("s3://").partition("/")
    return bucket, key.removesuffix("/")


def contains(prefix: str, location: str) -> bool:
    """Whether the location is the prefix or below it. Whole segments are compared: s3://b/in does not contain s3://b/inside."""
    prefix = prefix.removesuffix("/")
    return location == prefix or location.startswith(f"{prefix}/")
