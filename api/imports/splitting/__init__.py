"""Cuts a file, block by block as it arrives, into the chunks that the workers read. Pure: bytes in, chunks out.

A cutter holds one chunk and one record at most, and its chunks do not depend on how the file is split into blocks.
"""

from typing import Literal, TypeAlias

from api.imports.splitting.chunk_builder import Chunks, Unreadable
from api.imports.splitting.json_array import JsonArray
from api.imports.splitting.lines import Csv, Lines
from db.imports.payload import Chunk

__all__ = ["Cutter", "Format", "Unreadable", "cutter", "sniff"]

Format: TypeAlias = Literal["csv", "ndjson", "json"]

_BOM = b"\xef\xbb\xbf"
_FOREIGN_BOMS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_BOM_MAX_BYTES = 4


class Cutter:
    """Cuts one file. After `Unreadable` it is of no more use.

    Records are the file's own bytes. Blank lines of csv and ndjson are left out, though they count as lines; each
    record of these ends with a newline, also the last one of a file that does not. Of a record that is longer than
    `record_max_bytes`, not counting its `\\n`, only the first `record_max_bytes + 1` bytes are kept.
    """

    def __init__(self, chunks: Chunks, form: Lines | JsonArray) -> None:
        self._chunks = chunks
        self._form = form
        # the first bytes, until they are enough to hold any byte order mark
        self._head: bytes | None = b""

    @property
    def records(self) -> int:
        """How many records there were so far."""
        return self._chunks.records

    @property
    def header(self) -> bytes | None:
        """A CSV file's header as it was, with its line end; None until it was read."""
        return self._form.header

    @property
    def columns(self) -> list[str] | None:
        """The names in the CSV header, without the white space around them."""
        return self._form.columns

    def feed(self, block: bytes) -> list[Chunk]:
        """The chunks that are full with these bytes. Raises `Unreadable`."""
        if self._head is not None:
            self._head += block
            if len(self._head) < _BOM_MAX_BYTES:
                return []
            block, self._head = _without_bom(self._head), None
        self._form.feed(block)
        return self._chunks.take()

    def finish(self) -> list[Chunk]:
        """The chunks that are left at the end of the file. Raises `Unreadable`."""
        if self._head is not None:
            self._form.feed(_without_bom(self._head))
            self._head = None
        self._form.finish()
        self._chunks.close()
        return self._chunks.take()


def cutter(
    form: Format, *, batch_size: int, chunk_max_bytes: int, record_max_bytes: int, delimiter: str = ","
) -> Cutter:
    """A cutter into chunks of at most `batch_size` records and `chunk_max_bytes` bytes (more only for a single record).

    `delimiter` is one ASCII character and matters to csv alone.
    """
    separator = b",\n" if form == "json" else b""
    chunks = Chunks(batch_size=batch_size, max_bytes=chunk_max_bytes, separator=separator)
    if form == "json":
        return Cutter(chunks, JsonArray(chunks, record_max_bytes=record_max_bytes))
    if form == "ndjson":
        return Cutter(chunks, Lines(chunks, record_max_bytes=record_max_bytes))
    return Cutter(chunks, Csv(chunks, record_max_bytes=record_max_bytes, delimiter=delimiter))


def sniff(first: bytes) -> Format | None:
    """The format that a file beginning with `first` has; None when nothing but blanks came yet."""
    if len(first) < len(_BOM) and _BOM.startswith(first):
        return None
    rest = first.removeprefix(_BOM).lstrip(b" \t\r\n")
    if not rest:
        return None
    if rest.startswith(b"["):
        return "json"
    return "ndjson" if rest.startswith(b"{") else "csv"


def _without_bom(head: bytes) -> bytes:
    for bom, encoding in _FOREIGN_BOMS.items():
        if head.startswith(bom):
            raise Unreadable(f"not UTF-8: the file begins with the byte order mark of {encoding}", 1)
    return head.removeprefix(_BOM)
