"""NDJSON, with one object per line, and the elements of one JSON array."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

import msgspec

from db.imports.payload import Chunk
from db.resources.definition import Resource, Unreadable
from workers.parsing.patterns import patterns_of

# raised for an invalid record; for a whole chunk they mean that at least one of its records is invalid
INVALID = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Unreadable)


class Reader:
    """Reads the records of one resource. `fields` has the fields of keys with another name, None for those to ignore."""

    def __init__(
        self,
        resource: Resource,
        format: Literal["ndjson", "json"],
        fields: Mapping[str, str | None],
        *,
        ignore_unknown: bool,
    ) -> None:
        hints = patterns_of(resource).hints
        record = msgspec.defstruct(
            resource.record.__name__,
            [
                (field.name, hints[field.name]) if field.required else (field.name, hints[field.name], field.default)
                for field in msgspec.structs.fields(resource.record)
            ],
            kw_only=True,
            forbid_unknown_fields=not ignore_unknown,
        )
        self._names = frozenset(record.__struct_fields__)
        self._is_lines = format == "ndjson"
        self._one = msgspec.json.Decoder(record)
        self._array = msgspec.json.Decoder(list[record])
        self._members = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._renamed = fields

    def read(self, chunk: Chunk, record_max_bytes: int) -> list[Any]:
        """The struct of each record; None for a record that is invalid or too large. Patterns are not checked."""
        if len(chunk.data) <= record_max_bytes:
            with suppress(*INVALID):
                return self._whole(chunk)
        return [self._single(self.bare(raw), record_max_bytes) for raw in chunk.slices()]

    def _whole(self, chunk: Chunk) -> list[Any]:
        """All records of a chunk. Raises one of `INVALID` if any record is invalid."""
        data = chunk.data
        # msgspec does not check the UTF-8 of fields that it skips
        if not data.isascii():
            data.decode()
        if self._renamed:
            return [self._one.decode(self._rename(self.bare(raw))) for raw in chunk.slices()]
        if self._is_lines:
            lines = data.removesuffix(b"\n").split(b"\n") if chunk.starts is None else chunk.slices()
            # not decode_lines, which treats a line end as white space: it accepts an object on two lines, and two on one
            return [self._one.decode(line) for line in lines]
        records = self._array.decode(b"[" + data + b"]")
        if len(records) != chunk.records:
            raise Unreadable("invalid_json", "not exactly one element per record")
        return records

    def _single(self, raw: bytes, record_max_bytes: int) -> Any:
        try:
            if len(raw) > record_max_bytes:
                return None
            text = raw.decode()
            return self._one.decode(self._rename(text) if self._renamed else text)
        except INVALID:
            return None

    def fields(self, text: str) -> dict[str, Any]:
        """The values of an object, valid or not; of a repeated key the last one. Raises `Unreadable`.

        Values of fields that the resource does not have, and numbers out of the range of Python's decoder, remain `msgspec.Raw`.
        """
        try:
            # first whether it is valid JSON, then whether it is an object
            msgspec.json.decode(text, type=msgspec.Raw)
            fields = self._by_field(self._members.decode(text)).items()
            return {name: _value(raw) if name in self._names else raw for name, raw in fields}
        except RecursionError:
            raise Unreadable("invalid_json", "nested too deeply") from None
        except msgspec.ValidationError:
            raise Unreadable("invalid_type", "a record must be a JSON object") from None
        except msgspec.DecodeError as error:
            raise Unreadable("invalid_json", str(error).removeprefix("JSON is malformed: ")) from None

    def _rename(self, record: bytes | str) -> bytes:
        """The record with the names of fields as keys. Raises one of `INVALID`."""
        return msgspec.json.encode(self._by_field(self._members.decode(record)))

    def _by_field(self, members: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
        """The members by the names of fields, without those to ignore. Raises Unreadable if a field is there twice."""
        if not self._renamed:
            return members
        fields: dict[str, msgspec.Raw] = {}
        for name, raw in members.items():
            field = self._renamed.get(name, name)
            if field is None:
                continue
            if field in fields:
                raise Unreadable(
                    "conflicting_fields", f"{field} is there twice, once under the name that columns maps to it"
                )
            fields[field] = raw
        return fields

    def bare(self, raw: bytes) -> bytes:
        """A record without the separator that follows it."""
        return raw.rstrip(b"\r\n") if self._is_lines else raw.removesuffix(b",\n")


def _value(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:
        return raw
