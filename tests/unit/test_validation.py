"""All error texts of this version of msgspec that `db.resources.validation` matches."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta

from db.resources import validation
from db.resources.definition import NOT_BLANK

# (type of the field, a wrong value, code, message)
FIELDS = [
    (Annotated[str, Meta(max_length=2)], "abc", "too_long", "3 characters, at most 2"),
    (Annotated[str, Meta(min_length=2)], "a", "too_short", "1 characters, at least 2"),
    (Annotated[str, Meta(pattern=NOT_BLANK)], " ", "too_short", "blank: nothing but white space"),
    (Annotated[str, Meta(pattern="^x$")], "y", "invalid_format", "not a valid slug"),
    (Literal["one", "two"], "three", "invalid_enum", "not one of one, two"),
    (UUID, "x", "invalid_format", "not a valid UUID"),
    (datetime, "x", "invalid_format", "not an RFC 3339 time such as 2024-01-31T12:00:00Z"),
    (
        Annotated[datetime, Meta(tz=True)],
        "2024-01-31T12:00:00",
        "invalid_format",
        "a time needs a time zone, such as Z or +02:00",
    ),
    (bool, "true", "invalid_type", "expected true or false, got text"),
    (str, 1, "invalid_type", "expected text, got an integer"),
    (str | None, [], "invalid_type", "expected text, got a list"),
    (list[str], {}, "invalid_type", "expected a list, got an object"),
]
# (type of the parameter, a wrong value, message)
PARAMETERS = [
    (int, "many", "must be a whole number"),
    (Annotated[int, Meta(ge=1)], "0", "must be a whole number >= 1"),
    (Annotated[int, Meta(le=5)] | None, "6", "must be a whole number <= 5"),
    (Annotated[float, Meta(le=1)], "1.5", "must be a number <= 1.0"),
    (bool, "perhaps", "must be true or false"),
    (UUID | None, "x", "must be a UUID"),
    (Literal["a", "b"] | None, "null", "must be one of: a, b"),
    (Annotated[str, Meta(min_length=1)], "", "must be text of length >= 1"),
    (Annotated[str, Meta(max_length=2)] | None, "abc", "must be text of length <= 2"),
    (Annotated[str, Meta(pattern=r"^[^\x00]*$")], "\0", "must be text without the character U+0000"),
    (list[str] | None, 1, "must be a list"),
]


@pytest.mark.parametrize(("hint", "value", "code", "message"), FIELDS)
def test_errors_of_fields(hint, value, code, message):
    """An error of a field of a record is converted to a code and a message."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert([value], list[hint])
    found = validation.field_problem(str(caught.value), value, allowed=("one", "two"), title="slug")
    assert found == (code, message)


@pytest.mark.parametrize(("hint", "value", "message"), PARAMETERS)
def test_errors_of_parameters(hint, value, message):
    """An error of a parameter names the expected type, without names of Python's types."""
    assert validation.parameter_error(value, hint) == message
