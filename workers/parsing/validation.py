"""Determines the errors of a record by checking it field by field, after the decoder of whole chunks has refused it."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from db.formats import ANNOTATIONS, SHEET_ERROR
from db.resources import validation
from db.resources.definition import Code, FieldError, Resource

VALUE_CHARACTERS_MAX = 200


class Findings(NamedTuple):
    """`sound` has every attribute of the record; None where the field is missing or invalid."""

    sound: SimpleNamespace
    errors: list[FieldError]


def examine(resource: Resource, fields: Mapping[str, Any], *, ignore_unknown: bool, errors_max: int) -> Findings:
    """Checks a record field by field. The errors are in the order of the resource's fields, then of the unknown fields.

    Errors beyond `errors_max` are replaced by one that counts them.
    """
    sound = SimpleNamespace(**dict.fromkeys(resource.columns))
    errors: list[FieldError] = []
    for name, kind in _kinds(resource).items():
        value = fields.get(name)
        if value is None:
            if kind.required:
                errors.append(FieldError(name, "missing_required", "required", None))
            continue
        try:
            converted = _convert(value, kind)
        except _Invalid as invalid:
            errors.append(FieldError(name, invalid.code, invalid.message, as_text(value)))
        else:
            setattr(sound, name, converted)
    # rules check converted values; errors show the values as sent
    rules = resource.rules(sound) if resource.rules else ()
    errors += (error._replace(value=as_text(fields.get(error.field or ""))) for error in rules)
    order = {name: position for position, name in enumerate(resource.columns)}
    errors.sort(key=lambda error: -1 if error.field is None else order[error.field])
    if not ignore_unknown:
        errors += _unknown(resource, fields, max(0, errors_max - len(errors)))
    return Findings(sound, errors)


def unstorable(value: Any) -> str | None:
    """Why PostgreSQL or an export cannot represent a value of the right type; None if they can."""
    if isinstance(value, str):
        return "contains the character U+0000, which cannot be stored" if "\0" in value else None
    if isinstance(value, list):
        return next(filter(None, map(unstorable, value)), None)
    if isinstance(value, datetime):
        try:
            value.astimezone(UTC)
        except OverflowError:
            return "outside of the years 1 to 9999 in UTC"
    return None


def as_text(value: Any, *, characters_max: int = VALUE_CHARACTERS_MAX) -> str | None:
    """A value as shown in an error: a text unchanged, anything else as JSON; truncated, and without U+0000."""
    if value is None:
        return None
    if isinstance(value, msgspec.Raw):
        value = _decoded(value)
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False)
        except RecursionError:
            value = "(deeply nested)"
    if value.startswith(SHEET_ERROR):
        value = value[1:]
    return value[:characters_max].replace("\0", "\ufffd")


def _decoded(raw: msgspec.Raw) -> Any:
    """A JSON value; its JSON text if Python's decoder does not support it."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.ValidationError, RecursionError):
        return bytes(raw).decode()


class _Kind(NamedTuple):
    """The rules of a field: its type, whether it is required, the values of an enum, and the name of a format.

    The type is wrapped in the struct `holder`, because msgspec caches how to check a struct, but not other types.
    """

    holder: Any
    required: bool
    allowed: tuple[str, ...]
    title: str


@cache
def _kinds(resource: Resource) -> dict[str, _Kind]:
    hints = get_type_hints(resource.record, include_extras=True)
    return {
        name: _Kind(
            holder=msgspec.defstruct("Holder", [("value", hint)], array_like=True),
            required=name in resource.required,
            allowed=next((get_args(part) for part in _parts(hint) if get_origin(part) is Literal), ()),
            title=next((part.title for part in _parts(hint) if isinstance(part, msgspec.Meta) and part.title), "value"),
        )
        for name, hint in hints.items()
    }


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in get_args(hint):
        yield from _parts(part)


class _Invalid(Exception):
    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message


def _convert(value: Any, kind: _Kind) -> Any:
    # a number out of the range of Python's decoder
    if isinstance(value, msgspec.Raw):
        raise _Invalid("invalid_type", "a number out of range")
    if isinstance(value, str) and value.startswith(SHEET_ERROR):
        raise _Invalid("invalid_type", f"the cell of the sheet has the error {value[1 : VALUE_CHARACTERS_MAX + 1]}")
    # before the pattern, whose message would not mention the NUL
    if isinstance(value, str) and (reason := unstorable(value)):
        raise _Invalid("invalid_format", reason)
    try:
        converted = msgspec.convert((value,), kind.holder).value
    except msgspec.ValidationError as error:
        raise _Invalid(*validation.field_problem(str(error), value, allowed=kind.allowed, title=kind.title)) from None
    if reason := unstorable(converted):
        raise _Invalid("invalid_format", reason)
    return converted


def _unknown(resource: Resource, fields: Mapping[str, Any], errors_max: int) -> Iterator[FieldError]:
    unknown = [name for name in fields if name not in resource.columns and name not in ANNOTATIONS]
    for name in unknown[:errors_max]:
        yield FieldError(as_text(name), "unknown_field", f"{resource.name} have no such field", as_text(fields[name]))
    if len(unknown) > errors_max:
        yield FieldError(None, "too_many_errors", f"and {len(unknown) - errors_max} more unknown fields", None)
