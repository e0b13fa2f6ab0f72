"""Parsing of a chunk: its valid records, and every error of the others with its line."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from db.imports.payload import Chunk
from db.resources import RESOURCES
from db.resources.definition import Resource
from tests.support.parsing import (
    ANN,
    ID,
    MALFORMED_CSV,
    MALFORMED_JSON,
    NOTE,
    POST,
    Errors,
    cell_of,
    chunk,
    errors_of,
    read,
    read_csv,
    read_json,
    rows,
)

USERS, ARTICLES, COMMENTS = RESOURCES["users"], RESOURCES["articles"], RESOURCES["comments"]

BAD_VALUES: list[tuple[Resource, dict, Errors]] = [
    (USERS, ANN | {"email": "foo@bar"}, [("email", "invalid_format")]),
    (USERS, ANN | {"email": "a" * 250 + "@b.org"}, [("email", "too_long")]),
    (USERS, ANN | {"email": "ann\n@example.org"}, [("email", "invalid_format")]),
    (USERS, ANN | {"email": None}, [("email", "missing_required")]),
    (USERS, ANN | {"name": ""}, [("name", "too_short")]),
    (USERS, ANN | {"name": "é" * 256}, [("name", "too_long")]),
    (USERS, ANN | {"name": "a\0b"}, [("name", "invalid_format")]),
    (USERS, ANN | {"role": "manager"}, [("role", "invalid_enum")]),
    (USERS, ANN | {"role": "Admin"}, [("role", "invalid_enum")]),
    (USERS, ANN | {"active": "1"}, [("active", "invalid_type")]),
    (USERS, ANN | {"active": "yes"}, [("active", "invalid_type")]),
    (USERS, ANN | {"id": "123"}, [("id", "invalid_format")]),
    (USERS, ANN | {"created_at": "1700000000"}, [("created_at", "invalid_format")]),
    (USERS, ANN | {"created_at": "2024-01-01T00:00:00"}, [("created_at", "invalid_format")]),
    (USERS, ANN | {"created_at": "2024-02-30T00:00:00Z"}, [("created_at", "invalid_format")]),
    (USERS, ANN | {"created_at": "0001-01-01T00:00:00+01:00"}, [("created_at", "invalid_format")]),
    (USERS, ANN | {"created_at": "9999-12-31T23:59:59-01:00"}, [("created_at", "invalid_format")]),
    (ARTICLES, POST | {"slug": "Not a slug"}, [("slug", "invalid_format")]),
    (ARTICLES, POST | {"slug": "a-b\n"}, [("slug", "invalid_format")]),
    (ARTICLES, POST | {"tags": ["a", 1]}, [("tags", "invalid_type")]),
    (ARTICLES, POST | {"tags": ["a", "\0"]}, [("tags", "invalid_format")]),
    (ARTICLES, POST | {"tags": "a"}, [("tags", "invalid_type")]),
    (
        ARTICLES,
        POST | {"status": "draft", "published_at": "2024-01-01T00:00:00Z"},
        [("published_at", "conflicting_fields")],
    ),
    (COMMENTS, NOTE | {"id": "cm_1"}, [("id", "invalid_format")]),
    (COMMENTS, NOTE | {"body": " \t "}, [("body", "too_short")]),
    (COMMENTS, NOTE | {"body": ""}, [("body", "too_short")]),
    (COMMENTS, NOTE | {"body": "word " * 501}, [("body", "too_many_words")]),
    (COMMENTS, NOTE | {"user_id": "nobody"}, [("user_id", "invalid_format")]),
]


@pytest.mark.parametrize(("resource", "record", "expected"), BAD_VALUES)
def test_a_bad_value_is_reported_by_field_and_code_in_every_format(resource, record, expected):
    """One bad field is one error with its code, in a CSV cell, a line of NDJSON or an element of an array."""
    line = json.dumps(record).encode()
    assert errors_of(read_json(resource, line)) == expected
    assert errors_of(read(resource, Chunk(1, 1, 1, line, [0], [0]), "json")) == expected
    cells = ",".join(map(cell_of, record.values())).encode()
    assert errors_of(read_csv(resource, ",".join(record), cells)) == expected


@pytest.mark.parametrize(("bad", "expected"), MALFORMED_CSV)
def test_a_malformed_csv_record_is_one_record(bad, expected):
    """The records before and after a malformed CSV record are read, and its error has its line."""
    good = b"bob@example.org,Bob,reader,FALSE"
    parsed = read_csv(USERS, ",".join(ANN), good, bad, good)
    assert errors_of(parsed) == expected
    assert {(error.record, error.line) for error in parsed.errors} == {(2, 3)}
    assert (parsed.numbers, parsed.lines) == ([1, 3], [2, 4])


@pytest.mark.parametrize("fields", [None, {"another name": "id"}])
@pytest.mark.parametrize(("bad", "expected"), MALFORMED_JSON)
def test_a_malformed_json_record_is_one_record(bad, expected, fields):
    """The same for a line of NDJSON and for an element of an array, with and without renamed keys."""
    good = json.dumps(ANN).encode()
    for parsed in (
        read_json(USERS, good, bad, good, fields=fields),
        read(USERS, Chunk(1, 2, 3, b",\n".join((good, bad, good))), "json", fields=fields),
    ):
        assert errors_of(parsed) == expected
        assert {(error.record, error.line) for error in parsed.errors} == {(2, 3)}
        assert (parsed.numbers, parsed.lines) == ([1, 3], [2, 4])


@pytest.mark.parametrize(("resource", "record", "expected"), BAD_VALUES)
def test_keys_with_other_names_are_read_as_their_fields(resource, record, expected):
    """The errors are the same as for objects whose keys are the names of fields."""
    fields = {f"the {name}": name for name in record} | {"left out": None}
    renamed = {f"the {name}": value for name, value in record.items()} | {"left out": [{}]}
    line = json.dumps(renamed).encode() + b"\n"
    for form, data in (("ndjson", line * 2), ("json", line[:-1] + b",\n" + line[:-1])):
        parsed = read(resource, Chunk(1, 1, 2, data), form, fields=fields)
        assert errors_of(parsed) == expected * 2


def test_all_errors_of_a_record_are_reported_in_the_order_of_its_fields():
    """Bad fields, broken rules and unknown fields are reported together, with the record's id and key as they were sent."""
    article = POST | {"id": "x", "slug": "Bad Slug", "status": "draft", "published_at": "2024-01-01T00:00:00Z", "zz": 1}
    del article["title"]
    parsed = read_json(ARTICLES, json.dumps(article).encode())
    assert errors_of(parsed) == [
        ("id", "invalid_format"),
        ("slug", "invalid_format"),
        ("title", "missing_required"),
        ("published_at", "conflicting_fields"),
        ("zz", "unknown_field"),
    ]
    assert {(error.id, error.key) for error in parsed.errors} == {("x", "Bad Slug")}
    assert [error.value for error in parsed.errors] == ["x", "Bad Slug", None, "2024-01-01T00:00:00Z", "1"]


