"""Splitting of NDJSON and of JSON arrays into records."""

import gc
import json
import sys
from collections import Counter

import pytest
from hypothesis import example, given
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


def calls(data: bytes) -> Counter[str]:
    """The functions that are called to split this file, and how often."""
    counts = Counter[str]()

    def profile(_, event, function) -> None:
        counts[function.__qualname__ if event == "c_call" else event] += 1

    # its callbacks, such as Hypothesis has, would be counted
    gc.disable()
    sys.setprofile(profile)
    try:
        split("json", data)
    finally:
        sys.setprofile(None)
        gc.enable()
    return counts


@pytest.mark.parametrize("element", [b"[]", b"1", b'"a"', b"null", b"[1, [2]]", b'{"a": []}'])
def test_flat_elements_cost_the_same(element):
    """Every flat element is found by one match: the splitter calls as many functions as for empty objects."""

    def file(element: bytes) -> bytes:
        # its invalid objects keep msgspec from reading the elements at once
        return b"[{:}," + (element + b",") * 5000 + b"{:},{:}]"

    few = 20
    assert calls(file(element)).total() < calls(file(b"{}")).total() + few


def test_a_block_is_read_at_once_or_not():
    """Where one element keeps msgspec from reading a block, it is not tried again after each of the others."""
    assert calls(b"[{}," + b"[[[]]]," * 1000 + b"{:},{}]")["Decoder.decode"] == 1
    assert calls(b"[" + b"{}," * 1000 + b"{}]")["Pattern.match"] < 20


OBJECTS = st.lists(
    st.dictionaries(st.text(alphabet='"\\]}x', max_size=3), ELEMENTS, max_size=3).flatmap(
        lambda value: st.sampled_from([None, 1]).map(lambda indent: json.dumps(value, indent=indent).encode())
    )
    | st.sampled_from([b"{:}", b'{"a":"\n"}', b"{}", b"[{},\n{}]"]),
    min_size=1,
)


@given(
    objects=OBJECTS,
    gap=st.sampled_from([b",", b",\n", b", ", b"\r\n,\n\n"]),
    odd=st.sampled_from([b",", b" ,\n"]) | st.none(),
    sizes=st.lists(st.integers(0, 60)),
    limit=st.sampled_from([5, 1000]),
)
@example(objects=[b"{}", b'{"a":\n1}', b"{}", b"{\n}", b"{}", b"{}"], gap=b",\n", odd=None, sizes=[], limit=1000)
def test_objects_between_equal_commas(objects, gap, odd, sizes, limit):
    """As programs write them, except for one comma, or for objects that are invalid or too large: each has its bytes and line."""
    data = b"[\n"
    expected = []
    for number, element in enumerate(objects):
        data += b"" if number == 0 else gap if odd is None or number != len(objects) // 2 else odd
        expected.append((data.count(b"\n") + 1, element[: limit + 1]))
        data += element
    assert read("json", data + b"\n]", sizes=sizes, record_max_bytes=limit) == expected
