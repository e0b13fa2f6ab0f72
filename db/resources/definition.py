"""`Resource`: the definition of a kind of record, by a struct with types and limits, rules, keys and references.

SQL, checks, messages, exports, metrics and the OpenAPI document derive from it. How to add one: `db/README.md`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, Literal, LiteralString, NamedTuple, get_args, get_type_hints
from uuid import UUID

import msgspec
from msgspec import Meta

Time = Annotated[datetime, Meta(tz=True)]

# at least one character that is not white space
NOT_BLANK = r"\S"

Code = Literal[
    "malformed_row",
    "column_count_mismatch",
    "invalid_json",
    "invalid_encoding",
    "record_too_large",
    "missing_required",
    "invalid_type",
    "invalid_format",
    "invalid_enum",
    "too_long",
    "too_short",
    "too_many",
    "too_many_words",
    "conflicting_fields",
    "duplicate_in_file",
    "already_exists",
    "key_conflict",
    "not_found",
    "foreign_key_not_found",
    "unknown_field",
    "constraint_violation",
    "too_many_errors",
    "errors_not_stored",
]


class Unreadable(Exception):
    """A record cannot be split into fields."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message


class FieldError(NamedTuple):
    """An error of one field, without the position of its record."""

    field: str | None
    code: Code
    message: str
    value: str | None


class RecordError(msgspec.Struct, kw_only=True):
    """Why a record was refused, as the API returns it. `line` and `record` count from 1; `line` is where the record starts."""

    line: int
    record: int
    id: str | None
    key: str | None
    field: str | None
    code: Code
    message: str
    value: str | None
    duplicate_of_line: int | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """The result of parsing and checking chunks without the database: the valid records, and the errors of the others.

    `records`, `numbers` and `lines` are parallel lists in the order of the file. `suspects` are references of refused
    records: each becomes an error as well if its parent is missing. `unlisted` are refused records beyond the limit on
    errors, and `omitted` the codes of their errors.
    """

    records: list[Any] = field(default_factory=list)
    numbers: Sequence[int] = ()
    lines: Sequence[int] = ()
    errors: list[RecordError] = field(default_factory=list)
    suspects: list[RecordError] = field(default_factory=list)
    unlisted: list[int] = field(default_factory=list)
    omitted: list[Code] = field(default_factory=list)

    @classmethod
    def joined(cls, parts: Sequence["Parsed"]) -> "Parsed":
        """Concatenates parts that are in the order of the file."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(list(chain.from_iterable(getattr(part, each.name) for part in parts)) for each in fields(cls)))


def foreign_key_message(resource: "Resource", field: str) -> str:
    """The error message for a reference `field` whose id is not stored in the parent resource."""
    return f"no {resource.references[field].removesuffix('s')} has this id"


SQL_TYPES: dict[type, LiteralString] = {
    UUID: "uuid",
    str: "text",
    bool: "bool",
    datetime: "timestamptz",
    list: "text[]",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Resource:
    """A kind of record. `name` is also its table; the struct's fields are the table's columns, in order.

    The `title` of a field with a `pattern` describes valid values in messages and schemas. A pattern from `^` to `\\Z` may not
    match a line end, because it is matched in many values at once. Resources are compared by identity, so one can be the key of
    a cache.
    """

    name: str
    record: type[msgspec.Struct]
    # the natural key's field, its comparable form in Python, and the same in SQL: the expression of the unique index,
    # with {} for the table
    key: str | None = None
    key_of: Callable[[str], str] = str
    key_sql: LiteralString = "NULL"
    # field -> name of the resource whose id it holds
    references: dict[str, str] = field(default_factory=dict)
    # checks of several fields together; gets an object with the record's attributes, None where a field is missing or invalid
    rules: Callable[[Any], Iterator[FieldError]] | None = None
    # A new id for a record without one, in Python and in SQL: a UUID of version 7, so that the index entries of an import lie
    # side by side. The first goes only to COPY, so it may be a UUID of `uuid_utils`, which costs less than a `uuid.UUID`.
    new_id: Callable[[], Any]
    new_id_sql: LiteralString
    # fields that are set to the time of the import when a new record has none
    stamped: tuple[str, ...] = ()
    # the one of them that an update also sets when the record has none
    touched: str | None = None
    # fields by which an export can be filtered; their types determine the filters (see `db.exports.filters`)
    filtered_by: tuple[str, ...] = ()
    # descriptions of fields for `GET /resources`, where name and type do not suffice
    descriptions: dict[str, str] = field(default_factory=dict)
    # a record for the template file, without fields that the service fills in
    example: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.record.__struct_fields__

    @cached_property
    def column_types(self) -> tuple[LiteralString, ...]:
        """PostgreSQL's name for the type of each column, in their order."""
        return tuple(SQL_TYPES[_plain(hint)] for hint in get_type_hints(self.record).values())

    @property
    def required(self) -> frozenset[str]:
        fields = msgspec.structs.fields(self.record)
        return frozenset(f.name for f in fields if f.required)


def _plain(hint: Any) -> type:
    """The bare type within `Annotated`, `Optional`, `Literal` and `list[...]`."""
    if isinstance(hint, type):
        return hint
    first = next(arg for arg in get_args(hint) if arg is not type(None))
    if isinstance(first, str):
        return str
    origin = getattr(hint, "__origin__", None)
    return list if origin is list else _plain(first)