def test_messages_name_the_expected_values():
    """A message names the possible roles, the numbers of cells, the expected format."""
    parsed = read_csv(USERS, ",".join(ANN), b"foo@bar,Ann,manager,true", b"a,b", b"a@b.org,Ann,admin,2")
    assert [error.message for error in parsed.errors] == [
        "not a valid e-mail address",
        "not one of admin, author, reader",
        "2 cells, but the header has 4",
        "expected true or false, got text",
    ]


def test_a_long_value_is_truncated_and_a_nul_replaced():
    """An error can be stored and is small, whatever was sent."""
    (error,) = read_json(USERS, json.dumps(ANN | {"name": "\0" + "x" * 300}).encode()).errors
    assert error.value == "\ufffd" + "x" * 199


def test_references_of_a_refused_record_are_possible_errors():
    """A rejected record may also have missing parents: each reference that can be read is returned as a possible error."""
    parsed = read_json(COMMENTS, json.dumps(NOTE | {"id": "bad", "user_id": "bad"}).encode())
    assert errors_of(parsed) == [("id", "invalid_format"), ("user_id", "invalid_format")]
    (suspect,) = parsed.suspects
    assert (suspect.field, suspect.code, suspect.value) == ("article_id", "foreign_key_not_found", ID)
    assert (suspect.message, suspect.id, suspect.record) == ("no article has this id", "bad", 1)
    assert read_json(COMMENTS, json.dumps(NOTE).encode()).suspects == []


