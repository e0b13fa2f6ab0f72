"""Edge cases of CSV and JSON, modelled on csv-spectrum and JSONTestSuite, with the expected result byte for byte.

A case is the text of one cell or one record of an article; its outcome is the body that is read, or the code of the error.
"""

import json
from typing import NamedTuple

AUTHOR = "5864905b-ec8c-4fa6-8ba7-545d13f29b4e"
RECORD_MAX_BYTES = 1024 * 1024
BOM = b"\xef\xbb\xbf"
# short enough for formats that escape more characters
LONG = 200_000


class Valid(NamedTuple):
    """The record is valid, and this is its body."""

    body: str


class Rejected(NamedTuple):
    """The record is rejected with this code, for this field."""

    code: str
    field: str | None = None


INVALID_JSON = Rejected("invalid_json")
INVALID_ENCODING = Rejected("invalid_encoding")

# (name, the cell as in the file, its outcome)
CELLS: list[tuple[str, bytes, Valid | Rejected]] = [
    ("plain", b"x", Valid("x")),
    ("comma in quotes", b'"a, b"', Valid("a, b")),
    ("quotes around nothing special", b'"x"', Valid("x")),
    ("escaped quotes", b'"a ""b"" c"', Valid('a "b" c')),
    ("escaped quotes at both ends", b'"""b"""', Valid('"b"')),
    ("only an escaped quote", b'""""', Valid('"')),
    ("only two escaped quotes", b'""""""', Valid('""')),
    ("JSON", b'"{""type"": ""Point"", ""at"": [1.5, 2]}"', Valid('{"type": "Point", "at": [1.5, 2]}')),
    ("JSON without quotes around it", b'{"a":1}', Rejected("malformed_row")),
    ("newline", b'"a\nb"', Valid("a\nb")),
    ("newlines of CRLF", b'"a\r\nb\r\n"', Valid("a\r\nb\r\n")),
    ("nothing but newlines", b'"\n\n\r\n"', Valid("\n\n\r\n")),
    ("quotes and newlines", b'"""a""\n""b"",\r\n"""', Valid('"a"\n"b",\r\n"')),
    ("something like a record within quotes", b'"x\nc-1,T,y,z,draft\n"', Valid("x\nc-1,T,y,z,draft\n")),
    ("UTF-8", "ʤ ünïcödé 漢字 🦄".encode(), Valid("ʤ ünïcödé 漢字 🦄")),
    ("right to left, joined, combined", "שלום 👩‍👩‍👧 e\u0301".encode(), Valid("שלום 👩‍👩‍👧 e\u0301")),
    ("non-characters", "\ufffe\uffff\U0010ffff".encode(), Valid("\ufffe\uffff\U0010ffff")),
    ("a byte order mark within", "a\ufeffb".encode(), Valid("a\ufeffb")),
    ("what Unicode calls line ends", "a\x85b\u2028c\u2029d".encode(), Valid("a\x85b\u2028c\u2029d")),
    ("what Unicode calls line ends, quoted", '"a\x85b\u2028c\n"'.encode(), Valid("a\x85b\u2028c\n")),
    ("VT, FF and the separators of ASCII", b"a\x0bb\x0cc\x1cd\x1ee\x1ff", Valid("a\x0bb\x0cc\x1cd\x1ee\x1ff")),
    ("lone CR", b"a\rb", Valid("a\rb")),
    ("lone CR at the start", b"\ra", Valid("\ra")),
    ("lone CR, quoted", b'"a\r"', Valid("a\r")),
    ("CR before CRLF, quoted", b'"a\r\r\n"', Valid("a\r\r\n")),
    ("controls", b"\x01\x08\x1b[0m\x7f", Valid("\x01\x08\x1b[0m\x7f")),
    ("blanks around", b"  x ", Valid("  x ")),
    ("blanks alone", b"   ", Valid("   ")),
    ("a blank before quotes", b' "x"', Rejected("malformed_row")),
    ("a blank behind quotes", b'"x" ', Rejected("malformed_row")),
    ("a quote in the middle", b'x"', Rejected("malformed_row")),
    ("a single quote character", b'"', Rejected("malformed_row")),
    ("three quote characters", b'"""', Rejected("malformed_row")),
    ("a backslash escapes nothing", b'"a\\"b"', Rejected("malformed_row")),
    ("backslashes are text", b"a\\nb\\,".replace(b",", b";"), Valid("a\\nb\\;")),
    ("apostrophes quote nothing", b"'a,b'", Rejected("column_count_mismatch")),
    ("apostrophes are text", b"'a'", Valid("'a'")),
    ("empty", b"", Rejected("missing_required", "body")),
    ("empty in quotes", b'""', Rejected("too_short", "body")),
    ("words for nothing", b"NULL", Valid("NULL")),
    ("the mark of COPY for null", b"\\N", Valid("\\N")),
    ("the mark of COPY for the end", b"\\.", Valid("\\.")),
    ("a number with zeros before it", b"007", Valid("007")),
    ("a formula", b"=1+1", Valid("=1+1")),
    ("a comment", b"# x", Valid("# x")),
    ("other delimiters", b"a;b|c\td", Valid("a;b|c\td")),
    ("a very long cell", b"x" * LONG, Valid("x" * LONG)),
    ("a very long cell of quotes and newlines", b'"' + b'""\n' * LONG + b'"', Valid('"\n' * LONG)),
    ("NUL", b"a\0b", Rejected("invalid_format", "body")),
    ("NUL in quotes", b'"\0"', Rejected("invalid_format", "body")),
    ("Latin-1", b"caf\xe9", INVALID_ENCODING),
    ("a byte of no encoding", b"\xff", INVALID_ENCODING),
    ("a character cut off", b"\xe2\x82", INVALID_ENCODING),
    ("a continuation alone", b"\x80", INVALID_ENCODING),
    ("overlong", b"\xc0\xaf", INVALID_ENCODING),
    ("NUL, overlong", b"\xc0\x80", INVALID_ENCODING),
    ("a surrogate in UTF-8", b"\xed\xa0\x80", INVALID_ENCODING),
    ("beyond Unicode", b"\xf4\x90\x80\x80", INVALID_ENCODING),
    ("not UTF-8 within quotes, over lines", b'"a\n\xff\nb"', INVALID_ENCODING),
]

