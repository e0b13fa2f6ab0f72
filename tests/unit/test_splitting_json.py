"""Splitting of NDJSON and of JSON arrays into records."""

import gc
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.imports.splitting import Unreadable
from tests.support.splitting import ELEMENTS, read, split


@given(values=st.lists(ELEMENTS, max_size=8), indent=st.sampled_from([None, 0, 2]), batch_size=st.integers(1, 3))
def test_an_array_is_split_into_its_elements(values, indent, batch_size):
    """The data of each chunk in brackets is a valid array, and all of them together are the file's array."""
    _, chunks = split("json", json.dumps(values, indent=indent).encode(), batch_size=batch_size)
    assert [element for chunk in chunks for element in json.loads(b"[" + chunk.data + b"]")] == values


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
        split("json", data)
    assert caught.value.line == line


def test_deep_nesting_is_one_record():
    """Brackets are matched to any depth; beyond the size of a record they are only counted."""
    deep = b"[" * 100_000 + b"]" * 100_000
    assert read("json", b"[%b,7]" % deep, record_max_bytes=1 << 20, batch_size=1) == [(1, deep), (1, b"7")]
    assert read("json", b"[%b,7]" % deep, record_max_bytes=1000, batch_size=1) == [(1, deep[:1001]), (1, b"7")]


@pytest.mark.parametrize("element", [b"[]", b"1", b'"a"', b"null", b"[1, [2]]", b'{"a": []}'])
def test_flat_elements_cost_the_same(element):
    """Every flat element is found by one match: the splitter calls as many functions as for empty objects."""

    def calls(data: bytes) -> int:
        count = 0

        def profile(*_) -> None:
            nonlocal count
            count += 1

        # its callbacks, such as Hypothesis has, would be counted
        gc.disable()
        sys.setprofile(profile)
        try:
            split("json", data)
        finally:
            sys.setprofile(None)
            gc.enable()
        return count

    few = 20
    assert calls(b"[" + b",".join([element] * 5000) + b"]") < calls(b"[" + b",".join([b"{}"] * 5000) + b"]") + few
