"""Groups records into chunks."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from db.imports.payload import Chunk


class Unreadable(Exception):
    """The file cannot be split into records. `line` is where this was detected, counted from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message, line)
        self.message = message
        self.line = line

    def __str__(self) -> str:
        return f"{self.message} (line {self.line})"


# a chunk stores the lines of its records as int4, relative to its first; any number of blank lines may be between two records
LINES_MAX = 2**31 - 1


class Span(NamedTuple):
    """Records that follow each other, with the separator between them: the offset of each, and its line, counted from 0."""

    data: bytes
    starts: Sequence[int]
    lines: Sequence[int]

    def records(self, gap: int) -> Iterator[tuple[bytes, int]]:
        """Each record and its line. `gap` is the size of the separator."""
        ends = [*self.starts[1:], len(self.data) + gap]
        for start, end, line in zip(self.starts, ends, self.lines, strict=True):
            yield self.data[start : end - gap], line


class _Run(NamedTuple):
    """A part of a chunk: `lines` count from the physical line `line`; without `starts` each record is one line of `data`."""

    line: int
    lines: Sequence[int]
    starts: Sequence[int] | None
    data: bytes


class ChunkBuilder:
    """Builds chunks of at most `batch_size` records and `max_bytes` bytes; a larger record gets its own chunk.

    `separator` is put between two records of a chunk. Where a chunk ends depends on the records, not on how many are added at
    a time.
    """

    def __init__(self, *, batch_size: int, max_bytes: int, separator: bytes = b"") -> None:
        self.record_count = 0
        self.separator = separator
        self._batch_size = batch_size
        self._max_bytes = max_bytes
        self._ready: list[Chunk] = []
        # the open chunk
        self._runs: list[_Run] = []
        self._count = 0
        self._size = 0
        # whether each of its records is one line, and these lines are consecutive
        self._is_plain = True

    @property
    def open_bytes(self) -> int:
        """The bytes of the open chunk."""
        return self._size

    def add(self, record: bytes, line: int) -> None:
        """Adds one record, which starts at the physical line `line`."""
        size = len(record) + (len(self.separator) if self._count else 0)
        if self._count and (self._size + size > self._max_bytes or self._is_far(line)):
            self.close()
            size = len(record)
        is_plain = not self.separator and record.count(b"\n") == 1
        self._append(_Run(line, (0,), (0,), record), size, is_plain=is_plain)

    def add_records(self, records: Sequence[bytes], lines: Sequence[int], line: int) -> None:
        """Adds many records, which start at these lines, counted from the physical line `line`."""
        gap = len(self.separator)
        starts = [*accumulate([len(record) + gap for record in records[:-1]], initial=0)]
        self.add_span(Span(self.separator.join(records), starts, lines), line)

    def add_span(self, span: Span, line: int) -> None:
        """Adds many records, whose lines count from the physical line `line`."""
        gap = len(self.separator)
        ends = [*span.starts[1:], len(span.data) + gap]
        position = 0
        while position < len(ends):
            stop = min(position + self._batch_size - self._count, len(ends))
            starts, lines = span.starts[position:stop], span.lines[position:stop]
            end = ends[stop - 1] - gap
            data = span.data[starts[0] : end]
            size = len(data) + (gap if self._count else 0)
            if self._size + size > self._max_bytes or (self._count and self._is_far(line + lines[-1])):
                for record, at in Span(span.data[:end], starts, lines).records(gap):
                    self.add(record, line + at)
            else:
                count = len(lines)
                is_plain = not gap and lines[-1] - lines[0] + 1 == count == data.count(b"\n")
                self._append(_Run(line, lines, starts, data), size, is_plain=is_plain)
            position = stop

    def add_lines(self, data: bytes, line: int) -> int:
        """Adds many records, each of them one line of `data`, the first at the physical line `line`.

        Returns their number.
        """
        if self._count and self._is_far(line):
            self.close()
        total = remaining = data.count(b"\n")
        while remaining:
            fits, count = self._fitting(data, remaining)
            if not count:
                self.close()
                continue
            self._append(_Run(line, range(count), None, data[:fits]), fits, is_plain=True)
            data = data[fits:]
            line += count
            remaining -= count
        return total

    def close(self) -> None:
        """Ends the open chunk, if there is one."""
        if not self._count:
            return
        data = self.separator.join([run.data for run in self._runs])
        starts, lines = (None, None) if self._is_plain else self._index()
        self._ready.append(
            Chunk(self.record_count - self._count + 1, self._first_line, self._count, data, starts, lines)
        )
        self._runs, self._count, self._size, self._is_plain = [], 0, 0, True

    def take(self) -> list[Chunk]:
        """The chunks that were closed since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def _append(self, run: _Run, size: int, *, is_plain: bool) -> None:
        if not is_plain or (self._count and run.line + run.lines[0] != self._first_line + self._count):
            self._is_plain = False
        self._runs.append(run)
        self._count += len(run.lines)
        self._size += size
        self.record_count += len(run.lines)
        if self._count == self._batch_size:
            self.close()

    @property
    def _first_line(self) -> int:
        """The line of the open chunk's first record."""
        return self._runs[0].line + self._runs[0].lines[0]

    def _is_far(self, line: int) -> bool:
        """Whether this line, or one of the lines after it, may be too far from the first line of the open chunk."""
        return line - self._first_line > LINES_MAX - self._batch_size

    def _fitting(self, data: bytes, lines: int) -> tuple[int, int]:
        """How much of `data`, which has `lines` lines, fits into the open chunk: bytes and lines."""
        fits, count = len(data), lines
        vacant = self._batch_size - self._count
        if lines > vacant:
            fits, count = len(data) - len(data.split(b"\n", vacant)[-1]), vacant
        room = self._max_bytes - self._size
        if fits > room:
            fits = data.rfind(b"\n", 0, max(room, 0)) + 1
            if not fits and not self._count:
                fits = data.find(b"\n") + 1
            count = data.count(b"\n", 0, fits)
        return fits, count

    def _index(self) -> tuple[list[int], list[int]]:
        """Each record's offset in the data, and its line counted from the chunk's first."""
        starts: list[int] = []
        lines: list[int] = []
        offset = 0
        for run in self._runs:
            run_starts = run.starts or [0, *accumulate(len(record) + 1 for record in run.data.split(b"\n")[:-2])]
            moved, moved_lines = offset - run_starts[0], run.line - self._first_line
            starts += [start + moved for start in run_starts]
            lines += [line + moved_lines for line in run.lines]
            offset += len(run.data) + len(self.separator)
        return starts, lines
