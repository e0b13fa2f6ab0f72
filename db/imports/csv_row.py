"""The cells of a CSV row by RFC 4180, with one more distinction: an unquoted empty cell is None, `""` is the empty text. No I/O.

Python's csv module can neither tell these two apart nor be kept from taking a lone carriage return for a line end.
"""

import re
from typing import Any

from db.formats import csv_cell
from db.resources.definition import Unreadable


class RowReader:
    """Reads the rows below one header, which has `width` cells."""

    def __init__(self, delimiter: str, width: int) -> None:
        self._delimiter = delimiter
        self._width = width
        cell, end = csv_cell(delimiter), re.escape(delimiter)
        self._cell = re.compile(rf"({cell}){end}")
        self._line = re.compile(rf"(?:{cell}{end})++")

    def bare(self, raw: bytes) -> bytes:
        """A record without its line end and the blank lines that follow it."""
        # as nearly all of them are
        if raw.endswith(b"\n") and not raw.endswith((b"\r\n", b"\n\n")):
            return raw[:-1]
        end = raw.find(b"\n", len(raw.rstrip(b"\r\n")))
        return raw if end < 0 else raw[:end].removesuffix(b"\r")

    def cells(self, text: str) -> list[Any]:
        """The cells of a row without its line end. Raises `Unreadable`."""
        if '"' not in text:
            cells: list[Any] = text.split(self._delimiter)
            if "" in cells:
                cells = [cell or None for cell in cells]
        else:
            line = text + self._delimiter
            if not self._line.fullmatch(line):
                raise Unreadable("malformed_row", "a quote is not closed, or is in the middle of an unquoted cell")
            found = self._cell.findall(line)
            cells = [cell[1:-1].replace('""', '"') if cell.startswith('"') else cell or None for cell in found]
        if len(cells) != self._width:
            raise Unreadable("column_count_mismatch", f"{len(cells)} cells, but the header has {self._width}")
        return cells
