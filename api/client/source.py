"""The source of an import: a file, a stream or records, as a file on disk that can be sent more than once."""

import hashlib
import json
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, TypeGuard, cast
from uuid import uuid4

BLOCK_BYTES = 256 * 1024
# a source that is not a file on disk is kept in memory up to this size, then in a temporary file
SPOOL_BYTES = 1 << 20

Format = Literal["csv", "ndjson", "json", "xlsx", "parquet", "arrow"]
ImportFormat = Literal["csv", "ndjson", "json", "xlsx"]
Records: TypeAlias = Iterable[Mapping[str, Any]]

ENDINGS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".xlsx": "xlsx",
    ".parquet": "parquet",
    ".arrows": "arrow",
}
PACKED = {".gz", ".zst"}


@dataclass(frozen=True)
class Source:
    """A file that is ready to be sent: `file` at any position, its `size` in bytes and its `sha256`."""

    file: BinaryIO
    name: str | None
    size: int
    sha256: str


def is_object(data: object) -> TypeGuard[str]:
    """Whether this is the address of an object that the service reads from a bucket itself."""
    return isinstance(data, str) and data.startswith("s3://")


@contextmanager
def opened(source: "str | Path | BinaryIO | Records", *, name: str | None = None) -> Iterator[Source]:
    """Opens a path, a binary stream, or records, which are written as NDJSON.

    A stream that cannot be read twice is copied to a temporary file first, because a repeated request sends it again.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        with path.open("rb") as file:
            yield _measured(file, name or path.name)
        return
    if hasattr(source, "read"):
        stream = cast("BinaryIO", source)
        if _is_seekable(stream):
            yield _measured(stream, name)
            return
        blocks: Iterable[bytes] = iter(lambda: stream.read(BLOCK_BYTES), b"")
    else:
        blocks = (json.dumps(dict(record), ensure_ascii=False).encode() + b"\n" for record in cast("Records", source))
        name = name or "records.ndjson"
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as copy:
        for block in blocks:
            copy.write(block)
        yield _measured(cast("BinaryIO", copy), name)


def format_of(name: str | None) -> Format | None:
    """The format by a file's extension, compressed or not."""
    if name is None:
        return None
    path = Path(name.lower())
    return cast("Format | None", ENDINGS.get(Path(path.stem).suffix if path.suffix in PACKED else path.suffix))


class Form:
    """A form (RFC 7578) with one part `file`, which is read from disk as it is sent.

    httpx creates such forms too, but without a digest of the whole form, which is sent before it.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        boundary = uuid4().hex
        name = (source.name or "file").translate({ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"})
        self._head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        digest = hashlib.sha256()
        for block in self.blocks(lambda _: None):
            digest.update(block)
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + source.size + len(self._tail)),
            "Content-Digest": f"sha-256=:{b64encode(digest.digest()).decode()}:",
        }

    def blocks(self, on_sent: Callable[[int], None]) -> Iterator[bytes]:
        """The body. `on_sent` is called with the number of the file's bytes that were read so far."""
        yield self._head
        self._source.file.seek(0)
        sent = 0
        while block := self._source.file.read(BLOCK_BYTES):
            yield block
            sent += len(block)
            on_sent(sent)
        yield self._tail


def copy_to(source: Source, target: Path) -> None:
    """Writes the source to a file."""
    source.file.seek(0)
    with target.open("wb") as file:
        shutil.copyfileobj(source.file, file, BLOCK_BYTES)


def _measured(file: BinaryIO, name: str | None) -> Source:
    file.seek(0)
    digest = hashlib.sha256()
    size = 0
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return Source(file, name, size, digest.hexdigest())


def _is_seekable(stream: BinaryIO) -> bool:
    try:
        return stream.seekable() and stream.tell() == 0
    except (AttributeError, OSError):
        return False
