"""The filters and fields of an export, derived from the definition of the resource.

Converts the client's values to PostgreSQL values. A filter that is unknown or invalid is an error and never ignored: the export
would silently contain too many records.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import Any, Literal, LiteralString, NamedTuple, get_type_hints

import msgspec
from psycopg import sql

from db.exports.watermarks import Watermark
from db.resources import validation
from db.resources.definition import Resource

# the values of one filter; each costs an index lookup
VALUES_MAX = 10_000
# The filters of one request that are checked. No resource has so many, so a request with more has an unknown one among these.
FILTERS_MAX = 50

Test = Literal["any_of", "overlaps", "from", "before"]

_TESTS: dict[Test, LiteralString] = {
    "any_of": "{column} = ANY({value}::{type}[])",
    "overlaps": "{column} && {value}::{type}",
    "from": "{column} >= {value}::{type}",
    "before": "{column} < {value}::{type}",
}


class Filter(NamedTuple):
    """A query parameter and the condition that it puts on a column.

    `any_of` and `overlaps` take a list of values; `from` (inclusive) and `before` (exclusive) take one.
    """

    name: str
    column: str
    test: Test


class Condition(NamedTuple):
    filter: Filter
    value: Any


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """`fields` are in output order. Only records with an id greater than `after`, not greater than `up_to`, written since
    `changed_since`, are selected.
    """

    fields: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    changed_since: Watermark | None = None
    after: Any = None
    up_to: Any = None
    limit: int | None = None


class InvalidParameter(NamedTuple):
    """A parameter's name and what is wrong with it."""

    name: str
    message: str


class InvalidSelection(Exception):
    """The filters or fields are not valid. `parameters` lists every problem."""

    def __init__(self, parameters: Sequence[InvalidParameter]) -> None:
        super().__init__("; ".join(f"{parameter.name} {parameter.message}" for parameter in parameters))
        self.parameters = parameters


@cache
def filters(resource: Resource) -> Mapping[str, Filter]:
    """The filters of a resource by name. `tags` has the filter `tag`; `created_at` has `created_after` and `created_before`."""
    types = dict(zip(resource.columns, resource.column_types, strict=True))
    return {filter.name: filter for column in resource.filtered_by for filter in _column_filters(column, types[column])}


def select(
    resource: Resource,
    *,
    filters: Mapping[str, Any],
    fields: Sequence[str] | None = None,
    changed_since: str | None = None,
    after: str | None = None,
    limit: int | None = None,
) -> Selection:
    """Converts a client's parameters. Raises `InvalidSelection`.

    The value of a filter is a text with comma-separated values, or a list, or a boolean. Without `fields`, all are selected.
    """
    invalid: list[InvalidParameter] = []
    conditions: list[Condition] = []
    for name, value in islice(filters.items(), FILTERS_MAX):
        try:
            conditions.append(_condition(resource, name, value))
        except ValueError as error:
            invalid.append(InvalidParameter(name, str(error)))
    invalid += _invalid_fields(resource, fields)
    since = after_id = None
    if changed_since is not None:
        try:
            since = Watermark.parse(changed_since)
        except ValueError as error:
            invalid.append(InvalidParameter("changed_since", str(error)))
    if after is not None:
        try:
            after_id = _value(resource, "id", after)
        except ValueError as error:
            invalid.append(InvalidParameter("after", str(error)))
    if invalid:
        raise InvalidSelection(invalid)
    return Selection(
        fields=tuple(fields or resource.columns),
        conditions=tuple(conditions),
        changed_since=since,
        after=after_id,
        limit=limit,
    )


