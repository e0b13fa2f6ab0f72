"""msgspec's validation errors in this project's words: for parameters, filters, settings and the fields of records.

msgspec reports an error as English text only, so its texts are matched here, and nowhere else. `tests/unit/test_validation.py`
fails when a new version of msgspec changes one of them.
"""

import re
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from db.resources.definition import NOT_BLANK, Code

_BOUND = re.compile(r"Expected `\w+` ((?:of length )?[<>]=? .+)")
_LENGTH = re.compile(r"of length (>=|<=) (\d+)")
# the first word between backticks: of `str | null` the type that is not null
_TYPES = re.compile(r"`(\w+)[^`]*`")
_PATH = re.compile(r" - at `.*`$", re.DOTALL)

_EXPECTED: dict[type[inspect.Type], str] = {
    inspect.BoolType: "must be true or false",
    inspect.IntType: "must be a whole number",
    inspect.FloatType: "must be a number",
    inspect.UUIDType: "must be a UUID",
    inspect.DateTimeType: "must be a time with its zone, as in 2026-01-31T12:00:00Z",
    inspect.StrType: "must be text",
    inspect.ListType: "must be a list",
    inspect.DictType: "must be an object",
}
_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "datetime": "a time",
    "float": "a number",
    "int": "an integer",
    "object": "an object",
    "str": "text",
    "uuid": "a UUID",
}


class FieldProblem(NamedTuple):
    """Why a value does not fit a field of a record."""

    code: Code
    message: str


def expected(hint: Any) -> str | None:
    """What a value of this type must be, like "must be a UUID"; None for a type without a description."""
    info, title = _unwrapped(hint)
    if isinstance(info, inspect.LiteralType):
        return f"must be one of: {', '.join(str(value) for value in info.values)}"
    return f"must be a valid {title}" if title else _EXPECTED.get(type(info))


def is_object(hint: Any) -> bool:
    """Whether a parameter of this type is an object."""
    return isinstance(_unwrapped(hint)[0], inspect.DictType)


def parameter_error(value: Any, hint: Any) -> str | None:
    """Why a parameter's `value`, as text or JSON, is not of the type `hint`; None if it is."""
    try:
        # msgspec reads the text "null" as None, but a parameter with that text is not an absent parameter
        if msgspec.convert(value, hint, strict=False) is not None or value is None:
            return None
        complaint = ""
    except msgspec.ValidationError as error:
        complaint = _PATH.sub("", str(error))
    description = expected(hint)
    if bound := _BOUND.fullmatch(complaint):
        return f"{description or 'must be'} {bound[1]}"
    if "matching regex" in complaint and description == "must be text":
        return "must be text without the character U+0000"
    return description or complaint or "must not be null"


def field_problem(complaint: str, value: Any, *, allowed: tuple[str, ...], title: str) -> FieldProblem:
    """msgspec's `complaint` about a field of a record as a code and a message.

    `allowed` are the values of an enum; `title` is the name of the format that the field's pattern describes.
    """
    complaint = complaint.partition(" - at `$")[0]
    if length := _LENGTH.search(complaint):
        if complaint.startswith("Expected `array`"):
            return FieldProblem("too_many", f"{len(value)} elements, at most {length[2]}")
        if isinstance(value, list):
            return FieldProblem("too_long", f"an element is longer than {length[2]} characters")
        if length[1] == "<=":
            return FieldProblem("too_long", f"{len(value)} characters, at most {length[2]}")
        return FieldProblem("too_short", f"{len(value)} characters, at least {length[2]}")
    if complaint.endswith(f"matching regex {NOT_BLANK!r}"):
        return FieldProblem("too_short", "blank: nothing but white space")
    if "matching regex" in complaint:
        return FieldProblem("invalid_format", f"not a valid {title}")
    if complaint.startswith("Invalid enum value"):
        return FieldProblem("invalid_enum", f"not one of {', '.join(allowed)}")
    if complaint.startswith("Invalid UUID"):
        return FieldProblem("invalid_format", "not a valid UUID")
    if complaint.startswith("Invalid RFC3339"):
        return FieldProblem("invalid_format", "not an RFC 3339 time such as 2024-01-31T12:00:00Z")
    if "timezone" in complaint:
        return FieldProblem("invalid_format", "a time needs a time zone, such as Z or +02:00")
    wanted, got = (_WORDS.get(word, word) for word in _TYPES.findall(complaint))
    return FieldProblem("invalid_type", f"expected {wanted}, got {got}")


def _unwrapped(hint: Any) -> tuple[inspect.Type, str | None]:
    """The type without its metadata and without the alternative null, and its title."""
    info, title = inspect.type_info(hint), None
    while True:
        if isinstance(info, inspect.Metadata):
            title = title or (info.extra_json_schema or {}).get("title")
            info = info.type
        elif isinstance(info, inspect.UnionType):
            info = next(one for one in info.types if not isinstance(one, inspect.NoneType))
        else:
            return info, title
