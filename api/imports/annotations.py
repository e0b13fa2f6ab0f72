"""Adds `_line` and `_errors` to a record, in the record's own format: its line in the file and its errors. No I/O.

An import ignores both, so an annotated file can be corrected and posted as it is. In CSV they are the first two columns, so that
they can be read even in a row with too few cells or an unclosed quote.
"""

import re
from collections.abc import Collection, Sequence

import msgspec

from db.formats import ANNOTATIONS, csv_cell
from db.imports.records import RecordNote


class Csv:
    """Annotates the rows of one CSV file. Earlier annotations are replaced, whichever columns they are in."""

    def __init__(self, columns: Sequence[str | None], delimiter: str) -> None:
        self._delimiter = delimiter.encode()
        self._old = {place for place, column in enumerate(columns) if column in ANNOTATIONS}
        cell = csv_cell(delimiter)
        self._cell = re.compile(f"{cell}{re.escape(delimiter)}".encode())
        self._last = re.compile(rf"{cell}\r?\n".encode())

    def header(self, header: bytes) -> bytes:
        """The names of the annotations, followed by the header's own bytes."""
        return self._delimiter.join([*(name.encode() for name in ANNOTATIONS), self.bare(header)])

    def record(self, raw: bytes, line: int, notes: Sequence[RecordNote]) -> bytes:
        """The annotations, followed by the row's own bytes with their line end."""
        cell = b'"%b"' % msgspec.json.encode(notes).replace(b'"', b'""')
        return self._delimiter.join([b"%d" % line, cell, self.bare(raw)])

    def bare(self, raw: bytes) -> bytes:
        """A row or the header without the cells of earlier annotations, as far as it can be split into cells."""
        if not self._old:
            return raw
        kept: list[bytes] = []
        position = 0
        for place in range(max(self._old) + 1):
            if match := self._cell.match(raw, position):
                if place not in self._old:
                    kept.append(match[0])
                position = match.end()
            elif place in self._old and self._last.fullmatch(raw, position):
                line_end = b"\r\n" if raw.endswith(b"\r\n") else b"\n"
                return b"".join(kept).removesuffix(self._delimiter) + line_end
            else:
                break
        return b"".join(kept) + raw[position:]


def json(raw: bytes, line: int, notes: Sequence[RecordNote]) -> bytes:
    """The object's own bytes with two members added in front, even if it is not valid JSON. Other bytes are returned unchanged.

    Earlier annotations are replaced, except in an object that is not valid JSON, which is returned unchanged.
    """
    if not raw.lstrip(b" \t\r\n").startswith(b"{"):
        return raw
    if any(name.encode() in raw for name in ANNOTATIONS):
        try:
            raw = _without(raw, ANNOTATIONS)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return raw
    start = raw.index(b"{") + 1
    is_empty = raw[start:].lstrip(b" \t\r\n").startswith(b"}")
    members = b'"_line":%d,"_errors":%b%b' % (line, msgspec.json.encode(notes), b"" if is_empty else b",")
    return raw[:start] + members + raw[start:]


def _without(raw: bytes, names: Collection[str]) -> bytes:
    """The object without the members `names`. The bytes of the other values do not change."""
    members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    if not any(name in members for name in names):
        return raw
    body = raw.rstrip(b" \t\r\n")
    kept = msgspec.json.encode({name: value for name, value in members.items() if name not in names})
    return kept + raw[len(body) :]
