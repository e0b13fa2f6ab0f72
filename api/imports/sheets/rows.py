"""The rows of a sheet, one at a time (ECMA-376, part 1, 18.3.1)."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from api.imports.sheets import cells
from api.imports.sheets.cells import Value
from api.imports.sheets.errors import Refused
from api.imports.sheets.workbook import Sheet, Workbook
from api.imports.sheets.xml import Reader

ROWS_MAX = 1_048_576
COLUMNS_MAX = 16_384

_REFERENCE = re.compile(r"([A-Za-z]{1,3})[0-9]+")

# a row: its number, from 1, and its cells that are not empty, by their column, from 0
Row = tuple[int, dict[int, Value]]


def rows(workbook: Workbook, sheet: Sheet) -> Iterator[Row]:
    """Yields the rows that have a cell that is not empty. Raises `Refused`."""
    reader = _SheetReader(workbook.shared_texts(), workbook.date_styles(), from_1904=workbook.from_1904)
    with workbook.open(sheet.part) as file:
        for _ in reader.xml.read(file):
            yield from reader.take()


class _SheetReader:
    """Collects rows while `xml` reads the part of a sheet."""

    def __init__(self, texts: list[str], date_styles: list[bool], *, from_1904: bool) -> None:
        self.xml = Reader(self._start, self._end, self._add_text)
        self._texts = texts
        self._dates = frozenset(str(style) for style, is_date in enumerate(date_styles) if is_date)
        self._from_1904 = from_1904
        self._rows: list[Row] = []
        self._is_inside = False
        self._number = 0
        self._cells: dict[int, Value] = {}
        # the current cell
        self._column = -1
        self._type = "n"
        self._style = ""
        self._pieces: list[str] = []
        self._has_formula = False
        self._guides = 0

    def take(self) -> list[Row]:
        """The rows that were read since the last call."""
        ready, self._rows = self._rows, []
        return ready

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "c" and self._is_inside:
            self._begin_cell(attributes)
        elif name == "v" or (name == "t" and not self._guides):
            self.xml.keep_text(self._is_inside)
        elif name == "row" and self._is_inside:
            self._begin_row(attributes.get("r"))
        elif name == "f":
            self._has_formula = True
        elif name == "rPh":
            self._guides += 1
        elif name == "sheetData":
            self._is_inside = True

    def _end(self, name: str) -> None:
        if name == "c" and self._is_inside:
            value = self._value()
            if value:
                self._cells[self._column] = value
        elif name in ("v", "t"):
            self.xml.keep_text(False)
        elif name == "row" and self._cells:
            self._rows.append((self._number, self._cells))
        elif name == "rPh":
            self._guides -= 1
        elif name == "sheetData":
            self._is_inside = False
            self.xml.is_done = True

    def _add_text(self, text: str) -> None:
        self._pieces.append(text)

    def _begin_row(self, reference: str | None) -> None:
        number = self._number + 1
        if reference is not None:
            number = int(reference) if reference.isdecimal() and len(reference) < 10 else 0
        if not self._number < number <= ROWS_MAX:
            raise Refused(f"the row after row {self._number} of the sheet has the number {(reference or '')[:20]!r}")
        self._number = number
        self._cells = {}
        self._column = -1

    def _begin_cell(self, attributes: Mapping[str, str]) -> None:
        reference = attributes.get("r")
        self._column = self._column + 1 if reference is None else _column(reference)
        if not 0 <= self._column < COLUMNS_MAX:
            raise Refused(f"row {self._number} of the sheet has a cell {(reference or '')[:20]!r}")
        self._type = attributes.get("t", "n")
        self._style = attributes.get("s", "0")
        self._pieces.clear()
        self._has_formula = False

    def _value(self) -> Value:
        text = "".join(self._pieces)
        match self._type:
            case "str" | "inlineStr":
                return cells.unescaped(text)
            case _ if not text:
                return cells.NOT_CALCULATED if self._has_formula else ""
            case "s":
                return self._shared(text)
            case "b":
                return cells.boolean(text)
            case "e":
                return cells.error(text)
            case "d":
                return cells.iso_date(text)
            case _ if self._style in self._dates:
                return cells.serial_date(text, from_1904=self._from_1904)
            case _:
                return cells.number(text)

    def _shared(self, text: str) -> str:
        text = text.strip()
        index = int(text) if text.isdecimal() and len(text) < 10 else len(self._texts)
        if index >= len(self._texts):
            raise Refused(f"row {self._number} of the sheet refers to a text that is missing")
        return self._texts[index]


@lru_cache(maxsize=COLUMNS_MAX)
def _letters(letters: str) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _column(reference: str) -> int:
    match = _REFERENCE.fullmatch(reference)
    return _letters(match[1]) if match else -1