# (name, the JSON of the body, its outcome)
VALUES: list[tuple[str, bytes, Valid | Rejected]] = [
    ("short escapes", rb'"\"\\\/\b\f\n\r\t"', Valid('"\\/\b\f\n\r\t')),
    ("escapes of either case", rb'"\u00e9\u00E9\uABCD\uabcd"', Valid("éé\uabcd\uabcd")),
    ("an escaped escape", rb'"\\u0041"', Valid("\\u0041")),
    ("a surrogate pair", rb'"\ud83e\udd84"', Valid("🦄")),
    ("the last code point", rb'"\uDBFF\uDFFF"', Valid("\U0010ffff")),
    ("controls, escaped", rb'"\u0001\u001f\u007f"', Valid("\x01\x1f\x7f")),
    ("DEL", b'"\x7f"', Valid("\x7f")),
    ("non-characters", rb'"\ufffe\uFFFF' + "\uffff".encode() + b'"', Valid("\ufffe\uffff\uffff")),
    ("line separators", '"\x85\u2028\u2029"'.encode(), Valid("\x85\u2028\u2029")),
    ("a byte order mark", '"\ufeff"'.encode(), Valid("\ufeff")),
    ("brackets and commas", b'"]}[{,:"', Valid("]}[{,:")),
    ("something like a comment", b'"/* x */ // y"', Valid("/* x */ // y")),
    ("a text of JSON", rb'"{\"a\":[1]}"', Valid('{"a":[1]}')),
    ("a very long text", b'"' + b"\\n" * LONG + b'"', Valid("\n" * LONG)),
    ("white space around", b' \t\r"x" \t\r', Valid("x")),
    ("empty", b'""', Rejected("too_short", "body")),
    ("null", b"null", Rejected("missing_required", "body")),
    ("a number", b"-0.0e-0", Rejected("invalid_type", "body")),
    ("a number too large", b"-1e+9999", Rejected("invalid_type", "body")),
    ("a number too small", b"1e-9999", Rejected("invalid_type", "body")),
    ("a number of many digits", b"1" + b"0" * 5000 + b".5", Rejected("invalid_type", "body")),
    ("deep nesting", b"[" * 500 + b"]" * 500, Rejected("invalid_type", "body")),
    ("an object with an empty key", b'{"":0}', Rejected("invalid_type", "body")),
    ("NUL, escaped", rb'"a\u0000b"', Rejected("invalid_format", "body")),
    ("a high surrogate alone", rb'"\uD800"', INVALID_JSON),
    ("a low surrogate alone", rb'"\uDFFF"', INVALID_JSON),
    ("two high surrogates", rb'"\uD800\uD800"', INVALID_JSON),
    ("a pair the wrong way round", rb'"\uDD1E\uD834"', INVALID_JSON),
    ("half of a pair, then text", rb'"\uD800abc"', INVALID_JSON),
    ("half of a pair, then an escape", rb'"\uD800\n"', INVALID_JSON),
    ("an escape cut off", rb'"\u00A"', INVALID_JSON),
    ("an escape of other letters", rb'"\u00G0"', INVALID_JSON),
    ("an unknown escape", rb'"\a"', INVALID_JSON),
    ("a hexadecimal escape", rb'"\x41"', INVALID_JSON),
    ("an escaped apostrophe", rb'"\'"', INVALID_JSON),
    ("a tab", b'"\t"', INVALID_JSON),
    ("a lone CR", b'"a\rb"', INVALID_JSON),
    ("NUL", b'"\0"', INVALID_JSON),
    ("an apostrophe for a quote", b"'x'", INVALID_JSON),
    ("no quotes", b"x", INVALID_JSON),
    ("NaN", b"NaN", INVALID_JSON),
    ("infinity", b"Infinity", INVALID_JSON),
    ("minus infinity", b"-Infinity", INVALID_JSON),
    ("a capital letter", b"True", INVALID_JSON),
    ("true cut off", b"tru", INVALID_JSON),
    ("null cut off", b"nul", INVALID_JSON),
    ("true and more", b"truex", INVALID_JSON),
    ("a zero before a number", b"012", INVALID_JSON),
    ("a zero before a negative number", b"-01", INVALID_JSON),
    ("a plus sign", b"+1", INVALID_JSON),
    ("a minus sign alone", b"-", INVALID_JSON),
    ("two minus signs", b"--1", INVALID_JSON),
    ("no digit before the point", b".5", INVALID_JSON),
    ("no digit behind the point", b"1.", INVALID_JSON),
    ("no digit in the exponent", b"1e+", INVALID_JSON),
    ("two points", b"1.2.3", INVALID_JSON),
    ("hexadecimal", b"0x1F", INVALID_JSON),
    ("digits of another script", "\uff11".encode(), INVALID_JSON),
    ("a thousands separator", b"1_000", INVALID_JSON),
    ("nothing", b"", INVALID_JSON),
    ("two values", b'"x" "y"', INVALID_JSON),
    ("two colons", b':"x"', INVALID_JSON),
    ("a comma too many", b'"x",', INVALID_JSON),
    ("two commas in a list", b"[1,,2]", INVALID_JSON),
    ("a comma at the end of a list", b"[1,]", INVALID_JSON),
    ("a comment", b'/* x */ "x"', INVALID_JSON),
    ("a comment to the end of the line", b'"x" // y', INVALID_JSON),
    ("FF for white space", b'\x0c"x"', INVALID_JSON),
    ("a no-break space", "\xa0".encode() + b'"x"', INVALID_JSON),
    ("a byte order mark before it", BOM + b'"x"', INVALID_JSON),
    ("Latin-1", b'"caf\xe9"', INVALID_ENCODING),
    ("a character cut off", b'"\xe2\x82"', INVALID_ENCODING),
    ("a continuation alone", b'"\x80"', INVALID_ENCODING),
    ("overlong", b'"\xe0\x80\xaf"', INVALID_ENCODING),
    ("a surrogate in UTF-8", b'"\xed\xa0\xbd\xed\xb8\x80"', INVALID_ENCODING),
    ("beyond Unicode", b'"\xf7\xbf\xbf\xbf"', INVALID_ENCODING),
    ("not UTF-8 outside of a string", b"\xe9", INVALID_ENCODING),
]


