"""CSV: the cells of each row become the fields of a resource."""

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise, product
from operator import itemgetter
from typing import Any, get_args, get_origin

import msgspec

from db.formats import ANNOTATIONS
from db.imports.csv_row import RowReader
from db.imports.payload import Chunk
from db.resources.definition import Resource
from workers.parsing.patterns import patterns_of

BOOLEANS = {
    "".join(letters): value
    for word, value in (("true", True), ("false", False))
    for letters in product(*zip(word, word.upper(), strict=True))
}

# a carriage return that does not belong to a line end
LONE_RETURN = re.compile(r"\r(?!\n)")

# if one record in forty is invalid, most blocks of this size have only valid ones
BLOCK_RECORDS = 16


class Reader:
    """Reads the rows of one resource in a file with the header `columns`."""

    def __init__(
        self,
        resource: Resource,
        columns: tuple[str | None, ...],
        delimiter: str,
        *,
        csv_safe: bool,
        ignore_unknown: bool,
    ) -> None:
        hints = patterns_of(resource).hints
        self._struct = msgspec.defstruct(f"{resource.record.__name__}Row", list(hints.items()), array_like=True)
        self._structs = list[self._struct]
        self._header = columns
        self._is_refused = not ignore_unknown and bool(set(columns) - set(hints) - {*ANNOTATIONS, None})
        self._row = RowReader(delimiter, len(columns))
        self._is_guarded = csv_safe
        places = {name: place for place, name in enumerate(columns)}
        # a field that the header does not have reads the None that is appended after the last cell
        self._is_partial = not set(hints) <= set(columns)
        self._pick = None if columns == resource.columns else itemgetter(*(places.get(name, -1) for name in hints))
        self._booleans = [places[name] for name, hint in hints.items() if name in places and _holds(hint, bool)]
        self._lists = [places[name] for name, hint in hints.items() if name in places and _holds(hint, list)]

    def read(self, chunk: Chunk, record_max_bytes: int) -> list[Any]:
        """The struct of each record; None for a record that is invalid or too large. Patterns are not checked."""
        if self._is_refused:
            return [None] * chunk.records
        rows = self._row.rows(self._texts(chunk, record_max_bytes))
        readable = [row for row in rows if row is not None]
        records = self._convert(self._arrange(self._unguarded(readable)))
        if len(readable) == len(rows):
            return records
        left = iter(records)
        return [None if row is None else next(left) for row in rows]

    def _texts(self, chunk: Chunk, record_max_bytes: int) -> list[str | None]:
        """Each record without its line end; None for one that is not UTF-8 or too large."""
        if len(chunk.data) <= record_max_bytes:
            with suppress(UnicodeDecodeError):
                return self._decoded(chunk)
        bare = map(self._row.bare, chunk.slices())
        return [_decoded(raw) if len(raw) <= record_max_bytes else None for raw in bare]

    def _decoded(self, chunk: Chunk) -> list[str | None]:
        """Each record without its line end. Raises UnicodeDecodeError if the chunk is not UTF-8."""
        text = chunk.data.decode()
        if chunk.starts is None:
            if "\r" in text:
                text = text.replace("\r\n", "\n")
            return [*text.removesuffix("\n").split("\n")] if text else []
        if LONE_RETURN.search(text):
            return [self._row.bare(raw).decode() for raw in chunk.slices()]
        if text.isascii():
            return [text[start:end].rstrip("\r\n") for start, end in pairwise([*chunk.starts, len(text)])]
        return [raw.decode().rstrip("\r\n") for raw in chunk.slices()]

    def fields(self, text: str) -> dict[str, Any]:
        """The values of a record by the names of the resource's fields and of the other columns. Raises Unreadable."""
        (cells,) = self._unguarded([self._row.cells(text)])
        (values,) = self._arrange([[*cells]])
        named = {name: cell for name, cell in zip(self._header, cells, strict=True) if name is not None}
        return named | dict(zip(self._struct.__struct_fields__, values, strict=True))

    def bare(self, raw: bytes) -> bytes:
        """A record without its line end and the blank lines that follow it."""
        return self._row.bare(raw)

    def _unguarded(self, rows: list[list[Any]]) -> list[list[Any]]:
        """The cells without the apostrophes that guard them."""
        if not self._is_guarded:
            return rows
        return [[cell and cell.removeprefix("'") for cell in cells] for cells in rows]

    def _convert(self, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """The struct of each row; None for an invalid one. They are converted one by one only where a block has invalid ones."""
        with suppress(msgspec.ValidationError):
            return msgspec.convert(rows, self._structs)
        records: list[Any] = []
        for start in range(0, len(rows), BLOCK_RECORDS):
            block = rows[start : start + BLOCK_RECORDS]
            try:
                records += msgspec.convert(block, self._structs)
            except msgspec.ValidationError:
                records += map(self._convert_one, block)
        return records

    def _convert_one(self, row: Sequence[Any]) -> Any:
        try:
            return msgspec.convert(row, self._struct)
        except msgspec.ValidationError:
            return None

    def _arrange(self, rows: list[list[Any]]) -> Sequence[Sequence[Any]]:
        """The cells in the order of the resource's fields. Changes the rows: booleans and lists are converted from their text."""
        for place in self._booleans:
            for cells in rows:
                cells[place] = BOOLEANS.get(cells[place], cells[place])
        for place in self._lists:
            for cells in rows:
                cells[place] = _list(cells[place])
        if self._is_partial:
            for cells in rows:
                cells.append(None)
        return rows if self._pick is None else [*map(self._pick, rows)]


def _decoded(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _list(cell: str | None) -> Any:
    """The list, if the cell contains a JSON array; otherwise the cell unchanged."""
    try:
        value = msgspec.json.decode(cell) if cell else cell
    except (msgspec.DecodeError, RecursionError):
        return cell
    return value if isinstance(value, list) else cell


def _holds(hint: Any, kind: type) -> bool:
    """Whether `hint` is, or contains, the type `kind`."""
    return hint is kind or get_origin(hint) is kind or any(_holds(part, kind) for part in get_args(hint))
