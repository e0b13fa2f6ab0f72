"""Uploads whose form, array or header cannot be read or is too large."""

from collections.abc import Iterable

from tests.api.http.hostile.case import IMPORTS, Case, Endless, chunk, chunked, post

MULTIPART = b"multipart/form-data; boundary=edge"
SOUND = b"email,name,role,active\na@example.org,A,reader,true\n"
DEEP = 1_000_000


def part(name: bytes, value: bytes, *, more: bytes = b"") -> bytes:
    return b'--edge\r\nContent-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + value + b"\r\n"


FILE = part(b"file", SOUND, more=b'; filename="u.csv"')
USERS = part(b"resource", b"users")
END = b"--edge--\r\n"


def form(*parts: bytes, type: bytes = MULTIPART) -> list[bytes]:
    return post(b"".join(parts), target=IMPORTS, type=type)


def head(*lines: bytes) -> bytes:
    return b"--edge\r\n" + b"\r\n".join(lines) + b"\r\n\r\nx\r\n"


def endless_form(begin: bytes) -> Iterable[bytes]:
    """A form that is one letter, repeated."""
    return chunked(chunk(begin), Endless(chunk(b"a" * 10_000)), target=IMPORTS, type=MULTIPART)


FORMS = [
    Case("nothing", form(), 400),
    Case("no boundary", form(USERS, FILE, END, type=b"multipart/form-data"), 400, "boundary"),
    Case("an empty boundary", form(USERS, FILE, END, type=b'multipart/form-data; boundary=""'), 400, "boundary"),
    Case("a boundary of 10 kB", form(USERS, type=b"multipart/form-data; boundary=" + b"e" * 10_000), 400, "boundary"),
    Case("a boundary of bytes", form(USERS, FILE, END, type=b'multipart/form-data; boundary="\xff"'), 400),
    Case("another boundary", form(USERS, FILE, END, type=b"multipart/form-data; boundary=other"), 400),
    Case("no end", form(USERS, FILE), 400),
    Case("no end within the file", form(USERS, FILE[:-20]), 400),
    Case("the end alone", form(END), 400, "file"),
    Case("no file", form(USERS, END), 400, "file"),
    Case("no resource", form(FILE, END), 400, "resource"),
    Case("two files", form(USERS, FILE, FILE, END), 400, "file"),
    Case("a file by another name", form(USERS, part(b"data", SOUND, more=b'; filename="u.csv"'), END), 400, "data"),
    Case("a parameter twice", form(USERS, USERS, FILE, END), 400, "resource"),
    Case("an unknown parameter", form(USERS, part(b"admin", b"true"), FILE, END), 400, "admin"),
    Case("a parameter without a name", form(head(b"Content-Disposition: form-data"), USERS, FILE, END), 400),
    Case("a format behind the file", form(USERS, FILE, part(b"format", b"json"), END), 400, "format"),
    Case("a parameter of 5 kB", form(part(b"resource", b"u" * 5000), FILE, END), 400, "resource"),
    Case("a parameter that is not UTF-8", form(part(b"resource", b"\xff"), FILE, END), 400, "resource"),
    Case(
        "a parameter with a NUL", form(USERS, part(b"idempotency_token", b"a\0"), FILE, END), 400, "idempotency_token"
    ),
    Case("a name with a line break", form(part(b"a%0D%0Ab", b"x"), USERS, FILE, END), 400, "a\\r\\nb"),
    Case("5,000 parts", form(*[part(b"p%d" % n, b"x") for n in range(5000)], END), 400, "32 parts"),
    Case("5,000 headers of a part", form(head(*[b"X-A: b"] * 5000), END), 400),
    Case("a part's header of 1 MB", form(head(b"X-A: " + b"a" * 1_000_000), END), 400),
    Case("a part's header without end", endless_form(b"--edge\r\nX-A: "), 400),
    Case("a parameter without end", endless_form(part(b"resource", b"")[:-2]), 400, "resource"),
    Case("a part without headers", form(b"--edge\r\n\r\nx\r\n", USERS, FILE, END), 400),
    Case("a header without a colon", form(head(b"Content-Disposition"), END), 400),
    Case("a header that is not UTF-8", form(head(b"X-A: \xff"), END), 400),
    Case(
        "a length that is none", form(head(b'Content-Disposition: form-data; name="a"', b"Content-Length: x"), END), 400
    ),
    Case("a length too short", form(head(b'Content-Disposition: form-data; name="a"', b"Content-Length: 0"), END), 400),
    Case("LF for line ends", form(USERS.replace(b"\r", b""), FILE.replace(b"\r", b""), END), 400),
    Case("a form in a form", form(part(b"file", FILE, more=b'; filename="u.csv"'), END), 400),
    Case("a file named ..", form(part(b"file", SOUND, more=b'; filename="../../../etc/passwd"'), END), 400, "resource"),
    Case(
        "a file by an absolute path", form(part(b"file", SOUND, more=b'; filename="/etc/passwd"'), END), 400, "resource"
    ),
    Case("a file named NUL", form(part(b"file", SOUND, more=b'; filename="a\0b"'), END), 400, "resource"),
    Case("a file whose name turns", form(part(b"file", SOUND, more='; filename="\u202evsc.u"'.encode()), END), 400),
    Case("a file name of 4 kB", form(part(b"file", SOUND, more=b'; filename="' + b"n" * 5000 + b'"'), END), 400),
    Case(
        "a line break in a file name", form(part(b"file", SOUND, more=b'; filename="a%0D%0A{}"'), END), 400, "resource"
    ),
    Case("urlencoded", post(b"resource=users", target=IMPORTS, type=b"application/x-www-form-urlencoded"), 415),
    Case("an unknown type", post(SOUND, type=b"application/pdf"), 415, "application/pdf"),
    Case("a type of 10 kB", post(SOUND, type=b"a/" + b"b" * 10_000), 415),
    Case("a type with an escape", post(SOUND, type=b"a/\xc3\x9b31m"), 415),
]