def rest(slug: str) -> bytes:
    """The members of an article except its body."""
    others = {"slug": slug, "title": "T", "author_id": AUTHOR, "status": "draft"}
    return json.dumps(others)[1:-1].encode()


def object_of(slug: str, body: bytes) -> bytes:
    return b'{"body":%b,%b}' % (body, rest(slug))


def row_of(slug: str, cell: bytes, mark: bytes = b",") -> bytes:
    return mark.join((slug.encode(), b"T", cell, AUTHOR.encode(), b"draft"))


HEADER = b"slug,title,body,author_id,status"

# (name, the whole object, its outcome); a line of NDJSON or an element
OBJECTS: list[tuple[str, bytes, Valid | Rejected]] = [
    ("an escaped key", b'{"bo\\u0064y":"x",' + rest("case") + b"}", Valid("x")),
    ("a key twice", b'{"body":[],"body":"x",' + rest("case") + b"}", Valid("x")),
    (
        "a key twice, the last is null",
        b'{"body":"x",' + rest("case") + b',"body":null}',
        Rejected("missing_required", "body"),
    ),
    ("white space everywhere", b' \t{ "body" :\t"x" , ' + rest("case") + b" } ", Valid("x")),
    ("a comma at the end", b'{"body":"x",' + rest("case") + b",}", INVALID_JSON),
    ("a comma at the start", b'{,"body":"x",' + rest("case") + b"}", INVALID_JSON),
    ("no comma", b'{"body":"x" ' + rest("case") + b"}", INVALID_JSON),
    ("no colon", b'{"body" "x",' + rest("case") + b"}", INVALID_JSON),
    ("a key without quotes", b'{body:"x",' + rest("case") + b"}", INVALID_JSON),
    ("a key in apostrophes", b"{'body':\"x\"," + rest("case") + b"}", INVALID_JSON),
    ("a number as a key", b'{1:"x",' + rest("case") + b"}", INVALID_JSON),
    ("a key alone", b'{"body",' + rest("case") + b"}", INVALID_JSON),
    ("a key that is not UTF-8", b'{"\xff":1,"body":"x",' + rest("case") + b"}", INVALID_ENCODING),
    ("a key with half of a pair", b'{"\\ud800":1,"body":"x",' + rest("case") + b"}", INVALID_JSON),
    ("an array", b"[]", Rejected("invalid_type")),
    ("a text", b'"x"', Rejected("invalid_type")),
    ("a number", b"-1", Rejected("invalid_type")),
    ("null", b"null", Rejected("invalid_type")),
    ("an empty object", b"{}", Rejected("missing_required", "slug")),
]