def test_valid_records_have_the_order_of_the_table():
    """Columns may have any order and optional ones may be absent; the values are in the order of the resource."""
    expected = (None, "ann@example.org", "Ann", "admin", True, None, datetime(2024, 1, 1, 0, 30, tzinfo=UTC))
    header, line = "updated_at,active,role,name,email", b"2024-01-01T01:30:00+01:00,tRue,admin,Ann,ann@example.org"
    assert rows(read_csv(USERS, header, line)) == [expected]
    assert rows(read_csv(USERS, header, line + b"\r", line.replace(b"Ann", b'"Ann"') + b"\r")) == [expected] * 2
    assert rows(read_csv(USERS, header, line.replace(b",", b"\t"), delimiter="\t")) == [expected]
    record = json.dumps(ANN | {"updated_at": "2024-01-01T00:30:00Z"}).encode()
    assert rows(read_json(USERS, record, record + b"\r", b" " + record)) == [expected] * 3
    assert rows(read(USERS, Chunk(1, 1, 2, record + b",\n" + record), "json")) == [expected] * 2


def test_an_empty_cell_is_null_and_quotes_make_it_text():
    """In a list column the cell is a JSON array; an unquoted empty cell is null, and `[]` an empty list."""
    parsed = read_csv(
        ARTICLES,
        ",".join((*POST, "tags")),
        f'a,T," ",{ID},draft,'.encode(),
        f'b,T,B,{ID},draft,"[""x"", ""y,""]"'.encode(),
        f"c,T,B,{ID},draft,[]".encode(),
        f'd,T,"",{ID},draft,'.encode(),
    )
    assert [(record.body, record.tags) for record in parsed.records] == [(" ", None), ("B", ["x", "y,"]), ("B", [])]
    assert errors_of(parsed) == [("body", "too_short")]


def test_unknown_fields_are_refused_or_ignored_and_annotations_always_ignored():
    """The columns that an annotated file adds are ignored; any other is an error unless the job ignores unknown fields."""
    line, header = b"ann@example.org,Ann,admin,true,7,8", ",".join(ANN)
    assert errors_of(read_csv(USERS, f"{header},_line,_errors", line)) == []
    assert errors_of(read_csv(USERS, f"{header},_line,shoe", line)) == [("shoe", "unknown_field")]
    assert len(read_csv(USERS, f"{header},_line,shoe", line, ignore_unknown=True).records) == 1
    record = json.dumps(ANN | {"_line": 7, "_errors": []}).encode()
    assert rows(read_json(USERS, record)) == rows(read_json(USERS, json.dumps(ANN).encode()))
    record = json.dumps(ANN | {"shoe": {"size": 43}}).encode()
    assert errors_of(read_json(USERS, record)) == [("shoe", "unknown_field")]
    assert len(read_json(USERS, record, ignore_unknown=True).records) == 1


def test_of_a_repeated_key_the_last_one_counts():
    """Also if the first one is invalid."""
    record = json.dumps(ANN)[1:].encode()
    assert read_json(USERS, b'{"active": 3, ' + record).records[0].active is True


