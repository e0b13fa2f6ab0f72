"""Parses a chunk: returns its valid records and the errors of the others.

May import db.imports.csv_row, db.imports.payload and db.resources only.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any, Protocol

import msgspec

from db.formats import Format
from db.imports.payload import Chunk
from db.resources.definition import (
    Code,
    FieldError,
    Parsed,
    RecordError,
    Resource,
    Unreadable,
    foreign_key_message,
)
from workers.parsing import csv_reader, json_reader
from workers.parsing.patterns import patterns_of
from workers.parsing.validation import Findings, as_text, examine, unstorable

# no valid slug or e-mail address is longer, so a valid key is never truncated
KEY_CHARACTERS_MAX = 255


class Reader(Protocol):
    """Reads one format. The structs that it returns have the resource's attributes, in the resource's order."""

    def read(self, chunk: Chunk, record_max_bytes: int) -> list[Any]: ...
    def fields(self, text: str) -> dict[str, Any]: ...
    def bare(self, raw: bytes) -> bytes: ...


def parse(
    resource: Resource,
    chunk: Chunk,
    *,
    format: Format,
    columns: Sequence[str | None] | None,
    fields: Mapping[str, str | None] | None = None,
    delimiter: str,
    csv_safe: bool = False,
    ignore_unknown: bool,
    record_max_bytes: int,
    record_errors_max: int = 100,
    errors_max: int = 100_000,
) -> Parsed:
    """Reads and checks a chunk; nothing in its bytes makes it raise.

    `columns` are the fields of a CSV file's columns, None for one that is ignored. `fields` has the fields of keys that have
    another name in a JSON file, None for one that is ignored. A column or key without a field has its own name.

    Once `errors_max` errors are listed, the errors of further records are only counted; see `Parsed`.

    `csv_safe`: an apostrophe that begins a cell of a CSV guards it from spreadsheets and is not part of it.

    The records are structs with the resource's attributes, in the order of `resource.columns` also for
    `msgspec.structs.astuple`, but not always instances of `resource.record`.
    """
    reader = _reader(
        resource, format, tuple(columns or ()), tuple((fields or {}).items()), delimiter, csv_safe, ignore_unknown
    )
    records = reader.read(chunk, record_max_bytes)
    flawed = _flawed(resource, records, chunk.data)
    errors: list[RecordError] = []
    suspects: list[RecordError] = []
    unlisted: list[int] = []
    omitted: list[Code] = []
    raws = chunk.slices(flawed)
    for index in flawed:
        fields, found = _examine(
            resource,
            reader,
            next(raws),
            ignore_unknown=ignore_unknown,
            record_max_bytes=record_max_bytes,
            errors_max=record_errors_max,
        )
        # the fast decoders also refuse a few valid records, such as those with the annotations of an error file
        records[index] = None if found.errors else resource.record(**vars(found.sound))
        if found.errors and len(errors) < errors_max:
            record_error = partial(_record_error, resource, chunk, index, fields)
            errors += map(record_error, found.errors)
            suspects += map(record_error, _suspects(resource, found.sound))
        elif found.errors:
            unlisted.append(chunk.first_record + index)
            omitted.extend(error.code for error in found.errors)
    sound = [index for index, record in enumerate(records) if record is not None] if flawed else range(len(records))
    return Parsed(
        records=[records[index] for index in sound] if flawed else records,
        numbers=[chunk.first_record + index for index in sound],
        lines=chunk.lines_of(sound),
        errors=errors,
        suspects=suspects,
        unlisted=unlisted,
        omitted=omitted,
    )


@lru_cache(maxsize=64)
def _reader(
    resource: Resource,
    format: Format,
    columns: tuple[str | None, ...],
    fields: tuple[tuple[str, str | None], ...],
    delimiter: str,
    csv_safe: bool,
    ignore_unknown: bool,
) -> Reader:
    if format == "csv":
        return csv_reader.Reader(resource, columns, delimiter, csv_safe=csv_safe, ignore_unknown=ignore_unknown)
    return json_reader.Reader(resource, format, dict(fields), ignore_unknown=ignore_unknown)


def _flawed(resource: Resource, records: list[Any], data: bytes) -> list[int]:
    """The indexes of the records that could not be read, violate a rule, or contain a value that cannot be stored."""
    rules = resource.rules
    flawed = {i for i, record in enumerate(records) if record is None or (rules and next(rules(record), None))}
    flawed |= patterns_of(resource).unmatched(records)
    # only few files contain one of these bytes, without which every value can be stored
    if b"\0" in data or b"0001-01-01" in data or b"9999-12-31" in data or (b"\\" in data and b"\\u00" in data):
        for i, record in enumerate(records):
            if record is not None and any(map(unstorable, msgspec.structs.astuple(record))):
                flawed.add(i)
    return sorted(flawed)


def _examine(
    resource: Resource, reader: Reader, raw: bytes, *, ignore_unknown: bool, record_max_bytes: int, errors_max: int
) -> tuple[dict[str, Any], Findings]:
    """The fields of a record and its errors; no fields when it cannot be split into them."""
    raw = reader.bare(raw)
    text = raw.decode(errors="replace")
    try:
        if len(raw) > record_max_bytes:
            raise Unreadable("record_too_large", f"more than {record_max_bytes} bytes")
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            raise Unreadable("invalid_encoding", f"not UTF-8: the byte 0x{raw[error.start]:02X}") from None
        fields = reader.fields(text)
    except Unreadable as unreadable:
        nothing = SimpleNamespace(**dict.fromkeys(resource.columns))
        return {}, Findings(nothing, [FieldError(None, unreadable.code, unreadable.message, as_text(text))])
    return fields, examine(resource, fields, ignore_unknown=ignore_unknown, errors_max=errors_max)


def _suspects(resource: Resource, sound: Any) -> Iterator[FieldError]:
    for field in resource.references:
        if (parent_id := getattr(sound, field)) is not None:
            yield FieldError(field, "foreign_key_not_found", foreign_key_message(resource, field), str(parent_id))


def _record_error(
    resource: Resource, chunk: Chunk, index: int, fields: dict[str, Any], error: FieldError
) -> RecordError:
    return RecordError(
        line=chunk.line(index),
        record=chunk.first_record + index,
        id=_name(fields.get("id")),
        key=_name(fields.get(resource.key)) if resource.key else None,
        field=error.field,
        code=error.code,
        message=error.message,
        value=as_text(error.value),
    )


def _name(value: Any) -> str | None:
    return as_text(value, characters_max=KEY_CHARACTERS_MAX) if isinstance(value, str) else None
