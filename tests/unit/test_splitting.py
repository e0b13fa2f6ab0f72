"""The splitter: which bytes are records, on which lines they are, and where the chunks end."""

import asyncio
import json
import re
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.imports.fair_splitting import FairSplitter
from api.imports.splitting import FileSplitter, Unreadable, sniff
from api.imports.splitting.chunk_builder import ChunkBuilder

LIMITS: dict[str, Any] = {"batch_size": 1000, "chunk_max_bytes": 1 << 20, "record_max_bytes": 1 << 16}
RECORD_MAX = LIMITS["record_max_bytes"]


def cut(form, data, *, sizes=(), **limits):
    """The splitter and its chunks, with the data sent in blocks of `sizes` and a last block with the rest."""
    cutting = FileSplitter(format=form, **(LIMITS | limits))
    chunks = []
    position = 0
    for size in sizes:
        chunks += cutting.feed(data[position : position + size])
        position += size
    chunks += cutting.feed(data[position:])
    return cutting, chunks + cutting.finish()


def records(form, chunks):
    """Each record's line and its bytes, without the separator."""
    end = re.compile(rb",\n\Z" if form == "json" else rb"\r?\n\Z")
    return [
        (chunk.line(index), end.sub(b"", record)) for chunk in chunks for index, record in enumerate(chunk.slices())
    ]


def read(form, data, **how):
    return records(form, cut(form, data, **how)[1])


def outcome(form, data, sizes, limits):
    """All results of a splitter, to compare two of them."""
    try:
        cutting, chunks = cut(form, data, sizes=sizes, **limits)
    except Unreadable as error:
        return error.message, error.line
    return chunks, cutting.record_count, cutting.header, cutting.columns


# few letters, so that quotes, line ends and brackets are often adjacent
CSV = st.lists(st.sampled_from([b'"', b'""', b",", b"\n", b"\r\n", b"a", b"bb ", b" ", b"\0"])).map(b"".join)
SOUND_CELLS = st.sampled_from([b"", b"x", b'"x"', b'"a\nb"', b'"a\r\n\n"', b'"a ""q"" b"', b'"",""', b'5" pipe'])
SOUND_CSV = st.lists(
    st.tuples(st.lists(SOUND_CELLS, min_size=1, max_size=3).map(b",".join), st.sampled_from([b"\n", b"\r\n", b"\n \n"]))
).map(lambda rows: b"".join(row + end for row, end in rows))
JSON_PARTS = [b"{", b"}", b"[", b"]", b",", b'"', b"\\", b'{"a":[1,"}"]}', b'{"b":"\\"]"}', b'"s"', b"12", b"\n", b" "]
ELEMENTS = st.recursive(
    st.none() | st.integers() | st.text(alphabet='"\\[]{},x\n é', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='"\\]}x', max_size=3), inner),
    max_leaves=8,
)
ARRAYS = st.lists(ELEMENTS, max_size=6).flatmap(
    lambda values: st.sampled_from([None, 1]).map(lambda indent: json.dumps(values, indent=indent).encode())
)
FILES = st.one_of(
    st.tuples(st.just("csv"), (CSV | SOUND_CSV).map(lambda rows: b"id,b\n" + rows)),
    st.tuples(st.just("csv"), CSV),
    st.tuples(st.just("ndjson"), CSV),
    st.tuples(st.just("json"), st.lists(st.sampled_from(JSON_PARTS)).map(lambda parts: b"[" + b"".join(parts))),
    st.tuples(st.just("json"), ARRAYS),
)
SMALL_LIMITS = st.fixed_dictionaries(
    {"batch_size": st.integers(1, 4), "chunk_max_bytes": st.integers(1, 40), "record_max_bytes": st.integers(4, 30)}
)


@given(file=FILES, bom=st.booleans(), sizes=st.lists(st.integers(0, 9)), limits=SMALL_LIMITS)
def test_chunks_do_not_depend_on_the_blocks(file, bom, sizes, limits):
    """The chunks of a file are the same for all block sizes, down to single bytes."""
    form, data = file
    data = b"\xef\xbb\xbf" * bom + data
    whole = outcome(form, data, (), limits)
    assert outcome(form, data, sizes, limits) == whole
    assert outcome(form, data, [1] * len(data), limits) == whole


@given(file=FILES, limits=SMALL_LIMITS)
def test_chunks_keep_their_limits_and_are_consecutive(file, limits):
    """A chunk has at most `batch_size` records, and exceeds `chunk_max_bytes` only with a single record."""
    try:
        cutting, chunks = cut(*file, **limits)
    except Unreadable:
        return
    due = 1
    for chunk in chunks:
        assert chunk.first_record == due
        assert 1 <= chunk.records <= limits["batch_size"]
        assert chunk.records == 1 or len(chunk.data) <= limits["chunk_max_bytes"]
        assert len(list(chunk.slices())) == chunk.records
        due += chunk.records
    assert cutting.record_count == due - 1