def test_two_records_on_a_line_and_a_record_on_two_lines_are_errors():
    """NDJSON is read line by line: a record on two lines and two records on one line are errors, though their number matches."""
    one = json.dumps(ANN)
    parsed = read_json(USERS, one[:5].encode(), one[5:].encode(), (one + one).encode())
    assert errors_of(parsed) == [(None, "invalid_json")] * 3


def test_lines_are_correct_after_records_of_many_lines():
    """A record's line is where it starts, however many newlines the quoted cells above it hold."""
    good, bad = b'a%d@example.org,"x\ny",admin,true\n', b'a@example.org,"x\r\n\r\n",boss,true\n'
    parsed = read(USERS, chunk([good % 1, bad, good % 2, b'a",b\n', good % 3], first_line=11), "csv", columns=list(ANN))
    assert (parsed.numbers, parsed.lines) == ([1, 3, 5], [11, 16, 19])
    assert [(error.record, error.line, error.code) for error in parsed.errors] == [
        (2, 13, "invalid_enum"),
        (4, 18, "malformed_row"),
    ]


def test_quotes_of_two_records_do_not_make_them_one():
    """Each record is read by itself: a quote that is not closed ends with its record, also if the next one has its like."""
    parsed = read_csv(USERS, ",".join(ANN), b'ann@example.org,"Ann,admin,true', b'bob@example.org,Bob",admin,true')
    assert errors_of(parsed) == [(None, "malformed_row")] * 2


def test_nesting_of_any_depth_is_an_error_of_the_record():
    """Also where msgspec can read it but a later step cannot; that depth depends on the version of Python."""
    for depth in (*range(10, 1100, 15), 4000, 11_000, 100_000):
        value = b"[" * depth + b"]" * depth
        for field in (b"name", b"x"):
            deep = b'{"%b": %b}' % (field, value)
            parsed = read_json(USERS, deep, json.dumps(ANN).encode(), record_max_bytes=1_000_000)
            assert parsed.numbers == [2]
            assert {error.record for error in parsed.errors} == {1}


def test_integers_of_any_length_are_an_error_of_the_record():
    """Python refuses to write integers of thousands of digits as well as to read them."""
    for digits in (20, 4299, 4300, 4301, 9000):
        parsed = read_json(USERS, json.dumps(ANN)[:-1].encode() + b', "name": %b}' % (b"9" * digits))
        assert errors_of(parsed) == [("name", "invalid_type")]


def test_a_long_row_of_quotes_is_read_in_one_pass():
    """A malformed record of a megabyte of quotes is rejected in linear time; a tokenizer that backtracks would take hours."""
    parsed = read_csv(USERS, ",".join(ANN), b'"' * 1_000_001, record_max_bytes=2_000_000)
    assert errors_of(parsed) == [(None, "malformed_row")]


def test_the_errors_of_one_record_are_limited():
    """Unknown fields beyond the limit become one error that counts them."""
    fields = {f"f{n}": n for n in range(500)}
    line = json.dumps({"email": "a@b.org", "name": "A", "role": "none", "active": True} | fields).encode()
    parsed = read_json(USERS, line, record_errors_max=100)
    assert [error.code for error in parsed.errors] == ["invalid_enum", *["unknown_field"] * 99, "too_many_errors"]
    assert parsed.errors[-1].message == "and 401 more unknown fields"


@pytest.mark.parametrize(
    ("tags", "code"), [(["x" * 256], "too_long"), (["x"] * 1001, "too_many"), (["x" * 255] * 1000, None)]
)
def test_tags_have_limits(tags, code):
    """A tag has at most 255 characters, and an article at most 1,000 tags."""
    line = json.dumps(
        {"slug": "a", "title": "A", "body": "b", "author_id": str(UUID(int=1)), "status": "draft", "tags": tags}
    ).encode()
    parsed = read_json(ARTICLES, line, record_max_bytes=1 << 20)
    assert [error.code for error in parsed.errors] == ([code] if code else [])