def array(body: bytes) -> list[bytes]:
    return post(body, type=b"application/json")


def members(body: bytes) -> list[bytes]:
    return post(body, target=IMPORTS, type=b"application/json")


JSON = [
    Case("a scalar", array(b"1"), 400),
    Case("text", array(b'"users"'), 400),
    Case("brackets that are not closed", array(b"[" * DEEP), 400),
    Case("an object deep in itself", members(b'{"a":' * DEEP), 400),
    Case("a parameter deep in itself", members(b'{"records":[],"resource":' + b"[" * DEEP + b"]" * DEEP + b"}"), 400),
    Case("not closed", array(b'[{"email":"a@example.org"}'), 400),
    Case("more behind the end", array(b"[] []"), 400),
    Case("a comma too many", array(b"[{},]"), 400),
    Case("NUL", array(b"[{}\0]"), 400),
    Case("UTF-16", array("[{}]".encode("utf-16")), 400, "UTF-16"),
    Case("no records", members(b'{"resource": "users"}'), 400, "records"),
    Case("null for records", members(b'{"resource": "users", "records": null}'), 400),
    Case("text for records", members(b'{"resource": "users", "records": "all"}'), 400),
    Case("a number for records", members(b'{"resource": "users", "records": 1e999}'), 400),
    Case("no resource", members(b'{"records": []}'), 400, "resource"),
    Case("a number for a resource", members(b'{"resource": 1, "records": []}'), 400, "resource"),
    Case("an object for a mode", members(b'{"resource": "users", "mode": {}, "records": []}'), 400, "mode"),
    Case("null for a mode", members(b'{"resource": "users", "mode": null, "records": []}'), 400, "mode"),
    Case("an unknown key", members(b'{"resource": "users", "admin": true, "records": []}'), 400, "admin"),
    Case("a key that is not UTF-8", members(b'{"resource": "users", "\xff": 1, "records": []}'), 400),
    Case("half a character for a token", members(b'{"idempotency_token": "\\ud800", "records": []}'), 400),
    Case("a NUL in a token", members(b'{"idempotency_token": "\\u0000", "records": []}'), 400, "idempotency_token"),
    Case("a number for a token", members(b'{"idempotency_token": 7, "records": []}'), 400, "idempotency_token"),
    Case("a number of 5,000 digits", members(b'{"max_errors": ' + b"9" * 5000 + b', "records": []}'), 400),
    Case(
        "a number of 20 digits",
        members(b'{"resource":"users","max_errors":' + b"9" * 20 + b',"records":[]}'),
        400,
        "max_e",
    ),
    Case("an exponent of 400", members(b'{"max_error_rate": 1e400, "records": []}'), 400),
    Case(
        "300,000 unknown keys",
        members(b"{" + b",".join(b'"k%d":1' % n for n in range(300_000)) + b',"records":[]}'),
        400,
    ),
    Case("a key of 7 MB", members(b'{"' + b"k" * 7_000_000 + b'": 1, "records": []}'), 400),
    Case("an object of 9 MB", members(b'{"resource": "' + b"u" * 9_000_000 + b'"}'), 413, "limit_bytes"),
    Case("blanks without end, then nothing", array(b" " * 9_000_000 + b"x"), 400),
]

CSV = [
    Case("a header of 10,000 columns", post(b",".join(b"c%d" % n for n in range(10_000)) + b"\n"), 400, "columns"),
    Case("a header of 150,000 columns", post(b",".join(b"c%d" % n for n in range(150_000)) + b"\n"), 400, "longer"),
    Case("500,000 columns without a name", post(b"," * 500_000 + b"\n"), 400),
    Case("a column of 200 kB", post(b"c" * 200_000 + b"\n"), 400),
    Case("a column that is an escape", post(b"email,name,role,active,\x1b[31m\x1b]0;x\x07\n"), 400, "\\u001b"),
    Case("a column with line breaks", post(b'email,name,role,active,"a\r\n{""level"":""error""}"\n'), 400),
    Case("a column with a NUL", post(b"email,name,role,active,a\0b\n"), 400, "\\u0000"),
    Case("a column that is markup", post(b"email,name,role,active,<script>\n"), 400, "script"),
    Case("NUL alone", post(b"\0" * 100_000), 400),
    Case("a lone quote", post(b'"'), 400),
    Case("quotes alone", post(b'"' * 500_001), 400),
    Case("a header of quotes that open", post(b'a"' * 300_000 + b"\n"), 400),
    Case("one line of 5 MB", post(b"x" * 5_000_000), 400, "longer"),
    Case("one line of 5 MB within quotes", post(b'"' + b"x" * 5_000_000), 400),
    Case("not UTF-8", post(b"email,name,role,\xff\n"), 400),
    Case("UTF-16", post(SOUND.decode().encode("utf-16")), 400, "UTF-16"),
    Case("UTF-32", post(SOUND.decode().encode("utf-32")), 400, "UTF-32"),
    Case("beyond the limit, in chunks", chunked(Endless(chunk(b"\n" * 65536), size=30_000_000)), 413, "limit_bytes"),
]
