"""Patterns that are matched in all records of a chunk at once: the result is that of a match in each value."""

import re
from types import SimpleNamespace
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.resources import RESOURCES
from db.resources.articles import SLUG
from db.resources.comments import COMMENT_ID
from db.resources.users import EMAIL
from workers.parsing.patterns import patterns_of, whole_patterns

UUIDS = ["cm_35bf992d-c9e9-4616-a12e-7696a6cecc1b", "35BF992D-C9E9-4616-A12E-7696A6CECC1B"]

emails = st.text("aB0.-@\n ä", max_size=12) | st.sampled_from(["a@b.org", "a@b-c.org", "a@b.org\n", "\na@b.org", ""])
slugs = st.text("a0-\nA", max_size=6)
ids = st.none() | st.sampled_from([*UUIDS, *(f"{id}\n" for id in UUIDS), "\n".join(UUIDS), "cm_", ""])


@pytest.mark.parametrize(
    ("resource", "field", "pattern", "values"),
    [("users", "email", EMAIL, emails), ("articles", "slug", SLUG, slugs), ("comments", "id", COMMENT_ID, ids)],
)
def test_the_result_is_that_of_each_value(resource, field, pattern, values):
    """Also with line ends in the values, without a value, and without a record."""

    @given(st.lists(st.none() | values.map(lambda value: SimpleNamespace(**{field: value})), max_size=8))
    def check(records):
        expected = {
            i
            for i, record in enumerate(records)
            if record and getattr(record, field) is not None and not re.search(pattern, getattr(record, field))
        }
        assert patterns_of(RESOURCES[resource]).unmatched(records) == expected

    check()


def test_no_pattern_matches_a_line_end():
    """Otherwise two values that are not valid could be matched as one."""
    hints = [get_type_hints(resource.record, include_extras=True) for resource in RESOURCES.values()]
    patterns = [pattern for fields in hints for hint in fields.values() for pattern in whole_patterns(hint)]

    @given(st.sampled_from(patterns), st.data())
    def check(pattern, data):
        value = data.draw(st.from_regex(pattern, fullmatch=True))
        for place in range(len(value)):
            for after in (value[place:], value[place + 1 :]):
                assert not re.fullmatch(pattern, f"{value[:place]}\n{after}")

    check()


def test_other_limits_stay():
    """A type without its pattern still has its length; one whose pattern does not match the whole value is unchanged."""
    users, comments = patterns_of(RESOURCES["users"]).hints, patterns_of(RESOURCES["comments"]).hints
    [limits] = users["email"].__metadata__
    assert (limits.max_length, limits.pattern) == (254, None)
    [limits] = comments["body"].__metadata__
    assert (limits.min_length, limits.pattern) == (1, r"\S")
