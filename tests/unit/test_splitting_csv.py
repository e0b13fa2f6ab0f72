"""Splitting of CSV into records: quotes, delimiters, line ends, headers."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.imports.splitting import Unreadable
from tests.support import csv_reference
from tests.support.splitting import CSV, RECORD_MAX, SOUND_CSV, read, split


@given(rows=CSV | SOUND_CSV, limit=st.integers(4, 40), sizes=st.lists(st.integers(0, 9)))
@example(rows=b'a\n"open\nb\nc\n', limit=40, sizes=[])
@example(rows=b'"a"x,"\n"\n', limit=40, sizes=[])
@example(rows=b'"aa\nb"\n"aa\n"\n', limit=5, sizes=[])
@example(rows=b"      \n     \n", limit=5, sizes=[])
@example(rows=b"aaaaa\rb\naaaa\r\n", limit=5, sizes=[])
def test_csv_is_split_as_by_a_reference_implementation(rows, limit, sizes):
    """Any mixture of quotes, line ends and blanks gives the same records as reading character by character."""
    data = b"id,b\n" + rows
    _, chunks = split("csv", data, sizes=sizes, record_max_bytes=limit, batch_size=3)
    found = [(chunk.line(i), record) for chunk in chunks for i, record in enumerate(chunk.slices())]
    assert found == csv_reference.records(data, limit)[1:]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\n \n", []),
        (b"id,b", []),
        (b"id,b\n", []),
        (b"id,b\n1,x\n2,y\n", [(2, b"1,x"), (3, b"2,y")]),
        (b"id,b\n1,x\n2,y", [(2, b"1,x"), (3, b"2,y")]),
        (b"id,b\r\n1,x\r\n2,y\r\n", [(2, b"1,x"), (3, b"2,y")]),
        (b"\xef\xbb\xbfid,b\n1,x\n", [(2, b"1,x")]),
        (b'id,b\n1,"x\ny"\n2,z\n', [(2, b'1,"x\ny"'), (4, b"2,z")]),
        (b'id,b\n1,"a ""q"" b"\n2,""\n', [(2, b'1,"a ""q"" b"'), (3, b'2,""')]),
        (b"\n\nid,b\n\n1,x\n \t\r\n2,y\n\n", [(5, b"1,x"), (7, b"2,y")]),
        (b"id,b\n1,x\0y\n\0\n", [(2, b"1,x\0y"), (3, b"\0")]),
        (b"id,b\n1,\x0b\x0c\x85\xe2\x80\xa8\n2,\xff\n", [(2, b"1,\x0b\x0c\x85\xe2\x80\xa8"), (3, b"2,\xff")]),
        (b'id,b\n1,x\n2,"open\n3,y\n4,z\n', [(2, b"1,x"), (3, b'2,"open'), (4, b"3,y"), (5, b"4,z")]),
        (b'id,b\n1,"a"b\n2,5" pipe\n3,y\n', [(2, b'1,"a"b'), (3, b'2,5" pipe'), (4, b"3,y")]),
    ],
)
def test_csv(data, expected):
    """Blank lines count as lines but not as records; only a well-formed quoted field may contain a line end."""
    assert read("csv", data) == expected


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_quote_opens_a_cell_only_after_the_delimiter(delimiter):
    """With another delimiter, the same quotes are well-formed in other positions."""
    mark = delimiter.encode()
    data = b"id%bb\n1%b%b\n2%b3\n" % (mark, mark, b'"x\ny"', mark)
    assert len(read("csv", data, delimiter=delimiter)) == 2
    other = ";" if delimiter != ";" else ","
    assert len(read("csv", data, delimiter=other)) == 3


def test_the_header_is_kept_as_it_was():
    """`header` is the line of the file, for returning rejected records; `columns` are the names in it."""
    splitter, _ = split("csv", b'\xef\xbb\xbf\n id ,"full\nname"\r\n1,x\r\n')
    assert splitter.header == b' id ,"full\nname"\r\n'
    assert splitter.columns == ["id", "full\nname"]
    assert read("csv", b'a,"b\nc"\n1,2\n') == [(3, b"1,2")]
    assert split("csv", b"")[0].header is None


@pytest.mark.parametrize(
    ("data", "message", "line"),
    [
        (b"\n\nid,,b\n1,2,3\n", "column 2 of the CSV header has no name", 3),
        (b"id,b, id\n", "the column 'id' twice", 1),
        (b'id,"b\n1,x\n2,y\n', "quote", 1),
        (b'id,b"c"\n', "quote", 1),
        (b"id,\xe9t\xe9\n1,x\n", "not UTF-8: the CSV header has the byte 0xE9", 1),
        (b"id,b\r1,x\r2,y\r", "cannot be read", 1),
        (b"x" * (RECORD_MAX + 1), "longer than", 1),
        ("id,b\n".encode("utf-16"), "not UTF-8: .* UTF-16", 1),
        ("id,b\n".encode("utf-32"), "not UTF-8: .* UTF-32", 1),
        (b"\xfe\xff", "not UTF-8: .* UTF-16", 1),
    ],
)
def test_an_unreadable_csv(data, message, line):
    """Without a valid header there are no records; the error names the fault and the line."""
    with pytest.raises(Unreadable, match=message) as caught:
        split("csv", data)
    assert caught.value.line == line


def test_a_quote_that_is_not_closed_in_time_affects_one_record():
    """Past `record_max_bytes` the record is only its first line, and the text behind it is split as if the quote were closed."""
    rows = b"".join(b"%d,x\n" % number for number in range(50_000))
    found = read("csv", b'id,b\n0,"open\n' + rows, sizes=[100_000] * 4)
    assert found[0] == (2, b'0,"open')
    assert found[1:] == [(number + 3, b"%d,x" % number) for number in range(50_000)]
