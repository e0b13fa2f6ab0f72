"""Whole CSV files, split and parsed: any bytes give the records of a reference implementation that reads each character."""

from uuid import uuid4

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.imports.splitting import FileSplitter
from db.resources.definition import Resource
from tests.support import csv_reference
from tests.support.splitting import CSV, SOUND_CSV
from workers.parsing import parse

BOM = b"\xef\xbb\xbf"


class Row(msgspec.Struct, kw_only=True):
    id: str | None = None
    a: str | None = None
    b: str | None = None


ROWS = Resource(name="rows", record=Row, new_id=uuid4, new_id_sql="gen_random_uuid()")

SOUP = st.lists(
    st.sampled_from(
        [b'"', b'""', b",", b"\n", b"\r\n", b"\r", b"a", b" ", b"\t", b"\0", BOM, "é山😀".encode(), b"\xc3", b"'"]
    )
).map(b"".join)
# most of the rows are valid, so that many of them are read at once
CELLS = st.sampled_from(
    [
        b"",
        b"x",
        b"x y",
        "é".encode(),
        b'""',
        b'"x"',
        b'"a\nb"',
        b'"a\r\n\r\nb"',
        b'"a ""q"" b"',
        b'"",""',
        b'"\r"',
        b'",,"',
    ]
)
VALID = st.tuples(CELLS, CELLS, st.sampled_from([b"\n", b"\r\n"])).map(lambda row: row[0] + b"," + row[1] + row[2])
ODD = [
    *[b"\n", b" \r\n", b"x\n", b"x,\r\r\n", b'"x",\r\r\n', b'"x","\n"\rx\n', b"\xff,x\n", b'x,5" pipe\n'],
    *[b'x"y",z\n', b'x"y\nz",b\n', b'"x"y,z\n', b'"x"y,"z\n"\n', b'"x,y\n'],
]


def expected(data: bytes, limit: int) -> list[tuple[int, object]]:
    """The line of each record, with its cells or the code of its error."""
    found: list[tuple[int, object]] = []
    for line, record in csv_reference.records(data.removeprefix(BOM), limit)[1:]:
        cells = csv_reference.cells(record, width=2, limit=limit)
        is_stored = isinstance(cells, str) or not any("\0" in (cell or "") for cell in cells)
        found.append((line, cells if is_stored else "invalid_format"))
    return found


@given(
    rows=st.lists(VALID | VALID | VALID | st.sampled_from(ODD)).map(b"".join) | SOUP | CSV | SOUND_CSV | st.binary(),
    bom=st.booleans(),
    sizes=st.lists(st.integers(0, 40)),
    batch_size=st.integers(1, 20),
    limit=st.integers(4, 60) | st.just(10_000),
)
@example(rows=b'"a\nb",c\n'.join(ODD), bom=False, sizes=[], batch_size=20, limit=10_000)
@example(rows=b'"\n,\n",x\n' * 20, bom=True, sizes=[], batch_size=7, limit=60)
@example(rows=b'"x\ny","""' + "é".encode() + b'"\n', bom=True, sizes=[1] * 20, batch_size=1, limit=60)
@pytest.mark.parametrize("times", [1, 5])
def test_a_csv_file_is_read_as_by_a_reference_implementation(rows, bom, sizes, batch_size, limit, times):
    """Quotes, line ends, byte order marks, U+0000 and bytes that are not UTF-8, cut anywhere by the blocks of the upload."""
    data = BOM * bom + b"b,a\n" + rows * times
    splitter = FileSplitter(format="csv", batch_size=batch_size, chunk_max_bytes=200, record_max_bytes=limit)
    chunks = []
    position = 0
    for size in [*sizes, len(data)]:
        chunks += splitter.feed(data[position : position + size])
        position += size
    found: list[tuple[int, object]] = []
    for chunk in [*chunks, *splitter.finish()]:
        parsed = parse(
            ROWS,
            chunk,
            format="csv",
            columns=splitter.columns,
            delimiter=",",
            ignore_unknown=False,
            record_max_bytes=limit,
        )
        found += [
            (line, [row.b, row.a] if row.id is None else row)
            for line, row in zip(parsed.lines, parsed.records, strict=True)
        ]
        found += {error.line: error.code for error in parsed.errors}.items()
    assert sorted(found, key=lambda each: each[0]) == expected(data, limit)
