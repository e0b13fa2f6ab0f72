"""What the file of an export is: its names, in the storage and with the client, and its media type."""

import re
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from db.compression import Compression
from db.imports.payload import Format

MEDIA_TYPES: dict[Format, str] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
}
# the file is what it is: a packed one is not said to be CSV that happens to be encoded, or clients would store it unpacked
PACKED_MEDIA_TYPES: dict[Compression, str] = {"gzip": "application/gzip", "zstd": "application/zstd"}
_ENDINGS: dict[Compression, str] = {"none": "", "gzip": ".gz", "zstd": ".zst"}

_STORED = re.compile(r"[a-z]+-([0-9a-f-]{36})-([0-9]+)\.[a-z.]+")


def media_type(format: Format, compression: Compression) -> str:
    return PACKED_MEDIA_TYPES.get(compression, MEDIA_TYPES[format])


def export_name(resource: str, format: Format, snapshot_at: datetime, compression: Compression = "none") -> str:
    """What an export is called on the client's disk."""
    return f"{resource}-{snapshot_at:%Y%m%dT%H%M%SZ}.{format}{_ENDINGS[compression]}"


def stored_name(resource: str, format: Format, compression: Compression, *, id: UUID, lease: int) -> str:
    """What the file is called in the storage: each claim has a name of its own."""
    return f"{resource}-{id}-{lease}.{format}{_ENDINGS[compression]}"


def stored_names(
    resource: str, format: Format, compression: Compression, *, id: UUID, leases: Iterable[int]
) -> list[str]:
    """What any of these claims may have left."""
    return [stored_name(resource, format, compression, id=id, lease=lease) for lease in leases]


def claim_of(name: str) -> tuple[UUID, int] | None:
    """The export and the lease that a stored name tells; None for what is not ours."""
    match = _STORED.fullmatch(name)
    return None if match is None else (UUID(match[1]), int(match[2]))
