"""Says beside a record, in its own format, where it stood and what is wrong with it: `_line` and `_errors`. No I/O.

An import ignores both, so that an annotated file can be mended and posted as it is. They come first, in CSV as the first two
columns: there they are in their place even where a row has too few cells or a quote that is not closed.
"""

import re
from collections.abc import Collection, Sequence

import msgspec

from api.imports.splitting.intake import ANNOTATIONS
from db.imports.records import Note


class Csv:
    """Annotates the rows below one header. Annotations of an earlier time, wherever their columns are, are replaced."""

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

    def record(self, raw: bytes, line: int, notes: Sequence[Note]) -> bytes:
        """The row's own bytes behind its annotations, its line end as it was."""
        cell = b'"%b"' % msgspec.json.encode(notes).replace(b'"', b'""')
        return self._delimiter.join([b"%d" % line, cell, self._bare(raw)])

    def _bare(self, raw: bytes) -> bytes:
        """The row without the cells of earlier annotations, as far as it can be told where a cell ends."""
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


def json(raw: bytes, line: int, notes: Sequence[Note]) -> bytes:
    """The object's own bytes with two more members in front. What does not begin like an object cannot have any, and stays.

    A broken one can. Of an object that was annotated before the old members are taken out; if it is also broken, it stays.
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
