"""Finds many CSV records at once, as long as they keep the rules of quoting.

Then a line end is within quotes exactly if the number of quotes before it is odd, and no record has to be read by itself.
"""

import re
from itertools import accumulate, compress, count
from operator import add

from api.imports.splitting.chunk_builder import Span

_NO_QUOTE_OR_NEWLINE = bytes(byte for byte in range(256) if byte not in b'"\n')


def unpaired(data: bytes) -> bytes:
    """The line ends, with a quote in each line that has an odd number of them."""
    # the pairs within each line are removed
    return data.translate(None, _NO_QUOTE_OR_NEWLINE).replace(b'""', b"")


class StrictReader:
    """Reads files with this delimiter."""

    def __init__(self, delimiter: str) -> None:
        mark = re.escape(delimiter).encode()
        # a quoted cell is between delimiters and line ends; no other rule can be broken
        self._strict = re.compile(rb'[^"]*+(?:(?<![^\n%b])(?:"[^"]*+")++(?=[\n%b]|\r\n)[^"]*+)*+' % (mark, mark))

    def read(self, data: bytes, start: int, end: int) -> tuple[Span, int]:
        """The records from `start`, where one starts, and the number of their lines. Blank lines are records here.

        They end before a record that breaks the rules or has not ended at `end`.
        """
        strict = self._strict.match(data, start, end)
        text = data[start : strict.end()] if strict else b""
        is_end = _ends_of_records(text)
        lines = [*compress(count(1), is_end)]
        if not lines:
            return Span(b"", [], []), 0
        # the lines' lengths are those without their line ends
        lengths = compress(accumulate(map(len, text.split(b"\n"))), is_end)
        starts = [0, *map(add, lengths, lines)]
        size, line_count = starts.pop(), lines.pop()
        return Span(text[:size], starts, [0, *lines]), line_count


def _ends_of_records(text: bytes) -> bytes:
    """A byte for each line end: 0 if it is within quotes."""
    parts = unpaired(text).split(b'"')
    parts[1::2] = map(bytes, map(len, parts[1::2]))
    return b"".join(parts)
