"""Splits a file, block by block as it arrives, into the chunks that workers read. Pure: bytes in, chunks out.

It may import db.formats and db.imports.payload, and nothing that has a database or speaks HTTP.
"""

import hashlib

from api.imports.splitting.chunk_builder import ChunkBuilder, Unreadable
from api.imports.splitting.json_array import JsonArraySplitter
from api.imports.splitting.lines import CsvSplitter, LineSplitter
from db.formats import Format
from db.imports.payload import Chunk

__all__ = ["FileSplitter", "Unreadable", "sniff"]

_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_BOM_BYTES_MAX = 4
# blank bytes that are searched for the first byte that tells the format
_BLANK_BYTES_MAX = 64 * 1024


class FileSplitter:
    """Splits one file, and counts and digests it. After `Unreadable` it cannot be used any more.

    Without `format` the first byte that is not blank decides; `format` is set from then on. `delimiter` is one ASCII
    character and matters to CSV alone. A chunk has at most `batch_size` records and `chunk_max_bytes` bytes, more only for
    a single record. Its limits depend on the records, never on how the file is divided into blocks.

    Records are the file's own bytes. Blank lines of CSV and NDJSON are left out, though they count as lines; each record of
    these ends with a newline, also the last one of a file that does not. Of a record longer than `record_max_bytes`, not
    counting its newline, only the first `record_max_bytes + 1` bytes are kept. One chunk and one record are held at most.
    """

    def __init__(
        self,
        *,
        format: Format | None,
        batch_size: int,
        chunk_max_bytes: int,
        record_max_bytes: int,
        delimiter: str = ",",
    ) -> None:
        self.format: Format | None = format
        self.bytes = 0
        self._delimiter = delimiter
        self._record_max_bytes = record_max_bytes
        self._chunks = ChunkBuilder(batch_size=batch_size, max_bytes=chunk_max_bytes)
        self._sha256 = hashlib.sha256()
        # the first bytes, until they tell the format and hold any byte order mark
        self._head = b""
        self._records: LineSplitter | JsonArraySplitter | None = None

    @property
    def record_count(self) -> int:
        """The number of records so far."""
        return self._chunks.record_count

    @property
    def sha256(self) -> bytes:
        """The digest of the file so far."""
        return self._sha256.digest()

    @property
    def header(self) -> bytes | None:
        """The header of a CSV file as it was, with its line end; None until it was read."""
        return self._records.header if self._records else None

    @property
    def columns(self) -> list[str] | None:
        """The names in the CSV header, without the white space around them."""
        return self._records.columns if self._records else None

    def feed(self, block: bytes) -> list[Chunk]:
        """The chunks that these bytes complete. Raises `Unreadable`."""
        self.bytes += len(block)
        self._sha256.update(block)
        if self._records is None:
            self._head += block
            if not self._is_recognizable():
                return []
            self._begin().feed(self._without_bom())
        else:
            self._records.feed(block)
        return self._chunks.take()

    def finish(self) -> list[Chunk]:
        """The chunks that remain at the end of the file. Raises `Unreadable`."""
        if self._records is None:
            self._begin().feed(self._without_bom())
        if self._records is not None:
            self._records.finish()
        self._chunks.close()
        return self._chunks.take()

    def _is_recognizable(self) -> bool:
        if len(self._head) < _BOM_BYTES_MAX:
            return False
        return self.format is not None or sniff(self._head) is not None or len(self._head) >= _BLANK_BYTES_MAX

    def _begin(self) -> "LineSplitter | JsonArraySplitter":
        self.format = self.format or sniff(self._head) or "csv"
        limit = self._record_max_bytes
        if self.format == "json":
            self._chunks.separator = b",\n"
            self._records = JsonArraySplitter(self._chunks, record_max_bytes=limit)
        elif self.format == "ndjson":
            self._records = LineSplitter(self._chunks, record_max_bytes=limit)
        else:
            self._records = CsvSplitter(self._chunks, record_max_bytes=limit, delimiter=self._delimiter)
        return self._records

    def _without_bom(self) -> bytes:
        head, self._head = self._head, b""
        for bom, encoding in _OTHER_BOMS.items():
            if head.startswith(bom):
                raise Unreadable(f"not UTF-8: the file begins with the byte order mark of {encoding}", 1)
        return head.removeprefix(_BOM)


def sniff(first: bytes) -> Format | None:
    """The format of a file that begins with `first`; None while there is nothing but blanks."""
    if len(first) < len(_BOM) and _BOM.startswith(first):
        return None
    rest = first.removeprefix(_BOM).lstrip(b" \t\r\n")
    if not rest:
        return None
    if rest.startswith(b"["):
        return "json"
    return "ndjson" if rest.startswith(b"{") else "csv"
