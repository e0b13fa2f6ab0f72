"""Splits a JSON array into its elements.

The end of an element is found by its strings and brackets only; whether it is valid JSON is checked by the worker. Where all
elements of a block are valid, as usual, msgspec finds them at once. Of others the flat ones are found by one match each. The
rest is scanned from bracket to bracket, and the state of the scan (the open brackets, and whether it is within a string) is
kept between blocks: no byte is scanned twice.
"""

import re
from enum import Enum, auto
from itertools import accumulate, repeat

import msgspec

from api.imports.splitting.chunk_builder import ChunkBuilder, Unreadable

_SPACE = re.compile(rb"[ \t\r\n]*+")
_COMMA = re.compile(rb"[ \t\r\n]*+,[ \t\r\n]*+")
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_PLAIN = rb'[^"{}\[\]]*+(?:%b[^"{}\[\]]*+)*+' % _STRING
_INNER = rb"(?:\{%b\}|\[%b\])" % (_PLAIN, _PLAIN)
# an element with at most one level of nested brackets, and the comma before it; a scalar ends at the byte after it
_BODY = rb"%b(?:%b%b)*+" % (_PLAIN, _INNER, _PLAIN)
_NEXT_FLAT = re.compile(
    rb'[ \t\r\n]*+,[ \t\r\n]*+(\{%b\}|\[%b\]|%b|[^ \t\r\n,"{}\[\]]++(?=[ \t\r\n,\]]))' % (_BODY, _BODY, _STRING),
    re.DOTALL,
)

