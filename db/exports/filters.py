"""What of a resource an export has: which records, and which of their fields. It all derives from the resource.

Words of a client go in, values of PostgreSQL's types come out; what cannot be read is named, never passed by. An export that
is filtered wrongly would be one of too many records, and nobody would notice.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, LiteralString, NamedTuple, get_type_hints

import msgspec
from msgspec import inspect
from psycopg import sql

from db.resources.definition import Resource

# the values of one filter; an index is descended for each
VALUES_MAX = 10_000

Test = Literal["any_of", "holds", "from", "before"]

_TESTS: dict[Test, LiteralString] = {
    "any_of": "{column} = ANY({value}::{type}[])",
    "holds": "{column} && {value}::{type}",
    "from": "{column} >= {value}::{type}",
    "before": "{column} < {value}::{type}",
}


class Filter(NamedTuple):
    """One parameter by which records are chosen, and what it asks of its column.

    A list of values for `any_of` and for `holds` (lists that have any of them), one for `from` (or later) and `before`.
    """

    name: str
    column: str
    test: Test


class Condition(NamedTuple):
    filter: Filter
    value: Any


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """`fields` in the order in which they are written; `after` is the id behind which the records begin."""

    fields: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    after: Any = None
    limit: int | None = None


class Refusal(NamedTuple):
    """A name that a client gave, and what is wrong with it or with its value."""

    name: str
    message: str


class Unselectable(Exception):
    """Nothing can be selected by these words; `refusals` has everything that is wrong with them."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        super().__init__("; ".join(f"{refusal.name} {refusal.message}" for refusal in refusals))
        self.refusals = refusals


@cache
def filters(resource: Resource) -> Mapping[str, Filter]:
    """The filters of a resource by their names: `tag` of `tags`, `created_after` and `created_before` of `created_at`."""
    types = dict(zip(resource.columns, resource.column_types, strict=True))
    found = [filter for column in resource.filtered_by for filter in _of_column(column, types[column])]
    return {filter.name: filter for filter in found}


def select(
    resource: Resource,
    *,
    filters: Mapping[str, Any],
    fields: Sequence[str] | None = None,
    after: str | None = None,
    limit: int | None = None,
) -> Selection:
    """What a client asked for, in its words. Raises `Unselectable`.

    The value of a filter is text, in which commas separate values, or a list that is taken as it is, or a boolean.
    Without `fields` there are all of them.
    """
    refusals: list[Refusal] = []
    conditions: list[Condition] = []
    for name, given in filters.items():
        try:
            conditions.append(_condition(resource, name, given))
        except ValueError as error:
            refusals.append(Refusal(name, str(error)))
    refusals += _field_refusals(resource, fields)
    place = None
    if after is not None:
        try:
            place = _value(resource, "id", after)
        except ValueError as error:
            refusals.append(Refusal("after", str(error)))
    if refusals:
        raise Unselectable(refusals)
    return Selection(fields=tuple(fields or resource.columns), conditions=tuple(conditions), after=place, limit=limit)


def where(resource: Resource, selection: Selection) -> tuple[sql.Composed, dict[str, Any]]:
    """The clause WHERE with placeholders, empty when all records are wanted, and the values to bind to them."""
    types = dict(zip(resource.columns, resource.column_types, strict=True))
    clauses: list[sql.Composed] = []
    values: dict[str, Any] = {}
    for filter, value in selection.conditions:
        clauses.append(
            sql.SQL(_TESTS[filter.test]).format(
                column=_comparable(resource, filter.column),
                value=sql.Placeholder(filter.name),
                type=sql.SQL(types[filter.column]),
            )
        )
        values[filter.name] = value
    if selection.after is not None:
        clauses.append(sql.SQL("{} > {}").format(_comparable(resource, "id"), sql.Placeholder("after")))
        values["after"] = selection.after
    if not clauses:
        return sql.Composed([]), {}
    return sql.Composed([sql.SQL("WHERE "), sql.SQL(" AND ").join(clauses)]), values


def _of_column(column: str, type: str) -> Iterator[Filter]:
    if type == "timestamptz":
        stem = column.removesuffix("_at")
        yield Filter(f"{stem}_after", column, "from")
        yield Filter(f"{stem}_before", column, "before")
    elif type == "text[]":
        yield Filter(column.removesuffix("s"), column, "holds")
    else:
        yield Filter(column, column, "any_of")


def _comparable(resource: Resource, column: str) -> sql.Composable:
    """The column; of the natural key the expression that its index is of."""
    if column == resource.key:
        return sql.SQL(resource.key_sql).format(sql.Identifier(resource.name))
    return sql.Identifier(resource.name, column)


def _condition(resource: Resource, name: str, given: Any) -> Condition:
    """Raises ValueError, which says what is wrong."""
    filter = filters(resource).get(name)
    if filter is None:
        raise ValueError(f"is not a filter of {resource.name}; there are {', '.join(filters(resource))}")
    if filter.test in ("from", "before"):
        return Condition(filter, _value(resource, filter.column, given))
    items = _items(given)
    values = [_value(resource, filter.column, item) for item in items]
    if filter.column == resource.key:
        values = [resource.key_of(value) for value in values]
    return Condition(filter, values)


def _items(given: Any) -> list[Any]:
    items = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    # an empty value is hardly ever meant; a list can ask for the empty text
    if not items or (isinstance(given, str) and "" in items):
        raise ValueError("must not have an empty value")
    if len(items) > VALUES_MAX:
        raise ValueError(f"must not have more than {VALUES_MAX} values")
    return items


def _value(resource: Resource, column: str, given: Any) -> Any:
    """A value that a record could have in this column. Raises ValueError."""
    hint = _hints(resource)[column]
    if isinstance(given, str) and hint is bool:
        given = {"true": True, "false": False}.get(given.lower())
    try:
        if given is None or (isinstance(given, str) and "\0" in given):
            raise msgspec.ValidationError
        return msgspec.convert(given, hint)
    except msgspec.ValidationError:
        raise ValueError(_wanted(hint)) from None


@cache
def _hints(resource: Resource) -> Mapping[str, Any]:
    """The type of one value of each column."""
    hints = get_type_hints(resource.record, include_extras=True)
    types = dict(zip(resource.columns, resource.column_types, strict=True))
    return {column: str if types[column] == "text[]" else hint for column, hint in hints.items()}


def _wanted(hint: Any) -> str:
    """What is expected, in words of a client."""
    wanted = inspect.type_info(hint)
    if isinstance(wanted, inspect.UnionType):
        wanted = next(one for one in wanted.types if not isinstance(one, inspect.NoneType))
    title = None
    if isinstance(wanted, inspect.Metadata):
        title = (wanted.extra_json_schema or {}).get("title")
        wanted = wanted.type
    match wanted:
        case inspect.LiteralType():
            return f"must be one of: {', '.join(str(value) for value in wanted.values)}"
        case inspect.UUIDType():
            return "must be a UUID"
        case inspect.BoolType():
            return "must be true or false"
        case inspect.DateTimeType():
            return "must be a time with its zone, as in 2026-01-31T12:00:00Z"
        case _:
            return f"must be a valid {title}" if title else "must be text without the character U+0000"


def _field_refusals(resource: Resource, fields: Sequence[str] | None) -> Iterator[Refusal]:
    if fields is None:
        return
    if not fields:
        yield Refusal("fields", "must name a field")
    for field in dict.fromkeys(fields):
        if field not in resource.columns:
            yield Refusal("fields", f"must not have {field!r}; {resource.name} have {', '.join(resource.columns)}")
        elif fields.count(field) > 1:
            yield Refusal("fields", f"must not have {field} twice")
