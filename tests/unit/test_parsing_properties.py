"""Parsing of arbitrary texts, bytes and values: nothing raises, and each record is parsed as if it were alone."""

import json
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.resources import RESOURCES
from tests.support.parsing import (
    ANN,
    ID,
    MALFORMED_CSV,
    MALFORMED_JSON,
    NOTE,
    POST,
    cell_of,
    chunk,
    read,
    read_json,
    rows,
)

USERS, ARTICLES, COMMENTS = RESOURCES["users"], RESOURCES["articles"], RESOURCES["comments"]

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, texts, st.none() | st.lists(texts))))
def test_csv_text_is_read_back_as_it_was_written(values):
    """Quotes, newlines, lone carriage returns, white space and any Unicode survive; a null list stays null."""
    lines = [
        ",".join(map(cell_of, (f"s-{i}", title, body, ID, "draft", tags))).encode() + b"\n"
        for i, (title, body, tags) in enumerate(values)
    ]
    parsed = read(ARTICLES, chunk(lines), "csv", columns=[*POST, "tags"])
    assert parsed.errors == []
    assert [(article.title, article.body, article.tags) for article in parsed.records] == values
    assert all(article.author_id == UUID(ID) for article in parsed.records)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30) | st.text('"{}[],:\r1 \\u0', max_size=20).map(str.encode)))
def test_no_bytes_make_it_raise(records):
    """Whatever a chunk contains, each of its records is either valid or has an error."""
    lines = [record.replace(b"\n", b"") + b"\n" for record in records]
    for form, columns in (("csv", list(ANN)), ("ndjson", None), ("json", None)):
        parsed = read(USERS, chunk(lines), form, columns=columns)
        assert {*parsed.numbers, *(error.record for error in parsed.errors)} == set(range(1, len(lines) + 1))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(ID),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NOTE, "id", "x"]), inner),
    max_leaves=10,
)


@pytest.mark.slow
@settings(deadline=None)
@given(values)
def test_no_json_value_makes_it_raise(value):
    """Any value is a record or errors, and every error can be stored as UTF-8 text without NUL."""
    parsed = read_json(COMMENTS, json.dumps(value).encode())
    assert len(parsed.records) == (not parsed.errors)
    error_texts = [text for error in parsed.errors for text in msgspec.structs.astuple(error) if isinstance(text, str)]
    assert "\0" not in "".join(error_texts)
    assert "".join(error_texts).encode().decode() == "".join(error_texts)


lines_of_csv = st.lists(
    st.sampled_from(
        [
            *[bad for bad, _ in MALFORMED_CSV if len(bad) < 1000],
            *[b"bob@example.org,Bob,reader,FALSE", b'"x@y.org","X\nY",admin,true', b"x@y.org,a\tb,admin,true\r"] * 4,
        ]
    )
)
lines_of_json = st.lists(
    st.sampled_from([*[bad for bad, _ in MALFORMED_JSON if len(bad) < 1000], *[json.dumps(ANN).encode()] * 12])
)


@settings(deadline=None)
@given(lines_of_csv, lines_of_json, st.booleans())
def test_a_chunk_is_the_sum_of_its_records(csv, ndjson, ignore_unknown):
    """The result for a record does not depend on the others of its chunk, so the fast and the slow path agree."""
    for form, records in (("csv", csv), ("ndjson", ndjson)):
        options = {"columns": list(ANN) if form == "csv" else None, "ignore_unknown": ignore_unknown}
        whole = chunk([record + b"\n" for record in records])
        together = read(USERS, whole, form, **options)
        apart = [
            read(USERS, chunk([record + b"\n"])._replace(first_record=i + 1, first_line=whole.line(i)), form, **options)
            for i, record in enumerate(records)
        ]
        assert rows(together) == [row for one in apart for row in rows(one)]
        for name in ("numbers", "lines", "errors"):
            assert getattr(together, name) == [item for one in apart for item in getattr(one, name)]
