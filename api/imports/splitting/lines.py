"""Splits CSV and NDJSON, whose records end at line ends.

A CSV record has more than one line if a quoted field contains newlines. Since every quote of a well-formed record opens or
closes a field (an escaped one does both), a line end is within quotes exactly if an odd number of quotes precedes it in its
record. A line with an even number of quotes is therefore always one record, valid or not, and only a line with an odd number
is parsed. Such a record continues to the next line with an odd number. So no byte is read more than a few times, however many
stray quotes there are. As long as no record breaks the rules of quoting, all are found at once (`strict_csv`).
"""

import csv
import re

from api.imports.splitting.chunk_builder import ChunkBuilder, Span, Unreadable
from api.imports.splitting.strict_csv import StrictReader, unpaired
from db.formats import csv_cell

COLUMNS_MAX = 1000

# bytes whose records are found at once: some times those of a block, so that memory does not depend on `RECORD_MAX_BYTES`
RUN_BYTES_MAX = 256 * 1024

# the beginning of a block, of whole lines, in which a record of several lines is looked for before the whole block is read
HEAD_BYTES = 2048

_BLANK = re.compile(rb"[ \t\r]*+\n")
_BLANK_LATER = re.compile(rb"\n[ \t\r]*+\n")

# from outside of quotes to the end of the record: at its line end (group 1), within quotes (group 2), or neither
_REST = re.compile(rb'[^"\n]*+(?:"[^"]*+"[^"\n]*+)*+(?:(\n)|(")[^"]*+)?')

# lines that are each one record
_SINGLE_NDJSON = rb"(?:(?![ \t\r]*+\n)[^\n]*+\n)++"
_SINGLE_CSV = rb'(?:(?![ \t\r]*+\n)[^"\n]*+(?:"[^"\n]*+"[^"\n]*+)*+\n)++'


class LineSplitter:
    """NDJSON: each line that is not blank is a record."""

    header: bytes | None = None
    columns: list[str] | None = None

    def __init__(self, chunks: ChunkBuilder, *, record_max_bytes: int) -> None:
        self._chunks = chunks
        self._max = record_max_bytes
        self._line = 1
        # the beginning of the next record, and whether it belongs to a line that was too long
        self._pending = bytearray()
        self._skipping = False
        self._singles = re.compile(_SINGLE_NDJSON)
        # a longer one is a record that is too large
        self._blanks = re.compile(rb"(?:[ \t\r]{0,%d}+\n)++" % record_max_bytes)

    @property
    def open_bytes(self) -> int:
        """The bytes of the record that is being read."""
        return len(self._pending)

    def feed(self, block: bytes) -> None:
        if self._skipping:
            block = self._skip(block)
        if self._is_undecided(block):
            self._pending += block
        else:
            self._split(bytes(self._pending) + block, last=False)
        if len(self._pending) > self._max and not self._skipping:
            self._add_too_long(self._pending)
            self._pending.clear()
            self._skipping = True

    def finish(self) -> None:
        # a last line without a line end gets one, so that every record has one
        if self._pending:
            self._split(bytes(self._pending) + b"\n", last=True)

    def _split(self, data: bytes, *, last: bool) -> None:
        """Adds the records of `data`, which starts with a record. Keeps the incomplete last one as pending."""
        position, end = 0, data.rfind(b"\n") + 1
        if self._all_single(data[:end]):
            self._add_singles(data[:end])
            position = end
        while position < end:
            stop = self._next(data, position, last=last)
            if stop == position:
                break
            position = stop
        self._pending = bytearray(data[position:])

    def _next(self, data: bytes, position: int, *, last: bool) -> int:
        """Adds the record or the run of records at `position`, or skips blank lines there.

        Returns where it ends; `position` if more bytes are needed to find the end.
        """
        if blanks := self._blanks.match(data, position):
            self._line += data.count(b"\n", position, blanks.end())
            return blanks.end()
        if (stop := self._add_run(data, position)) > position:
            return stop
        stop = self._record_end(data, position, last=last)
        if stop > position:
            self._add(data[position:stop])
        return stop

    def _add_run(self, data: bytes, position: int) -> int:
        """Adds the single lines at `position`. Returns where they end."""
        singles = self._singles.match(data, position)
        if not singles:
            return position
        self._add_singles(data[position : singles.end()])
        return singles.end()

    def _add_singles(self, data: bytes) -> None:
        if len(data) > self._max and max(map(len, data.split(b"\n"))) > self._max:
            for line in data.split(b"\n")[:-1]:
                self._add(line + b"\n")
        else:
            self._line += self._chunks.add_lines(data, self._line)

    def _add(self, record: bytes) -> None:
        if len(record) - 1 > self._max:
            self._add_too_long(record)
        else:
            self._chunks.add(record, self._line)
        self._line += record.count(b"\n")

    def _add_too_long(self, line: bytes | bytearray) -> None:
        """Keeps one byte more than is allowed, by which the worker's parser detects that the record is too large."""
        kept = bytes(line[: self._max + 1])
        if kept.endswith(b"\r"):
            # it would be taken for a part of the line end, and the rest for a complete record
            kept = kept[:-1] + b" "
        self._chunks.add(kept + b"\n", self._line)

    def _skip(self, block: bytes) -> bytes:
        """The bytes after the line that was too long; none while that line continues."""
        _, newline, rest = block.partition(b"\n")
        if newline:
            self._skipping = False
            self._line += 1
        return rest

    def _is_undecided(self, block: bytes) -> bool:
        """Whether the pending record is still incomplete with `block`."""
        return b"\n" not in block

    def _all_single(self, data: bytes) -> bool:
        """Whether each line of `data` is one record, which is the usual case."""
        return not _BLANK.match(data) and not _BLANK_LATER.search(data)

    def _record_end(self, data: bytes, position: int, *, last: bool) -> int:  # noqa: ARG002 - CSV needs it
        return data.find(b"\n", position) + 1


