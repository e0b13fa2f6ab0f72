"""Splits a file, block by block, into the chunks that workers parse. No I/O: bytes in, chunks out.

It may import db.formats and db.imports.payload, but nothing that uses a database or HTTP.
"""

import hashlib
from collections.abc import Callable
from typing import TypeAlias

from api.imports.splitting.annotated import AnnotatedChunkBuilder, csv_line_reader, json_line
from api.imports.splitting.chunk_builder import ChunkBuilder, Unreadable
from api.imports.splitting.json_array import JsonArraySplitter
from api.imports.splitting.lines import COLUMNS_MAX, CsvSplitter, LineSplitter
from api.imports.splitting.sheet_rows import SheetRowSplitter
from db.formats import Format, ImportFormat
from db.imports.payload import Chunk

__all__ = ["COLUMNS_MAX", "FileSplitter", "Unreadable", "sniff"]

_Records: TypeAlias = LineSplitter | JsonArraySplitter | SheetRowSplitter

_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_BOM_BYTES_MAX = 4
_ZIP = b"PK\x03\x04"
# how many leading blank bytes are skipped to find the first byte, which determines the format
_BLANK_BYTES_MAX = 64 * 1024


class FileSplitter:
    """Splits one file, counts its records and computes its digest. It cannot be used after it has raised `Unreadable`.

    Without `format`, the first byte that is not blank determines the format; `format` is set then. With `xlsx` the blocks are the
    output of `python -m api.imports.sheets`, and the format of the records is CSV. `delimiter` is one ASCII character, used for
    CSV only. A chunk has at most `batch_size` records and `chunk_max_bytes` bytes; only a single record may be larger. Where a
    chunk ends depends on the records, not on how the file is divided into blocks.

    Records are the file's own bytes. In CSV and NDJSON, blank lines are left out but counted as lines, and each record ends
    with a newline, which is added to the last one if the file has none. A record longer than `record_max_bytes`, without its
    newline, is truncated to `record_max_bytes + 1` bytes. At most one chunk and one record are held in memory: `held_bytes`.
    """

    def __init__(
        self,
        *,
        format: ImportFormat | None,
        batch_size: int,
        chunk_max_bytes: int,
        record_max_bytes: int,
        delimiter: str = ",",
        annotated: bool = False,
    ) -> None:
        self._has_sheet = format == "xlsx"
        self.format: Format | None = "csv" if format == "xlsx" else format
        self.bytes = 0
        self._delimiter = delimiter
        self._record_max_bytes = record_max_bytes
        self._annotated: AnnotatedChunkBuilder | None = None
        if annotated:
            self._annotated = AnnotatedChunkBuilder(
                batch_size=batch_size, max_bytes=chunk_max_bytes, read_line=self._annotated_line
            )
        self._chunks = self._annotated or ChunkBuilder(batch_size=batch_size, max_bytes=chunk_max_bytes)
        self._csv_line: Callable[[bytes], int | None] | None = None
        self._sha256 = hashlib.sha256()
        # the first bytes, until the format is known and a byte order mark would be complete
        self._head = b""
        self._records: _Records | None = None

    @property
    def record_count(self) -> int:
        """The number of records so far."""
        return self._chunks.record_count

    @property
    def unannotated(self) -> list[int]:
        """With `annotated`, the lines of the first records without an annotation, in the file itself."""
        return self._annotated.unannotated if self._annotated else []

    @property
    def sha256(self) -> bytes:
        """The digest of the file so far."""
        return self._sha256.digest()

    @property
    def header(self) -> bytes | None:
        """The bytes of a CSV header, with its line end; None until it was read."""
        return self._records.header if self._records else None

    @property
    def columns(self) -> list[str] | None:
        """The names in the CSV header, without surrounding white space."""
        return self._records.columns if self._records else None

    @property
    def held_bytes(self) -> int:
        """The bytes of the chunk that is being filled, and of the record that is being read."""
        return self._chunks.open_bytes + (self._records.open_bytes if self._records else len(self._head))

    def cut(self) -> list[Chunk]:
        """Ends the chunk that is being filled, which is smaller than others then, and returns it."""
        self._chunks.close()
        return self._chunks.take()

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
        return self.cut()

    def _is_recognizable(self) -> bool:
        if len(self._head) < _BOM_BYTES_MAX:
            return False
        return self.format is not None or sniff(self._head) is not None or len(self._head) >= _BLANK_BYTES_MAX

    def _begin(self) -> _Records:
        self.format = self.format or sniff(self._head) or "csv"
        limit = self._record_max_bytes
        if self.format == "json":
            self._chunks.separator = b",\n"
            self._records = JsonArraySplitter(self._chunks, record_max_bytes=limit)
        elif self._has_sheet:
            self._records = SheetRowSplitter(self._chunks, record_max_bytes=limit, delimiter=self._delimiter)
        elif self.format == "ndjson":
            self._records = LineSplitter(self._chunks, record_max_bytes=limit)
        else:
            self._records = CsvSplitter(self._chunks, record_max_bytes=limit, delimiter=self._delimiter)
        return self._records

    def _annotated_line(self, record: bytes) -> int | None:
        if self.format != "csv":
            return json_line(record)
        if self._csv_line is None:
            # there is no record before the header
            self._csv_line = csv_line_reader(self.columns or [], self._delimiter)
        return self._csv_line(record)

    def _without_bom(self) -> bytes:
        head, self._head = self._head, b""
        for bom, encoding in _OTHER_BOMS.items():
            if head.startswith(bom):
                raise Unreadable(f"not UTF-8: the file begins with the byte order mark of {encoding}", 1)
        if head.startswith(_ZIP):
            raise Unreadable("a zip archive; for an XLSX file set format=xlsx", 1)
        return head.removeprefix(_BOM)


def sniff(first: bytes) -> Format | None:
    """The format of a file that begins with `first`; None if all of it is blank."""
    if len(first) < len(_BOM) and _BOM.startswith(first):
        return None
    rest = first.removeprefix(_BOM).lstrip(b" \t\r\n")
    if not rest:
        return None
    if rest.startswith(b"["):
        return "json"
    return "ndjson" if rest.startswith(b"{") else "csv"