# up to the next quote or the next run of opening or closing brackets, past pairs of brackets without nested ones
_TO_BRACKETS = re.compile(rb'%b(?:(")|([{\[]++)|([}\]]++))?' % _BODY, re.DOTALL)
_TO_QUOTE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+(["\\])?', re.DOTALL)
_SCALAR = re.compile(rb'[^ \t\r\n,"{}\[\]]*+')

_OPENING = re.compile(rb"[{\[]++")

# far deeper than the worker's parser accepts, which refuses only that record; each open bracket takes one byte of memory
DEPTH_MAX = 1_000_000

_CLOSING = bytes.maketrans(b"[{", b"]}")


class _Expect(Enum):
    ARRAY = auto()
    ELEMENT_OR_END = auto()
    ELEMENT = auto()
    COMMA_OR_END = auto()
    NOTHING = auto()


class _Inside(Enum):
    """What the next bytes are a part of."""

    ARRAY = auto()
    BRACKETS = auto()
    STRING = auto()
    ESCAPE = auto()
    SCALAR = auto()


class JsonArraySplitter:
    """Raises `Unreadable` if the brackets and commas around the elements are not those of an array."""

    header: bytes | None = None
    columns: list[str] | None = None

    def __init__(self, chunks: ChunkBuilder, *, record_max_bytes: int) -> None:
        self._chunks = chunks
        self._keep = record_max_bytes + 1
        self._line = 1
        self._expect = _Expect.ARRAY
        self._inside = _Inside.ARRAY
        # the element that is being read: its bytes so far, the line where it begins, and its open brackets
        self._element = bytearray()
        self._element_line = 1
        self._open = bytearray()

    @property
    def open_bytes(self) -> int:
        """The bytes of the element that is being read, and one for each of its open brackets."""
        return len(self._element) + len(self._open)

    def feed(self, block: bytes) -> None:
        position = 0
        # at most once for each block: an attempt that fails has read all of it
        is_tried = False
        while position < len(block):
            if self._inside is not _Inside.ARRAY:
                position = self._continue(block, position)
                continue
            if self._expect is _Expect.COMMA_OR_END:
                if not is_tried:
                    position, is_tried = self._add_uniform(block, position), True
                position = self._add_flat(block, position)
            space = _SPACE.match(block, position)
            start, position = position, space.end() if space else position
            self._line += block.count(b"\n", start, position)
            if position < len(block):
                position = self._between(block, position)

    def finish(self) -> None:
        if self._expect not in (_Expect.ARRAY, _Expect.NOTHING):
            raise Unreadable("the JSON array is not closed", self._line)

    def _add_uniform(self, block: bytes, position: int) -> int:
        """Adds the objects at `position` if they are valid and the text between them is the same, as programs write them.

        Returns where they end. The last one may remain.
        """
        comma = _COMMA.match(block, position)
        if not comma:
            return position
        gap = comma[0]
        end = block.rfind(b"}" + gap, comma.end()) + 1
        part = block[comma.end() : end]
        try:
            elements = _ELEMENTS.decode(b"[" + part + b"]")
        except (msgspec.DecodeError, RecursionError):
            return position
        if not elements or max(map(len, elements)) > self._keep or gap.join(elements) != part:
            return position
        line_ends, line_ends_of_gap = part.count(b"\n"), gap.count(b"\n")
        if line_ends == line_ends_of_gap * (len(elements) - 1):
            lines = [line_ends_of_gap * number for number in range(len(elements))]
        else:
            starts = [*accumulate([len(element) + len(gap) for element in elements[:-1]], initial=0)]
            lines = [*accumulate(map(part.count, repeat(b"\n"), [0, *starts], starts))]
        self._chunks.add_records(elements, lines, self._line + line_ends_of_gap)
        self._line += line_ends_of_gap + line_ends
        return end

    def _add_flat(self, block: bytes, position: int) -> int:
        """Adds the flat elements at `position`, if an element was before it. Returns where they end."""
        begin = position
        elements: list[bytes] = []
        starts: list[int] = []
        while match := _NEXT_FLAT.match(block, position):
            elements.append(match[1])
            starts.append(match.start(1))
            position = match.end()
        if elements:
            # the line ends before each element and after the one before
            line_ends = map(block.count, repeat(b"\n"), [begin, *starts], starts)
            lines = [*accumulate(line_ends)]
            self._chunks.add_records([element[: self._keep] for element in elements], lines, self._line)
            self._line += block.count(b"\n", begin, position)
        return position

    def _between(self, block: bytes, position: int) -> int:
        """Reads the byte at `position`, which is between two elements or the first of an element."""
        byte = block[position : position + 1]
        match self._expect, byte:
            case _Expect.ARRAY, b"[":
                self._expect = _Expect.ELEMENT_OR_END
            case _Expect.ARRAY, _:
                raise Unreadable("not a JSON array", self._line)
            case _Expect.NOTHING, _:
                raise Unreadable("data after the end of the JSON array", self._line)
            case _Expect.ELEMENT_OR_END | _Expect.COMMA_OR_END, b"]":
                self._expect = _Expect.NOTHING
            case _Expect.COMMA_OR_END, b",":
                self._expect = _Expect.ELEMENT
            case _Expect.COMMA_OR_END, _:
                raise Unreadable("a comma is missing between two elements of the JSON array", self._line)
            case _, b"," | b"]" | b"}":
                raise Unreadable(f"an element is missing before {byte.decode()!r} in the JSON array", self._line)
            case _:
                return self._begin(byte, position)
        return position + 1

    def _begin(self, byte: bytes, position: int) -> int:
        self._element_line = self._line
        if byte == b'"':
            self._inside = _Inside.STRING
            self._element += byte
            return position + 1
        self._inside = _Inside.BRACKETS if byte in b"{[" else _Inside.SCALAR
        return position

    def _continue(self, block: bytes, position: int) -> int:
        """Reads the element up to its end or to the end of the block."""
        start, ended = position, False
        while position < len(block) and not ended:
            before = position
            position, ended = self._step(block, position)
            self._line += block.count(b"\n", before, position)
        self._element += block[start : min(position, start + self._keep - len(self._element))]
        if ended:
            self._chunks.add(bytes(self._element), self._element_line)
            self._element.clear()
            self._inside, self._expect = _Inside.ARRAY, _Expect.COMMA_OR_END
        return position

    def _step(self, block: bytes, position: int) -> tuple[int, bool]:
        """The end of the next part of the element, and whether the element ends there."""
        if self._inside is _Inside.BRACKETS:
            return self._step_brackets(block, position)
        if self._inside is _Inside.SCALAR:
            scalar = _SCALAR.match(block, position)
            end = scalar.end() if scalar else position
            return end, end < len(block)
        if self._inside is _Inside.ESCAPE:
            self._inside = _Inside.STRING
            return position + 1, False
        match = _TO_QUOTE.match(block, position)
        if not match or not match[1]:
            return len(block), False
        if match[1] == b"\\":
            self._inside = _Inside.ESCAPE
            return match.end(), False
        self._inside = _Inside.BRACKETS
        return match.end(), not self._open

    def _step_brackets(self, block: bytes, position: int) -> tuple[int, bool]:
        # an element's first brackets are counted one by one, so that no match continues past its end
        match = _OPENING.match(block, position) if not self._open else _TO_BRACKETS.match(block, position)
        if not match:
            return len(block), False
        quote, opened, closed = (None, match[0], None) if not self._open else match.groups()
        if opened:
            if len(self._open) + len(opened) > DEPTH_MAX:
                raise Unreadable(f"nested more than {DEPTH_MAX} deep", self._line)
            self._open += opened
            return match.end(), False
        if quote:
            self._inside = _Inside.STRING
            return match.end(), False
        if not closed:
            return len(block), False
        # a closing bracket beyond those of the element is the array's
        closed = closed[: len(self._open)]
        expected = self._open[-len(closed) :][::-1].translate(_CLOSING)
        if closed != expected:
            wrong = next(byte for byte, right in zip(closed, expected, strict=True) if byte != right)
            line = self._line + block.count(b"\n", position, match.end())
            raise Unreadable(f"a bracket of the JSON array is closed by {chr(wrong)!r}, which does not match", line)
        del self._open[-len(closed) :]
        return match.start(3) + len(closed), not self._open
