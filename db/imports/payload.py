"""A chunk's payload: the bytes of its records and where each of them begins."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Format = Literal["csv", "ndjson", "json"]


class Chunk(NamedTuple):
    """A numbered slice of an import's file.

    `first_record` and `first_line` count from 1 in the whole file (a CSV header is line 1). Usually each record is one
    line of `data`, and `starts` and `lines` are None; where that is not so (quoted newlines, blank lines, a JSON array)
    they hold, for each record, its offset in `data` and its line counted from `first_line`.

    csv, ndjson: `data` is the file's own bytes, line ends and blank lines included. json: the array's elements as they
    were, each but the last followed by `,` and a newline.
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
        """The same of several records."""
        places = indexes if self.lines is None else map(self.lines.__getitem__, indexes)
        return [self.first_line + place for place in places]

    def slices(self) -> Iterator[bytes]:
        """The bytes of each record, in order, with what separates it from the next."""
        if self.starts is None:
            lines = self.data.split(b"\n")
            yield from (line + b"\n" for line in lines[:-1])
            if lines[-1]:
                yield lines[-1]
        else:
            ends = [*self.starts[1:], len(self.data)]
            yield from (self.data[start:end] for start, end in zip(self.starts, ends, strict=True))
