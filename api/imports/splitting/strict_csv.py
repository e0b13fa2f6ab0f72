"""Finds many CSV records at once, as long as they keep the rules of quoting.

Then a line end is within quotes exactly if the number of quotes before it is odd, and no record has to be read by itself.
"""

import re
from itertools import accumulate, pairwise
from operator import xor

_NO_QUOTE_OR_NEWLINE = bytes(byte for byte in range(256) if byte not in b'"\n')


def odd_quotes(data: bytes) -> list[bytes]:
    """For each line, and for what follows the last line end: a quote if its number of quotes is odd, otherwise nothing."""
    # the pairs within each line are removed
    return data.translate(None, _NO_QUOTE_OR_NEWLINE).replace(b'""', b"").split(b"\n")


class StrictReader:
    """Reads files with this delimiter."""

    def __init__(self, delimiter: str) -> None:
        mark = re.escape(delimiter).encode()
        # a quoted cell is between delimiters and line ends; no other rule can be broken
        self._strict = re.compile(rb'[^"]*+(?:(?<![^\n%b])(?:"[^"]*+")++(?=[\n%b]|\r\n)[^"]*+)*+' % (mark, mark))

    def read(self, data: bytes, start: int) -> tuple[list[bytes], list[int]]:
        """The records from `start`, where one starts, and the line of each, counted from 0, and of what follows them.

        They end before a record that breaks the rules or is incomplete. Blank lines are records here.
        """
        strict = self._strict.match(data, start)
        text = data[start : strict.end()] if strict else b""
        if b"\n" not in text:
            return [], [0]
        ends, lines = [0], [0]
        end = 0
        is_open = accumulate(map(len, odd_quotes(text)), xor)
        for number, (line, within) in enumerate(zip(text.split(b"\n")[:-1], is_open, strict=False), start=1):
            end += len(line) + 1
            if not within:
                ends.append(end)
                lines.append(number)
        return [text[start:end] for start, end in pairwise(ends)], lines