def where(resource: Resource, selection: Selection) -> tuple[sql.Composed, dict[str, Any]]:
    """The WHERE clause, empty if all records are selected, and the values of its placeholders."""
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
    if selection.changed_since is not None:
        # the transactions since then, of which a row has the lower 32 bits
        clauses.append(
            sql.SQL("age({}) BETWEEN 0 AND age({}::xid8::xid)").format(
                sql.Identifier(resource.name, "xmin"), sql.Placeholder("changed_since")
            )
        )
        values["changed_since"] = str(selection.changed_since.transaction)
    if selection.after is not None:
        clauses.append(sql.SQL("{} > {}").format(_comparable(resource, "id"), sql.Placeholder("after")))
        values["after"] = selection.after
    if selection.up_to is not None:
        clauses.append(sql.SQL("{} <= {}").format(_comparable(resource, "id"), sql.Placeholder("up_to")))
        values["up_to"] = selection.up_to
    if not clauses:
        return sql.Composed([]), {}
    return sql.Composed([sql.SQL("WHERE "), sql.SQL(" AND ").join(clauses)]), values


def _column_filters(column: str, type: str) -> Iterator[Filter]:
    if type == "timestamptz":
        stem = column.removesuffix("_at")
        yield Filter(f"{stem}_after", column, "from")
        yield Filter(f"{stem}_before", column, "before")
    elif type == "text[]":
        yield Filter(column.removesuffix("s"), column, "overlaps")
    else:
        yield Filter(column, column, "any_of")


def _comparable(resource: Resource, column: str) -> sql.Composable:
    """The column, or for the natural key the expression of its index."""
    if column == resource.key:
        return sql.SQL(resource.key_sql).format(sql.Identifier(resource.name))
    return sql.Identifier(resource.name, column)


def _condition(resource: Resource, name: str, value: Any) -> Condition:
    """Raises ValueError with the text for the client."""
    filter = filters(resource).get(name)
    if filter is None:
        raise ValueError(f"is not a filter of {resource.name}; the filters are {', '.join(filters(resource))}")
    if filter.test in ("from", "before"):
        return Condition(filter, _value(resource, filter.column, value))
    items = _items(value)
    values = [_value(resource, filter.column, item) for item in items]
    if filter.column == resource.key:
        values = [resource.key_of(value) for value in values]
    return Condition(filter, values)


def _items(value: Any) -> list[Any]:
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    # an empty value in a text is most likely a mistake; a list can contain the empty text
    if not items or (isinstance(value, str) and "" in items):
        raise ValueError("must not have an empty value")
    if len(items) > VALUES_MAX:
        raise ValueError(f"must not have more than {VALUES_MAX} values")
    return items


def _value(resource: Resource, column: str, value: Any) -> Any:
    """`value` converted to the type of the column. Raises ValueError."""
    hint = _hints(resource)[column]
    if isinstance(value, str) and hint is bool:
        value = {"true": True, "false": False}.get(value.lower())
    try:
        if value is None or (isinstance(value, str) and "\0" in value):
            raise msgspec.ValidationError
        converted = msgspec.convert(value, hint)
    except msgspec.ValidationError:
        raise ValueError(_expected(hint)) from None
    return _utc(converted) if isinstance(converted, datetime) else converted


def _utc(time: datetime) -> datetime:
    """PostgreSQL refuses literals with offsets of 16 hours and more, so all times are converted. Raises ValueError."""
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time that is within the years 1 to 9999 in UTC") from None


@cache
def _hints(resource: Resource) -> Mapping[str, Any]:
    """The type of each column's values; for an array, of its elements."""
    hints = get_type_hints(resource.record, include_extras=True)
    types = dict(zip(resource.columns, resource.column_types, strict=True))
    return {column: str if types[column] == "text[]" else hint for column, hint in hints.items()}


def _expected(hint: Any) -> str:
    description = validation.expected(hint)
    return "must be text without the character U+0000" if description in (None, "must be text") else description


def _invalid_fields(resource: Resource, fields: Sequence[str] | None) -> Iterator[InvalidParameter]:
    if fields is None:
        return
    if not fields:
        yield InvalidParameter("fields", "must name a field")
    if len(fields) > len(resource.columns):
        yield InvalidParameter("fields", f"must not name more than {len(resource.columns)} fields")
        return
    for field in dict.fromkeys(fields):
        if field not in resource.columns:
            yield InvalidParameter(
                "fields", f"must not have {field!r}; {resource.name} have {', '.join(resource.columns)}"
            )
        elif fields.count(field) > 1:
            yield InvalidParameter("fields", f"must not have {field} twice")
