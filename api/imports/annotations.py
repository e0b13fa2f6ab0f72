"""Adds `_line` and `_errors` to a record in its own format: where it was in the file and why it was refused. No I/O.

An import ignores both, so that an annotated file can be corrected and posted as it is. In CSV they are the first two columns,
where they are found even in a row that has too few cells or an unclosed quote.
"""

import re
from collections.abc import Collection, Sequence

import msgspec

from db.formats import ANNOTATIONS
from db.imports.records import RecordNote


class Csv:
    """Annotates the rows below one header. Earlier annotations are replaced, in whatever column they are."""

    def __init__(self, columns: Sequence[str], delimiter: str) -> None:
        self._delimiter = delimiter.encode()
        self._old = {place for place, column in enumerate(columns) if column in ANNOTATIONS}
        mark = re.escape(self._delimiter)
        cell = rb'(?:"[^"]*+(?:""[^"]*+)*+"|[^"\n%b]*+)' % mark
        self._cell = re.compile(cell + mark)
        self._last = re.compile(rb'(?:"[^"]*+(?:""[^"]*+)*+"|[^"\r\n%b]*+)(\r?\n)' % mark)

    def header(self, header: bytes) -> bytes:
        """The header's own bytes behind the names of the annotations."""
        return self._delimiter.join([*(name.encode() for name in ANNOTATIONS), self._bare(header)])

    def record(self, raw: bytes, line: int, notes: Sequence[RecordNote]) -> bytes:
        """The row's own bytes behind its annotations, its line end as it was."""
        cell = b'"%b"' % msgspec.json.encode(notes).replace(b'"', b'""')
        return self._delimiter.join([b"%d" % line, cell, self._bare(raw)])

    def _bare(self, raw: bytes) -> bytes:
        """The row without the cells of earlier annotations, as far as its cells can be told apart."""
        if not self._old:
            return raw
        kept: list[bytes] = []
        position = 0
        for place in range(max(self._old) + 1):
            if match := self._cell.match(raw, position):
                if place not in self._old:
                    kept.append(match[0])
                position = match.end()
            elif place in self._old and (match := self._last.fullmatch(raw, position)):
                return b"".join(kept).removesuffix(self._delimiter) + match[1]
            else:
                break
        return b"".join(kept) + raw[position:]


def json(raw: bytes, line: int, notes: Sequence[RecordNote]) -> bytes:
    """The object's own bytes with two more members in front, also when it is not valid JSON. Anything else is returned as it is.

    Earlier annotations are replaced; an annotated object that is not valid JSON is returned as it is.
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
    """The object without the members of these names; the values of the others as they were, byte by byte."""
    members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    if not any(name in members for name in names):
        return raw
    body = raw.rstrip(b" \t\r\n")
    kept = msgspec.json.encode({name: value for name, value in members.items() if name not in names})
    return kept + raw[len(body) :]
