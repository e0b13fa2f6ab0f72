"""Gathers the records that a cutter has found into chunks."""

from itertools import accumulate

from db.imports.payload import Chunk


class Unreadable(Exception):
    """The file as a whole cannot be read. `line` is where that shows, counted from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message, line)
        self.message = message
        self.line = line

    def __str__(self) -> str:
        return f"{self.message} (line {self.line})"


class Chunks:
    """Chunks of at most `batch_size` records and `max_bytes` bytes; a larger record has a chunk of its own.

    Where a chunk ends depends on the records alone, never on how many are added at once.
    """

    def __init__(self, *, batch_size: int, max_bytes: int, separator: bytes) -> None:
        self.records = 0
        self._batch_size = batch_size
        self._max_bytes = max_bytes
        self._separator = separator
        self._ready: list[Chunk] = []
        # the open chunk: runs of (line of the first record, records, bytes)
        self._runs: list[tuple[int, int, bytes]] = []
        self._count = 0
        self._size = 0
        # whether each of its records is one line, and the lines follow each other
        self._plain = True

    def add(self, record: bytes, line: int) -> None:
        """One record, which starts at the physical line `line`."""
        size = len(record) + (len(self._separator) if self._count else 0)
        if self._count and self._size + size > self._max_bytes:
            self.close()
            size = len(record)
        self._append(record, 1, size, line, plain=not self._separator and record.count(b"\n") == 1)

    def add_lines(self, data: bytes, line: int) -> int:
        """Many records, each of them one line of `data`, the first of them being the physical line `line`.

        Returns their number.
        """
        total = left = data.count(b"\n")
        while left:
            fits, count = self._fitting(data, left)
            if not count:
                self.close()
                continue
            self._append(data[:fits], count, fits, line, plain=True)
            data = data[fits:]
            line += count
            left -= count
        return total

    def close(self) -> None:
        """Ends the open chunk, if there is one."""
        if not self._count:
            return
        first_line = self._runs[0][0]
        data = self._separator.join([run for _, _, run in self._runs])
        starts, lines = (None, None) if self._plain else self._index()
        self._ready.append(Chunk(self.records - self._count + 1, first_line, self._count, data, starts, lines))
        self._runs, self._count, self._size, self._plain = [], 0, 0, True

    def take(self) -> list[Chunk]:
        """The chunks that were closed since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def _append(self, data: bytes, count: int, size: int, line: int, *, plain: bool) -> None:
        if not plain or (self._count and line != self._runs[0][0] + self._count):
            self._plain = False
        self._runs.append((line, count, data))
        self._count += count
        self._size += size
        self.records += count
        if self._count == self._batch_size:
            self.close()

    def _fitting(self, data: bytes, left: int) -> tuple[int, int]:
        """How much of `data`, which has `left` lines, the open chunk still takes: bytes and lines."""
        fits, count = len(data), left
        vacant = self._batch_size - self._count
        if left > vacant:
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
        first_line = self._runs[0][0]
        offset = 0
        for line, count, run in self._runs:
            if count == 1:
                starts.append(offset)
            else:
                lengths = (len(part) + 1 for part in run.split(b"\n")[: count - 1])
                starts.extend(accumulate(lengths, initial=offset))
            lines.extend(range(line - first_line, line - first_line + count))
            offset += len(run) + len(self._separator)
        return starts, lines
