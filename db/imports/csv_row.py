"""The cells of a CSV row by RFC 4180, with one more distinction: an unquoted empty cell is None, `""` is the empty text. No I/O.

Python's csv module can neither tell these two apart nor be kept from taking a lone carriage return for a line end. It reads the
rows where neither matters, several times as quickly as regular expressions.
"""

import csv
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import compress
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
        # the same rules as `_line`, for one row or for several lines, but only the quotes are looked at
        self._strict = re.compile(rf'[^"]*+(?:(?<![^\n{end}])(?:"[^"]*+")++(?![^\n{end}])[^"]*+)*+')

    def bare(self, raw: bytes) -> bytes:
        """A record without its line end and the blank lines that follow it."""
        # as nearly all of them are
        if raw.endswith(b"\n") and not raw.endswith((b"\r\n", b"\n\n")):
            return raw[:-1]
        if raw.endswith(b"\r\n") and not raw.endswith((b"\r\r\n", b"\n\r\n")):
            return raw[:-2]
        end = raw.find(b"\n", len(raw.rstrip(b"\r\n")))
        return raw if end < 0 else raw[:end].removesuffix(b"\r")

    def rows(self, texts: Sequence[str | None]) -> list[list[Any] | None]:
        """The cells of each row without its line end; None for a row that `cells` does not accept, and for None."""
        quoted = iter(self._quoted([text for text in texts if text and '"' in text]))
        rows: list[list[Any] | None] = []
        for text in texts:
            if text is None:
                rows.append(None)
            elif '"' in text:
                rows.append(next(quoted))
            elif len(row := text.split(self._delimiter)) != self._width:
                rows.append(None)
            else:
                rows.append([cell or None for cell in row] if "" in row else row)
        return rows

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

    def _quoted(self, texts: Sequence[str]) -> list[list[Any] | None]:
        """The cells of rows with quotes; None for a row that `cells` does not accept."""
        lines = "\n".join(texts)
        if "\r" not in lines and self._strict.fullmatch(lines):
            with suppress(csv.Error):
                return self._simple(texts)
        is_simple = [*map(self._is_simple, texts)]
        with suppress(csv.Error):
            simple = iter(self._simple([*compress(texts, is_simple)]))
            return [
                next(simple) if is_one else self._cells_or_none(text)
                for text, is_one in zip(texts, is_simple, strict=True)
            ]
        return [self._cells_or_none(text) for text in texts]

    def _simple(self, texts: Sequence[str]) -> list[list[Any] | None]:
        """The same for rows that the csv module reads as `cells` does, except for empty cells.

        Raises csv.Error if a cell is longer than csv.field_size_limit(), or a quote of one row is closed by another.
        """
        rows = [*csv.reader(texts, delimiter=self._delimiter, strict=True)]
        if len(rows) != len(texts):
            raise csv.Error
        return [*map(self._emptied, texts, rows)]

    def _is_simple(self, text: str) -> bool:
        """Whether the csv module reads this row as `cells` does, except for empty cells."""
        if not self._strict.fullmatch(text):
            return False
        return "\r" not in text or "\r" not in "".join(text.split('"')[::2])

    def _emptied(self, text: str, cells: list[Any]) -> list[Any] | None:
        """The cells that the csv module has read, with None for unquoted empty ones."""
        if len(cells) != self._width:
            return None
        if "" not in cells:
            return cells
        if '""' not in text:
            return [cell or None for cell in cells]
        mark = self._delimiter
        return self._cells_or_none(text) if mark * 2 in f"{mark}{text}{mark}" else cells

    def _cells_or_none(self, text: str) -> list[Any] | None:
        try:
            return self.cells(text)
        except Unreadable:
            return None
