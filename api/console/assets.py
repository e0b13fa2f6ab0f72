"""The static files of the pages, held in memory and compressed once.

Their addresses contain the edition, a digest of all of them, so browsers may keep them for good: other content has another
address.
"""

import gzip
import hashlib
from functools import cache
from pathlib import Path

import msgspec

FOLDER = Path(__file__).parent / "assets"

_MEDIA_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".txt": "text/plain",
}


class Asset(msgspec.Struct, frozen=True):
    """A file and its gzip form."""

    media_type: str
    content: bytes
    packed: bytes


@cache
def edition() -> str:
    """The first 12 hexadecimal digits of the SHA-256 of all files and their names."""
    digest = hashlib.sha256()
    for name, path in sorted(_files().items()):
        digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def get(name: str) -> Asset | None:
    """The file with this path below `assets`, or None."""
    path = _files().get(name)
    if path is None:
        return None
    content = path.read_bytes()
    if path.suffix == ".html":
        content = content.replace(b"{edition}", edition().encode())
    media_type = _MEDIA_TYPES.get(path.suffix, _MEDIA_TYPES[".txt"])
    return Asset(media_type, content, gzip.compress(content, mtime=0))


@cache
def _files() -> dict[str, Path]:
    return {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()}
