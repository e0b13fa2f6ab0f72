"""Parameters from a query, a form or a JSON object."""

from typing import Literal
from uuid import UUID

import msgspec
import pytest

from api.http import parameters
from api.http.problems import Problem


class Asked(msgspec.Struct, kw_only=True):
    role: Literal["admin", "reader"] | None = None
    most: int | None = None
    share: float | None = None
    after: UUID | None = None
    fields: list[str] | None = None
    name: str | None = None


def test_the_word_null_is_a_wrong_value():
    """The text `null` is not read as a missing value: a filter or a limit would be ignored silently."""
    given = [(name, "null") for name in Asked.__struct_fields__ if name != "name"]
    with pytest.raises(Problem) as caught:
        parameters.parse(given, Asked)
    assert [fault.field for fault in caught.value.errors] == [name for name, _ in given]
    assert caught.value.errors[0].message == "must be one of: admin, reader"
    assert parameters.parse([("name", "null")], Asked).name == "null"


def test_null_itself_is_no_value():
    """JSON null selects the default of an optional parameter."""
    assert parameters.parse([(name, None) for name in Asked.__struct_fields__], Asked) == Asked()