# cases that affect one line of NDJSON but a whole array, whose brackets have to match: (name, the line)
LINES: list[tuple[str, bytes]] = [
    ("a text not closed", object_of("case", b'"x')),
    ("a text that ends in a backslash", object_of("case", b'"x\\"')),
    ("an object not closed", object_of("case", b'"x"')[:-1]),
    ("an object closed twice", object_of("case", b'"x"') + b"}"),
    ("an object closed as an array", object_of("case", b'"x"')[:-1] + b"]"),
    ("two objects", object_of("case", b'"x"') + object_of("case", b'"x"')),
    ("an object and a comma", object_of("case", b'"x"') + b","),
    ("an object and a word", object_of("case", b'"x"') + b" x"),
    ("a comment behind the object", object_of("case", b'"x"') + b" // x"),
    ("a byte order mark before the object", BOM + object_of("case", b'"x"')),
    ("open brackets alone", b"[{" * 1000),
]

RECORDS = [(name, object_of("case", value), outcome) for name, value, outcome in VALUES] + OBJECTS


def corpus(format: str) -> tuple[bytes, list[Valid | Rejected]]:
    """All cases of a format as one file. The slug of each is `c-` and its number."""
    if format == "csv":
        # an open quote would be closed by a quote in one of the next rows
        cases = [(cell, outcome) for _, cell, outcome in CELLS if cell.count(b'"') % 2 == 0]
        rows = [row_of(f"c-{n}", cell) for n, (cell, _) in enumerate(cases)]
        return b"\n".join([HEADER, *rows]), [outcome for _, outcome in cases]
    cases = list(RECORDS)
    if format == "ndjson":
        cases += [(name, line, INVALID_JSON) for name, line in LINES]
    records = [record.replace(b'"case"', b'"c-%d"' % n) for n, (_, record, _) in enumerate(cases)]
    file = b"\n".join(records) if format == "ndjson" else b"[\n" + b",\n".join(records) + b"]"
    return file, [outcome for *_, outcome in cases]
