"""A chunk's payload: the bytes of its records and the offset of each record."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Chunk(NamedTuple):
    """A numbered slice of an import's file.

    `first_record` and `first_line` count from 1 in the whole file (a CSV header is line 1). If each record is one line of
    `data`, `starts` and `lines` are None. Otherwise (quoted newlines, blank lines, a JSON array) they contain, for each
    record, its offset in `data` and its line relative to `first_line`.

    csv, ndjson: `data` is the file's own bytes, line ends and blank lines included. json: the elements of the array, with
    `,` and a newline between them.
    """

    first_record: int
    first_line: int
    records: int
    data: bytes
    starts: list[int] | None = None
    lines: list[int] | None = None

    def line(self, index: int) -> int:
        """The physical line where record `index` (from 0) of this chunk starts."""
        return self.first_line + (index if self.lines is None else self.lines[index])

    def lines_of(self, indexes: Iterable[int]) -> list[int]:
        """The physical lines where these records start."""
        places = indexes if self.lines is None else map(self.lines.__getitem__, indexes)
        return [self.first_line + place for place in places]

    def slices(self, indexes: Iterable[int] | None = None) -> Iterator[bytes]:
        """The bytes of these records (from 0), or of each record in order, with the separator that follows it."""
        if self.starts is None:
            lines = self.data.split(b"\n")
            last = len(lines) - 1
            if indexes is None:
                indexes = range(len(lines) if lines[last] else last)
            yield from (lines[i] + b"\n" if i < last else lines[i] for i in indexes)
        else:
            bounds = [*self.starts, len(self.data)]
            if indexes is None:
                indexes = range(len(self.starts))
            yield from (self.data[bounds[i] : bounds[i + 1]] for i in indexes)
