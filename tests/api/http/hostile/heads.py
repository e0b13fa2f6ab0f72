"""Requests that are none: heads without end, and bodies whose length is a matter of opinion."""

from tests.api.http.hostile.case import IMPORTS, KEY, USERS, Case, Endless, chunked, get, post, request, row

START = b"GET " + IMPORTS + b" HTTP/1.1\r\nHost: localhost\r\n"
BEGUN = b"POST " + USERS + b" HTTP/1.1\r\nHost: localhost\r\nX-API-Key: " + KEY + b"\r\nContent-Type: text/csv\r\n"

HEADS = [
    Case("a request line of 70 kB", get(IMPORTS + b"?" + b"a" * 70_000), 431, "limit_bytes"),
    Case("a request line without end", row(b"GET /", Endless(b"a")), 431, "limit_bytes"),
    Case("a method without end", Endless(b"G"), 400),
    Case("a header line of 70 kB", get(IMPORTS, b"X-Long: " + b"a" * 70_000), 431, "limit_bytes"),
    Case("a header line without end", row(START, b"X: ", Endless(b"a")), 431, "limit_bytes"),
    Case("a header name without end", row(START, Endless(b"a")), 431, "limit_bytes"),
    Case("10 MB of headers", row(START, Endless(b"X-A: " + b"a" * 9000 + b"\r\n")), 431, "limit"),
    Case("100,000 headers", row(START, Endless(b"a:b\r\n")), 431, "limit_headers"),
    Case("101 headers", get(IMPORTS, *[b"X-A: b"] * 101), 431, "limit_headers"),
    Case("newlines without end", Endless(b"\r\n"), 431),
    Case("NUL", [b"\0" * 100], 400),
    Case("another protocol", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)], 400),
    Case("HTTP/2", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], 400),
    Case("HTTP/9.9", [b"GET / HTTP/9.9\r\n\r\n"], 400),
    Case("no version", [b"GET /\r\n\r\n"], 400),
    Case("an unknown method", request(b"BREW " + IMPORTS), 400),
    Case("a method in small letters", request(b"get " + IMPORTS), 400),
    Case("a method that is not allowed", request(b"PUT " + IMPORTS, body=b""), 405),
    Case("TRACE", request(b"TRACE " + IMPORTS), 405),
    Case("CONNECT", request(b"CONNECT " + IMPORTS), 405),
    Case("CONNECT to another host", request(b"CONNECT example.org:443"), 400),
    Case("OPTIONS of the server", request(b"OPTIONS *"), 404),
    Case("an absolute address without a path", get(b"http://test"), 400),
    Case("a blank in the address", get(IMPORTS + b"/a b"), 400),
    Case("NUL in the address", get(IMPORTS + b"/a\0b"), 400),
    Case("a byte in the address that is not ASCII", get(IMPORTS + b"/\xff"), 400),
    Case("an escape in the address", get(IMPORTS + b"/\x1b[31m"), 400),
    Case("NUL in a header", get(IMPORTS, b"X-A: a\0b"), 400),
    Case("a control character in a header", get(IMPORTS, b"X-A: a\x01b"), 400),
    Case("a lone CR in a header", get(IMPORTS, b"X-A: a\rb: c"), 400),
    Case("a folded header", get(IMPORTS, b"X-A: a\r\n b"), 400),
    Case("a blank before the colon", get(IMPORTS, b"X-A : b"), 400),
    Case("a header without a colon", get(IMPORTS, b"X-A"), 400),
    Case("a header without a name", get(IMPORTS, b": a"), 400),
    Case("17 requests in the queue", request(b"GET /live", close=False) * 4000, 0),
]


UPGRADE = (b"Connection: Upgrade", b"Upgrade: h2c")

FRAMING = [
    Case("an upgrade, whose body is read", post(b"not,a,user\n", *UPGRADE), 400, "not"),
    Case(
        "an upgrade of an order",
        post(b"{}", *UPGRADE, target=b"/api/v1/exports", type=b"application/json"),
        400,
        "resource",
    ),
    Case("two lengths that differ", post(b"abc", b"Content-Length: 4"), 400),
    Case("two lengths that agree", post(b"abc", b"Content-Length: 3"), 400),
    Case("a list of lengths", [BEGUN + b"Content-Length: 3, 3\r\n\r\nabc"], 400),
    Case("a negative length", [BEGUN + b"Content-Length: -3\r\n\r\nabc"], 400),
    Case("a length with a sign", [BEGUN + b"Content-Length: +3\r\n\r\nabc"], 400),
    Case("a length in hexadecimal", [BEGUN + b"Content-Length: 0x3\r\n\r\nabc"], 400),
    Case("a length in other digits", [BEGUN + b"Content-Length: \xb2\r\n\r\nabc"], 400),
    Case("a length of 30 digits", [BEGUN + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nabc"], 400),
    Case("no length in numbers", [BEGUN + b"Content-Length: many\r\n\r\nabc"], 400),
    Case("a length beyond the limit", [BEGUN + b"Content-Length: 99999999999999\r\n\r\n"], 413, "limit_bytes"),
    Case(
        "the same, and 100 Continue", [BEGUN + b"Expect: 100-continue\r\nContent-Length: 99999999999999\r\n\r\n"], 413
    ),
    Case("a length and chunks", chunked(b"0\r\n\r\n", headers=[b"Content-Length: 5"]), 400),
    Case(
        "chunks and then a length", [BEGUN + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"], 400
    ),
    Case("chunks that are not the last coding", [BEGUN + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"], 400),
    Case("an unknown coding", [BEGUN + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"], 400),
    Case("chunked in quotes", [BEGUN + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'], 400),
    Case("a coding with a vertical tab", [BEGUN + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"], 400),
    Case("a chunk without a size", chunked(b"\r\nabc\r\n"), 400),
    Case("a chunk of a negative size", chunked(b"-1\r\nabc\r\n"), 400),
    Case("a chunk of 0x3 bytes", chunked(b"0x3\r\nabc\r\n"), 400),
    Case("a chunk of 2^64 bytes", chunked(b"10000000000000000\r\nabc\r\n"), 400),
    Case("a chunk larger than its size", chunked(b"2\r\nabc\r\n0\r\n\r\n"), 400),
    Case("a chunk that ends in LF", chunked(b"3\nabc\n0\n\n"), 400),
    Case("a chunk's extension without end", chunked(b"3;a=", Endless(b"a")), 431),
    Case("a trailer without end", chunked(b"0\r\nX: ", Endless(b"a")), 0),
    Case("trailers without end", chunked(b"0\r\n", Endless(b"X: a\r\n")), 0),
]
