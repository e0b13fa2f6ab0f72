"""Splitting of files into chunks of records: the limits, and the same chunks for blocks of any size."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.imports.fair_splitting import FairSplitter
from api.imports.splitting import FileSplitter, Unreadable, sniff
from api.imports.splitting.chunk_builder import ChunkBuilder
from tests.support.splitting import ARRAYS, CSV, JSON_PARTS, LIMITS, RECORD_MAX, SOUND_CSV, records, split


def outcome(form, data, sizes, limits):
    """All results of a splitter, to compare two of them."""
    try:
        splitter, chunks = split(form, data, sizes=sizes, **limits)
    except Unreadable as error:
        return error.message, error.line
    return chunks, splitter.record_count, splitter.header, splitter.columns


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
        splitter, chunks = split(*file, **limits)
    except Unreadable:
        return
    due = 1
    for chunk in chunks:
        assert chunk.first_record == due
        assert 1 <= chunk.records <= limits["batch_size"]
        assert chunk.records == 1 or len(chunk.data) <= limits["chunk_max_bytes"]
        assert len(list(chunk.slices())) == chunk.records
        due += chunk.records
    assert splitter.record_count == due - 1


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
    _, chunks = split(form, data, sizes=[block_bytes] * (len(data) // block_bytes), batch_size=1)
    first, kept, last = records(form, chunks)
    assert first[0] == 2
    assert kept == (3, long[: RECORD_MAX + 1])
    assert last == (4, good)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_plain_chunk_needs_no_index(end):
    """If each record is one line and there are no blank lines, `starts` and `lines` are None; chunks are filled to the limit."""
    rows = b"".join(b'%d,"x, %d"%b' % (number, number, end) for number in range(2500))
    _, chunks = split("csv", b"id,b" + end + rows, sizes=[1000] * 20)
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
        assert [c.data for c in split("ndjson", b"123\n567\n9\n", chunk_max_bytes=limit)[1]] == [b"123\n567\n", b"9\n"]
    assert [c.data for c in split("json", b"[123,567,9]", chunk_max_bytes=8)[1]] == [b"123,\n567", b"9"]


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
    _, small = split(form, data, sizes=[50] * (len(data) // 50), **limits)
    assert small == split(form, data, **limits)[1]


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