def reference_record(data, start, limit):
    """The end of the CSV record at `start`, found character by character."""
    line_end = data.index(b"\n", start) + 1
    state = "start"
    for position in range(start, min(len(data), start + limit + 1)):
        char = data[position : position + 1]
        if state == "quoted":
            state = "quote" if char == b'"' else "quoted"
        elif char == b"\n" and state != "return":
            return position + 1
        elif state == "return":
            return position + 1 if char == b"\n" else line_end
        elif char == b",":
            state = "start"
        elif char == b'"':
            if state == "plain":
                return line_end
            state = "quoted"
        elif state == "quote":
            if char != b"\r":
                return line_end
            state = "return"
        else:
            state = "plain"
    return line_end


def reference(data, limit):
    data = data if data.endswith(b"\n") or not data else data + b"\n"
    found, position = [], 0
    while position < len(data):
        line = data.count(b"\n", 0, position) + 1
        line_end = data.index(b"\n", position) + 1
        if line_end - 1 - position > limit:
            kept = data[position : position + limit + 1]
            found.append((line, re.sub(rb"\r\Z", b" ", kept) + b"\n"))
            position = line_end
        elif not data[position:line_end].strip(b" \t\r\n"):
            position = line_end
        else:
            end = reference_record(data, position, limit)
            found.append((line, data[position:end]))
            position = end
    return found


@given(rows=CSV | SOUND_CSV, limit=st.integers(4, 40), sizes=st.lists(st.integers(0, 9)))
@example(rows=b'a\n"open\nb\nc\n', limit=40, sizes=[])
@example(rows=b'"a"x,"\n"\n', limit=40, sizes=[])
@example(rows=b'"aa\nb"\n"aa\n"\n', limit=5, sizes=[])
@example(rows=b"      \n     \n", limit=5, sizes=[])
@example(rows=b"aaaaa\rb\naaaa\r\n", limit=5, sizes=[])
def test_csv_is_split_as_by_a_reference_implementation(rows, limit, sizes):
    """Any mixture of quotes, line ends and blanks gives the same records as reading character by character."""
    data = b"id,b\n" + rows
    _, chunks = cut("csv", data, sizes=sizes, record_max_bytes=limit, batch_size=3)
    found = [(chunk.line(i), record) for chunk in chunks for i, record in enumerate(chunk.slices())]
    assert found == reference(data, limit)[1:]


@given(values=st.lists(ELEMENTS, max_size=8), indent=st.sampled_from([None, 0, 2]), batch_size=st.integers(1, 3))
def test_an_array_is_split_into_its_elements(values, indent, batch_size):
    """The data of each chunk in brackets is a valid array, and all of them together are the file's array."""
    _, chunks = cut("json", json.dumps(values, indent=indent).encode(), batch_size=batch_size)
    assert [element for chunk in chunks for element in json.loads(b"[" + chunk.data + b"]")] == values


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
    cutting, _ = cut("csv", b'\xef\xbb\xbf\n id ,"full\nname"\r\n1,x\r\n')
    assert cutting.header == b' id ,"full\nname"\r\n'
    assert cutting.columns == ["id", "full\nname"]
    assert read("csv", b'a,"b\nc"\n1,2\n') == [(3, b"1,2")]
    assert cut("csv", b"")[0].header is None


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
        cut("csv", data)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b'{"a":1}\n{"a":2}', [(1, b'{"a":1}'), (2, b'{"a":2}')]),
        (b'\xef\xbb\xbf{"a":1}\r\n\r\n{"a":2}\r\n', [(1, b'{"a":1}'), (3, b'{"a":2}')]),
        (b'{"a":"\n"}\n', [(1, b'{"a":"'), (2, b'"}')]),
    ],
)
def test_ndjson(data, expected):
    """Each line that is not blank is a record, valid or not."""
    assert read("ndjson", data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b" [ ] \n", []),
        (b'\xef\xbb\xbf[{"a":1},{"a":2}]', [(1, b'{"a":1}'), (1, b'{"a":2}')]),
        (b'[\r\n  {"a":1},\r\n\r\n  {\n"a":2}\n, 3]', [(2, b'{"a":1}'), (4, b'{\n"a":2}'), (6, b"3")]),
        (b'[{"a":{"b":[1,{"c":[]}]}},[[]]]', [(1, b'{"a":{"b":[1,{"c":[]}]}}'), (1, b"[[]]")]),
        (rb'[{"a":"]}\"[{\\"},"\"]"]', [(1, rb'{"a":"]}\"[{\\"}'), (1, rb'"\"]"')]),
        (b'[{"a" 1},nul,-,{:}]', [(1, b'{"a" 1}'), (1, b"nul"), (1, b"-"), (1, b"{:}")]),
    ],
)
def test_json(data, expected):
    """An element is the text between two commas of the array, without the white space around it, valid or not."""
    assert read("json", data) == expected
    assert read("json", data, batch_size=1) == expected


