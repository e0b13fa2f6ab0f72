"""The format and the compression of a file, by its media type, its name and its Content-Encoding."""

from api.http.problems import Problem
from db.formats import (
    COMPRESSION_BY_ENCODING,
    COMPRESSION_BY_EXTENSION,
    COMPRESSION_BY_MEDIA_TYPE,
    IMPORT_FORMAT_BY_EXTENSION,
    IMPORT_FORMAT_BY_MEDIA_TYPE,
    Compression,
    ImportFormat,
)


def recognised(media_type: str, name: str | None) -> tuple[ImportFormat | None, Compression]:
    """The format, if known, and the compression of a file: by its media type, else by the last two extensions of its name."""
    extensions = name.lower().split(".")[1:][-2:] if name else []
    known = IMPORT_FORMAT_BY_EXTENSION
    formats: list[ImportFormat] = [known[each] for each in reversed(extensions) if each in known]
    last = extensions[-1] if extensions else ""
    compression = COMPRESSION_BY_MEDIA_TYPE.get(media_type) or COMPRESSION_BY_EXTENSION.get(last, "none")
    return IMPORT_FORMAT_BY_MEDIA_TYPE.get(media_type) or next(iter(formats), None), compression


def compression_of(content_encoding: str) -> Compression:
    """The compression of this Content-Encoding. Raises `Problem` 415."""
    encoding = content_encoding.strip().lower()
    if encoding not in COMPRESSION_BY_ENCODING:
        raise Problem("unsupported-format", f"Content-Encoding {encoding[:100]} is not supported. Send gzip or zstd.")
    return COMPRESSION_BY_ENCODING[encoding]
