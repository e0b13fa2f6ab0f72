"""Splits the output of `python -m api.imports.sheets`: rows of CSV, each after its number in the sheet and its size."""

from api.imports.splitting.chunk_builder import ChunkBuilder, Unreadable
from api.imports.splitting.lines import read_header


class SheetRowSplitter:
    """The first row is the header; each further row is a record, whose line is its number in the sheet."""

    header: bytes | None = None
    columns: list[str] | None = None

    def __init__(self, chunks: ChunkBuilder, *, record_max_bytes: int, delimiter: str) -> None:
        self._chunks = chunks
        self._max = record_max_bytes
        self._delimiter = delimiter
        self._pending = b""

    @property
    def open_bytes(self) -> int:
        """The bytes of the row that is being read."""
        return len(self._pending)

    def feed(self, block: bytes) -> None:
        data = self._pending + block
        position = 0
        while (end := data.find(b"\n", position)) >= 0:
            number, size = map(int, data[position:end].split())
            stop = end + 1 + size
            if stop > len(data):
                break
            self._add(data[end + 1 : stop], number)
            position = stop
        self._pending = data[position:]

    def finish(self) -> None:
        if self._pending:
            raise ValueError("the output ends within a row")

    def _add(self, row: bytes, number: int) -> None:
        if self.header is not None:
            self._chunks.add(row, number)
            return
        if len(row) - 1 > self._max:
            raise Unreadable(f"the header is longer than {self._max} bytes", number)
        self.columns = read_header(row, self._delimiter, number, name="header")
        self.header = row
