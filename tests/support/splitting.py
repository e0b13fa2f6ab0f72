"""Splitting for tests: the chunks and records of a file that is sent in blocks, and random files."""

import json
import re
from typing import Any

from hypothesis import strategies as st

from api.imports.splitting import FileSplitter

LIMITS: dict[str, Any] = {"batch_size": 1000, "chunk_max_bytes": 1 << 20, "record_max_bytes": 1 << 16}
RECORD_MAX = LIMITS["record_max_bytes"]


def split(form, data, *, sizes=(), **limits):
    """The splitter and its chunks, with the data sent in blocks of `sizes` and a last block with the rest."""
    splitter = FileSplitter(format=form, **(LIMITS | limits))
    chunks = []
    position = 0
    for size in sizes:
        chunks += splitter.feed(data[position : position + size])
        position += size
    chunks += splitter.feed(data[position:])
    return splitter, chunks + splitter.finish()


def records(form, chunks):
    """Each record's line and its bytes, without the separator."""
    end = re.compile(rb",\n\Z" if form == "json" else rb"\r?\n\Z")
    return [
        (chunk.line(index), end.sub(b"", record)) for chunk in chunks for index, record in enumerate(chunk.slices())
    ]


def read(form, data, **how):
    return records(form, split(form, data, **how)[1])


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