@pytest.mark.parametrize(
    ("data", "message", "line"),
    [
        (b'\n{"a":1}', "not a JSON array", 2),
        (b"id,b\n1,x\n", "not a JSON array", 1),
        (b"[1,\n]", "element is missing", 2),
        (b"[,1]", "element is missing", 1),
        (b"[1\n2]", "comma is missing", 2),
        (b'[{"a":1}{"a":2}]', "comma is missing", 1),
        (b'[{"a":[1,\n2}]', "does not match", 2),
        (b"[{\n[1,\n2}", "does not match", 3),
        (b"[}", "element is missing", 1),
        (b"[1]\n2", "after the end", 2),
        (b"[1]]", "after the end", 1),
        (b'[{"a":1},\n', "not closed", 2),
        (b'[{"a":\n"1', "not closed", 2),
        (b"[1\n", "not closed", 2),
        (b"[", "not closed", 1),
    ],
)
def test_an_unreadable_array(data, message, line):
    """An array that is truncated or whose commas and brackets are wrong is rejected as a whole, with the line."""
    with pytest.raises(Unreadable, match=message) as caught:
        cut("json", data)
    assert caught.value.line == line


def test_deep_nesting_is_one_record():
    """Brackets are matched to any depth; beyond the size of a record they are only counted."""
    deep = b"[" * 100_000 + b"]" * 100_000
    assert read("json", b"[%b,7]" % deep, record_max_bytes=1 << 20, batch_size=1) == [(1, deep), (1, b"7")]
    assert read("json", b"[%b,7]" % deep, record_max_bytes=1000, batch_size=1) == [(1, deep[:1001]), (1, b"7")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "before", "long", "after", "good"),
    [
        ("csv", b"id,b\n1,x\n", b"2," + b"y" * 2_000_000, b"\n", b"3,z"),
        ("csv", b"id,b\n1,x\n", b'2,"' + b'y""' * 700_000 + b'"', b"\n", b"3,z"),
        ("csv", b"id,b\n1,x\n", b" " * 2_000_000, b"\n", b"3,z"),
        ("ndjson", b"\n1\n", b'{"a":"' + b"y" * 2_000_000 + b'"}', b"\n", b"3"),
        ("json", b"[\n1,\n", b'{"a":"' + b"y" * 2_000_000 + b'"}', b",\n", b"3"),
        ("json", b"[\n1,\n", b"[" + b"[1]," * 500_000 + b"2]", b",\n", b"3"),
        ("json", b"[\n1,\n", b"1" * 2_000_000, b",\n", b"3"),
    ],
)
@pytest.mark.parametrize("block_bytes", [1 << 16, 1 << 30])
def test_of_a_record_too_long_only_the_first_bytes_are_kept(form, before, long, after, good, block_bytes):
    """It remains a record, one byte longer than allowed, and the next record is read."""
    end = b"]" if form == "json" else b""
    data = before + long + after + good + end
    _, chunks = cut(form, data, sizes=[block_bytes] * (len(data) // block_bytes), batch_size=1)
    first, kept, last = records(form, chunks)
    assert first[0] == 2
    assert kept == (3, long[: RECORD_MAX + 1])
    assert last == (4, good)


def test_a_quote_that_is_not_closed_in_time_affects_one_record():
    """Past `record_max_bytes` the record is only its first line, and the text behind it is split as if the quote were closed."""
    rows = b"".join(b"%d,x\n" % number for number in range(50_000))
    found = read("csv", b'id,b\n0,"open\n' + rows, sizes=[100_000] * 4)
    assert found[0] == (2, b'0,"open')
    assert found[1:] == [(number + 3, b"%d,x" % number) for number in range(50_000)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_plain_chunk_needs_no_index(end):
    """If each record is one line and there are no blank lines, `starts` and `lines` are None; chunks are filled to the limit."""
    rows = b"".join(b'%d,"x, %d"%b' % (number, number, end) for number in range(2500))
    _, chunks = cut("csv", b"id,b" + end + rows, sizes=[1000] * 20)
    numbers = [(chunk.first_record, chunk.first_line, chunk.records) for chunk in chunks]
    assert numbers == [
        (1, 2, 1000),
        (1001, 1002, 1000),
        (2001, 2002, 500),
    ]
    assert all(chunk.starts is None and chunk.lines is None for chunk in chunks)
    assert b"".join(chunk.data for chunk in chunks) == rows


def test_a_chunk_ends_before_it_is_too_large():
    """A record is not added if the data would exceed `chunk_max_bytes`, with the separators of an array."""
    for limit in (8, 9):
        assert [c.data for c in cut("ndjson", b"123\n567\n9\n", chunk_max_bytes=limit)[1]] == [b"123\n567\n", b"9\n"]
    assert [c.data for c in cut("json", b"[123,567,9]", chunk_max_bytes=8)[1]] == [b"123,\n567", b"9"]


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("csv", b'id\n"' + b'"' * 5_000_000),
        ("csv", b'id\n"' + b"\n" * 2_500_000 + b'""' * 1_250_000),
        ("csv", b"id\n" + b'"open\n' * 20_000 + b"x" * 5_000_000),
        ("csv", b'id\n"x\n' + b"y,y\n" * 500_000 + b'"x\n' + b"z" * 2_500_000),
        ("ndjson", b'"' * 5_000_000),
        ("json", b'["' + b'\\"' * 2_500_000 + b'"]'),
        ("json", b"[[" + b'{"a":0,"b":[' * 30_000 + b"1" * 4_500_000 + b"]}" * 30_000 + b"]]"),
    ],
)
def test_a_large_record_in_small_blocks_is_read_once(form, data):
    """Five megabytes in blocks of fifty bytes take seconds; reading them again with each block would take hours."""
    limits = {"record_max_bytes": 8 << 20, "chunk_max_bytes": 8 << 20}
    _, small = cut(form, data, sizes=[50] * (len(data) // 50), **limits)
    assert small == cut(form, data, **limits)[1]


@pytest.mark.parametrize("element", [b"[]", b"1", b'"a"', b"null", b"[1, [2]]", b'{"a": []}'])
def test_flat_elements_cost_the_same(element):
    """Every flat element is found by one match: the splitter calls as many functions as for empty objects."""

    def calls(data: bytes) -> int:
        count = 0

        def profile(*_) -> None:
            nonlocal count
            count += 1

        sys.setprofile(profile)
        try:
            cut("json", data)
        finally:
            sys.setprofile(None)
        return count

    few = 20
    assert calls(b"[" + b",".join([element] * 5000) + b"]") < calls(b"[" + b",".join([b"{}"] * 5000) + b"]") + few


async def test_costly_uploads_take_turns():
    """Between two blocks of costly uploads the event loop runs other tasks, however many such uploads there are."""
    turn = asyncio.Lock()
    splitters = [FileSplitter(format="json", **LIMITS) for _ in range(5)]
    uploads = [FairSplitter(splitter, turn) for splitter in splitters]
    for upload in uploads:
        await upload.feed(b"[[]" + b",[]" * 5_000)
    before = [splitter.record_count for splitter in splitters]
    tasks = [asyncio.create_task(upload.feed(b",[]" * 50_000)) for upload in uploads]
    await asyncio.sleep(0)
    progress = [splitter.record_count - then for splitter, then in zip(splitters, before, strict=True)]
    assert [0 < count < 10_000 for count in progress] == [True, False, False, False, False]
    await asyncio.gather(*tasks)
    assert [splitter.record_count for splitter in splitters] == [55_001] * 5


@pytest.mark.parametrize(
    ("first", "form"),
    [
        (b"", None),
        (b"\xef\xbb", None),
        (b"\xef\xbb\xbf \r\n\t", None),
        (b"\xef\xbb\xbf\n [", "json"),
        (b' {"a"', "ndjson"),
        (b"id,email", "csv"),
        (b"\xff\xfe", "csv"),
    ],
)
def test_sniff(first, form):
    """The first byte that is not blank determines the format; without one the format is unknown."""
    assert sniff(first) == form


def test_lines_too_far_apart_begin_a_chunk():
    """A chunk's lines are counted from its first, as 32-bit numbers; any number of blank lines may be between two records."""
    builder = ChunkBuilder(batch_size=10, max_bytes=1000)
    far = 2**31 + 5
    builder.add(b"a\n", 2)
    builder.add(b"b\n", far)
    builder.add_lines(b"c\nd\n", 2 * far)
    builder.close()
    assert [(chunk.first_line, chunk.records, chunk.lines) for chunk in builder.take()] == [
        (2, 1, None),
        (far, 1, None),
        (2 * far, 2, None),
    ]
