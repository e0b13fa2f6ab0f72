"""The lines that annotated records name: `_line`, the line of the record in an earlier file, replaces that in the file itself."""

import re
from collections.abc import Callable, Sequence

import msgspec

from api.imports.splitting.chunk_builder import LINES_MAX, ChunkBuilder, Span

# how many records without an annotation are remembered, by their lines in the file itself
UNANNOTATED_MAX = 50

_FIRST_MEMBER = re.compile(rb'[ \t\r\n]*+\{[ \t\r\n]*+"_line"[ \t\r\n]*+:[ \t\r\n]*+(\d{1,10})(?!\d)')


class AnnotatedChunkBuilder(ChunkBuilder):
    """Gives each record the line that `read_line` finds in it. `unannotated` has the first lines where it found none."""

    def __init__(self, *, batch_size: int, max_bytes: int, read_line: Callable[[bytes], int | None]) -> None:
        super().__init__(batch_size=batch_size, max_bytes=max_bytes)
        self._read_line = read_line
        self.unannotated: list[int] = []

    def add(self, record: bytes, line: int) -> None:
        annotated = self._read_line(record)
        if annotated is None or not 1 <= annotated <= LINES_MAX:
            annotated = line
            if len(self.unannotated) < UNANNOTATED_MAX:
                self.unannotated.append(line)
        super().add(record, annotated)

    def add_span(self, span: Span, line: int) -> None:
        for record, at in span.records(len(self.separator)):
            self.add(record, line + at)

    def add_lines(self, data: bytes, line: int) -> int:
        records = data.split(b"\n")[:-1]
        for number, record in enumerate(records, start=line):
            self.add(record + b"\n", number)
        return len(records)


def csv_line_reader(columns: Sequence[str], delimiter: str) -> Callable[[bytes], int | None]:
    """Reads the cell of the column `_line`, also in a row that cannot be split into its other cells."""
    if "_line" not in columns:
        return lambda _: None
    mark = re.escape(delimiter.encode())
    cell = rb'(?:"[^"]*+(?:""[^"]*+)*+"|[^"\n%b]*+)%b' % (mark, mark)
    place = columns.index("_line")
    pattern = re.compile(rb'(?:%b){%d}("?)(\d{1,10})\1(?=%b|\r?\n)' % (cell, place, mark))

    def read(row: bytes) -> int | None:
        found = pattern.match(row)
        return int(found[2]) if found else None

    return read


def json_line(record: bytes) -> int | None:
    """Reads the member `_line` of an object; of one that is not valid JSON if it is the first."""
    try:
        members = msgspec.json.decode(record, type=dict[str, msgspec.Raw])
        return msgspec.json.decode(members.get("_line", b""), type=int, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = _FIRST_MEMBER.match(record)
        return int(found[1]) if found else None
