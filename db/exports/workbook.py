"""Writes an XLSX file while its records arrive: rows go into a zip archive whose bytes are taken at once, so memory is constant.

No file library does this: XlsxWriter keeps each sheet in a temporary file until the end. Texts are inline strings, which a
spreadsheet program never reads as formulas.
"""

import re
import zipfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from io import RawIOBase
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import msgspec

from db.compression import GZIP_LEVEL

# rows of a sheet with the header, and characters of a cell, as UTF-16; Excel opens no file with more
ROWS_MAX = 1_048_576
TEXT_MAX = 32_767
# of a sheet before compression; from 4 GiB on it would need ZIP64, which Excel offers to repair
SHEET_MAX_BYTES = 3 * 1024**3
CUT = "… (cut)"

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_DECLARATION = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'

# characters that XML does not allow, the carriage return, which it changes, and texts that look like their escapes
_TO_ESCAPE = re.compile(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")

# a sheet has no dates before 1900, and Excel's are wrong until March
_DAY_0 = datetime(1899, 12, 30, tzinfo=UTC)
_FIRST_DATE = datetime(1900, 3, 1, tzinfo=UTC)
_DAY = timedelta(days=1)

_STYLES = (
    f'{_DECLARATION}<styleSheet xmlns="{_MAIN}"><numFmts count="1">'
    '<numFmt numFmtId="164" formatCode="yyyy\\-mm\\-dd\\ hh:mm:ss"/></numFmts><fonts count="1"><font/></fonts>'
    '<fills count="2"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill></fills>'
    '<borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs><cellXfs count="2"><xf/>'
    '<xf numFmtId="164" applyNumberFormat="1"/></cellXfs>'
    '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>'
)


class _Sink(RawIOBase):
    """What zipfile writes to. Without `tell` it writes an archive that is complete without seeking."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: Any, /) -> int:
        self._data += data
        return len(data)

    def tell(self) -> int:
        raise OSError

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class WorkbookWriter:
    """Sheets `NAME`, `NAME 2`, … with a header each; a new one begins when the rows of a sheet are used up.

    `columns` are the names and PostgreSQL's types of the columns. Without records the file has one sheet with the header.
    """

    def __init__(self, name: str, columns: Sequence[tuple[str, str]], *, rows_max: int = ROWS_MAX) -> None:
        self._name = name
        self._columns = columns
        self._rows_max = rows_max
        self._letters = [_letters(number) for number in range(len(columns))]
        self._are_times = [type == "timestamptz" for _, type in columns]
        self._sink = _Sink()
        self._archive = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_DEFLATED, compresslevel=GZIP_LEVEL)
        self._sheets = 0
        self._begin_sheet()

    def add(self, records: Iterable[Sequence[Any]]) -> bytes:
        """Adds records with a JSON value for each column. Returns the bytes that are ready, perhaps none."""
        rows: list[str] = []
        for record in records:
            if self._rows == self._rows_max or self._size > SHEET_MAX_BYTES:
                self._write("".join(rows))
                rows.clear()
                self._end_sheet()
                self._begin_sheet()
            self._rows += 1
            rows.append(self._row(record))
        self._write("".join(rows))
        return self._sink.take()

    def finish(self) -> bytes:
        """The rest of the file."""
        self._end_sheet()
        names = [self._sheet_name(number) for number in range(1, self._sheets + 1)]
        numbered = [*enumerate(names, start=1)]
        sheets = "".join(
            f'<sheet name={quoteattr(name)} sheetId="{number}" r:id="rId{number}"/>' for number, name in numbered
        )
        relations = "".join(_relation(f"rId{n}", "worksheet", f"worksheets/sheet{n}.xml") for n, _ in numbered)
        types = "".join(_content_type(f"worksheets/sheet{n}", "worksheet") for n, _ in numbered)
        parts = {
            "xl/styles.xml": _STYLES,
            "xl/workbook.xml": f'{_DECLARATION}<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
            f"<sheets>{sheets}</sheets></workbook>",
            "xl/_rels/workbook.xml.rels": _relations(relations + _relation("styles", "styles", "styles.xml")),
            "_rels/.rels": _relations(_relation("workbook", "officeDocument", "xl/workbook.xml")),
            "[Content_Types].xml": f'{_DECLARATION}<Types xmlns="{_PACKAGE}/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Default Extension="xml" ContentType="application/xml"/>'
            f"{_content_type('workbook', 'sheet.main')}{_content_type('styles', 'styles')}{types}</Types>",
        }
        for name, content in parts.items():
            with self._archive.open(name, "w") as part:
                part.write(content.encode())
        self._archive.close()
        return self._sink.take()

    def close(self) -> None:
        """Ends the file, also one that is not complete: zipfile complains of an archive that is left open."""
        self._part.close()
        self._archive.close()

    def _begin_sheet(self) -> None:
        self._sheets += 1
        self._rows = 1
        self._size = 0
        self._part = self._archive.open(f"xl/worksheets/sheet{self._sheets}.xml", "w")
        header = "".join(
            _text_cell(f"{letters}1", name) for letters, (name, _) in zip(self._letters, self._columns, strict=True)
        )
        self._write(
            f'{_DECLARATION}<worksheet xmlns="{_MAIN}"><sheetViews><sheetView workbookViewId="0">'
            '<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/></sheetView></sheetViews>'
            f'<cols><col min="1" max="{len(self._columns)}" width="20" customWidth="1"/></cols>'
            f'<sheetData><row r="1">{header}</row>'
        )

    def _end_sheet(self) -> None:
        self._write("</sheetData></worksheet>")
        self._part.close()

    def _write(self, xml: str) -> None:
        data = xml.encode()
        self._size += len(data)
        self._part.write(data)

    def _sheet_name(self, number: int) -> str:
        return self._name if number == 1 else f"{self._name} {number}"

    def _row(self, record: Sequence[Any]) -> str:
        cells = [
            _cell(f"{letters}{self._rows}", value, is_time=is_time)
            for letters, value, is_time in zip(self._letters, record, self._are_times, strict=True)
            if value is not None
        ]
        return f'<row r="{self._rows}">{"".join(cells)}</row>'


def _cell(reference: str, value: Any, *, is_time: bool) -> str:
    if isinstance(value, bool):
        return f'<c r="{reference}" t="b"><v>{value:d}</v></c>'
    if is_time:
        moment = datetime.fromisoformat(value)
        if moment >= _FIRST_DATE:
            return f'<c r="{reference}" s="1"><v>{(moment - _DAY_0) / _DAY!r}</v></c>'
    if not isinstance(value, str):
        value = msgspec.json.encode(value).decode()
    return _text_cell(reference, value)


def _text_cell(reference: str, text: str) -> str:
    # half of them, because a character may be two of UTF-16
    if len(text) > TEXT_MAX // 2 and len(units := text.encode("utf-16-le")) > 2 * TEXT_MAX:
        text = units[: 2 * (TEXT_MAX - len(CUT))].decode("utf-16-le", "ignore") + CUT
    escaped = _TO_ESCAPE.sub(_escape, escape(text))
    return f'<c r="{reference}" t="inlineStr"><is><t xml:space="preserve">{escaped}</t></is></c>'


def _escape(match: re.Match[str]) -> str:
    return f"_x{ord(match[0]):04X}_"


def _letters(number: int) -> str:
    """The name of a column, from 0: A to Z, AA, …"""
    before = _letters(number // 26 - 1) if number >= 26 else ""
    return before + chr(ord("A") + number % 26)


def _relation(id: str, kind: str, target: str) -> str:
    return f'<Relationship Id="{id}" Type="{_OFFICE}/{kind}" Target="{target}"/>'


def _relations(content: str) -> str:
    return f'{_DECLARATION}<Relationships xmlns="{_PACKAGE}/relationships">{content}</Relationships>'


def _content_type(part: str, kind: str) -> str:
    return f'<Override PartName="/xl/{part}.xml" ContentType="{_TYPE}.{kind}+xml"/>'