class CsvSplitter(LineSplitter):
    """CSV: the first line that is not blank is the header; a record may have many lines.

    If a record breaks the rules of quoting, or its quote is not closed within `record_max_bytes`, the record is only its
    first line: one stray quote costs one record and not the rest of the file.
    """

    def __init__(self, chunks: ChunkBuilder, *, record_max_bytes: int, delimiter: str) -> None:
        super().__init__(chunks, record_max_bytes=record_max_bytes)
        self._delimiter = delimiter
        cell = csv_cell(delimiter)
        self._reader = StrictReader(delimiter)
        self._strict = re.compile(rf"{cell}(?:{re.escape(delimiter)}{cell})*+\r?\n".encode())
        self._singles = re.compile(_SINGLE_CSV)
        # no record of a run is too large
        self._run_max = min(record_max_bytes + 1, RUN_BYTES_MAX)
        # whether the pending record continues after a line end, and whether it ended within quotes
        self._open = False
        self._quoted = False

    def _add(self, record: bytes) -> None:
        if self.header is not None or len(record) - 1 > self._max:
            super()._add(record)
            return
        if not self._strict.fullmatch(record):
            raise Unreadable(
                "the CSV header has a quote that is not closed, or is in the middle of an unquoted cell", self._line
            )
        self.columns = read_header(record, self._delimiter, self._line)
        self.header = record
        self._line += record.count(b"\n")

    def _add_too_long(self, line: bytes | bytearray) -> None:
        if self.header is None:
            raise Unreadable(f"the CSV header is longer than {self._max} bytes", self._line)
        super()._add_too_long(line)

    def _next(self, data: bytes, position: int, *, last: bool) -> int:
        if self.header is None and not self._blanks.match(data, position):
            stop = self._record_end(data, position, last=last)
            if stop > position:
                self._add(data[position:stop])
            return stop
        return super()._next(data, position, last=last)

    def _add_run(self, data: bytes, position: int) -> int:
        """Adds the records at `position` that keep the rules of quoting, else the single lines there. Returns where they end."""
        span, line_count = self._reader.read(data, position, position + self._run_max)
        if not span.data:
            return super()._add_run(data, position)
        if _BLANK_LATER.search(span.data):
            self._add_without_blanks(span)
        elif len(span.starts) == line_count:
            self._chunks.add_lines(span.data, self._line)
        else:
            self._chunks.add_span(span, self._line)
        self._line += line_count
        return position + len(span.data)

    def _add_without_blanks(self, span: Span) -> None:
        kept = [(record, line) for record, line in span.records(0) if not _BLANK.fullmatch(record)]
        records, lines = zip(*kept, strict=True)
        self._chunks.add_records(records, lines, self._line)

    def _all_single(self, data: bytes) -> bool:
        if self.header is None:
            return False
        if b'"' in data:
            head = data[: data.find(b"\n", HEAD_BYTES) + 1]
            if b'"' in unpaired(head) or b'"' in unpaired(data):
                return False
        return super()._all_single(data)

    def _record_end(self, data: bytes, position: int, *, last: bool) -> int:
        self._open = False
        line_end = data.find(b"\n", position) + 1
        if data.count(b'"', position, line_end) % 2 == 0:
            return line_end
        rest = _REST.match(data, position, position + self._max + 1)
        if rest and rest[1]:
            return rest.end() if self._strict.fullmatch(data, position, rest.end()) else line_end
        if not rest or last or len(data) - position > self._max:
            return line_end
        self._open, self._quoted = True, bool(rest[2])
        return position

    def _is_undecided(self, block: bytes) -> bool:
        if not self._open:
            return super()._is_undecided(block)
        if len(self._pending) + len(block) > self._max:
            return False
        # only the new bytes are read: a record may be received in very many blocks
        position = 0
        if self._quoted:
            position = block.find(b'"') + 1
            if not position:
                return True
        rest = _REST.match(block, position)
        self._quoted = bool(rest and rest[2])
        return not (rest and rest[1])


def read_header(record: bytes, delimiter: str, line: int, *, name: str = "CSV header") -> list[str]:
    """The names of the columns in a header of well-formed cells. Raises `Unreadable`."""
    try:
        cells = next(csv.reader([record.decode()], delimiter=delimiter, strict=True))
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8: the {name} has the byte 0x{record[error.start]:02X}", line) from None
    except csv.Error as error:
        raise Unreadable(f"the {name} cannot be read: {error}", line) from None
    columns = [cell.strip() for cell in cells]
    if len(columns) > COLUMNS_MAX:
        raise Unreadable(f"the {name} has more than {COLUMNS_MAX} columns", line)
    for number, column in enumerate(columns, start=1):
        if not column:
            raise Unreadable(f"column {number} of the {name} has no name", line)
        if column in columns[: number - 1]:
            raise Unreadable(f"the {name} has the column {column[:100]!r} twice", line)
    return columns
