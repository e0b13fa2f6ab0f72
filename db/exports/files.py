"""Names and media types of export files."""

import re
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from db.formats import COMPRESSED_MEDIA_TYPES, EXTENSIONS, FORMAT_EXTENSIONS, MEDIA_TYPES, Compression, ExportFormat

_STORED = re.compile(r"[a-z]+-([0-9a-f-]{36})-([0-9]+)\.[a-z.]+")


def media_type(format: ExportFormat, compression: Compression) -> str:
    # A compressed file has the media type of the compression and no Content-Encoding: clients must not decompress the download.
    return COMPRESSED_MEDIA_TYPES.get(compression, MEDIA_TYPES[format])


def download_name(resource: str, format: ExportFormat, snapshot_at: datetime, compression: Compression = "none") -> str:
    """The file name that a client is offered."""
    return f"{resource}-{snapshot_at:%Y%m%dT%H%M%SZ}.{_extension(format, compression)}"


def stored_name(resource: str, format: ExportFormat, compression: Compression, *, id: UUID, lease: int) -> str:
    """The file name in the storage. It contains the lease, so that two claims of one export never write the same file."""
    return f"{resource}-{id}-{lease}.{_extension(format, compression)}"


def stored_names(
    resource: str, format: ExportFormat, compression: Compression, *, id: UUID, leases: Iterable[int]
) -> list[str]:
    """The names of the files that these leases may have written."""
    return [stored_name(resource, format, compression, id=id, lease=lease) for lease in leases]


def claim_of(name: str) -> tuple[UUID, int] | None:
    """The (export id, lease) pair of a stored name; None if the service did not create the file."""
    match = _STORED.fullmatch(name)
    return None if match is None else (UUID(match[1]), int(match[2]))


def _extension(format: ExportFormat, compression: Compression) -> str:
    return FORMAT_EXTENSIONS.get(format, format) + EXTENSIONS[compression]
