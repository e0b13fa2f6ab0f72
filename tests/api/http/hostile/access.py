"""Requests of those who have no key, or think that they have."""

from tests.api.http.hostile.case import IMPORTS, KEY, USERS, Case, get, post, request

ASKED = b"GET " + IMPORTS
EXPORTS = b"/api/v1/exports"
CLOSE = b"\r\nConnection: close\r\n\r\n"


def asked(*headers: bytes, line: bytes = ASKED) -> list[bytes]:
    return request(line, *headers, key=None)


CASES = [
    Case("no key", asked(), 401),
    Case("an empty key", asked(b"X-API-Key:"), 401),
    Case("blanks for a key", asked(b"X-API-Key:    "), 401),
    Case("a wrong key", asked(b"X-API-Key: wrong"), 401),
    Case("the key but its last letter", asked(b"X-API-Key: " + KEY[:-1]), 401),
    Case("the key and a letter more", asked(b"X-API-Key: " + KEY + b"x"), 401),
    Case("the key in capitals", asked(b"X-API-Key: " + KEY.upper()), 401),
    Case("the key twice", asked(b"X-API-Key: " + KEY + b"," + KEY), 401),
    Case("both keys, as they are set", asked(b"X-API-Key: " + KEY + b", 0ther-key-of-the-same"), 401),
    Case("a key of 60 kB", asked(b"X-API-Key: " + b"k" * 60_000), 401),
    Case("a key that is not ASCII", asked("X-API-Key: clé".encode()), 401),
    Case("a key of bytes that are no text", asked(b"X-API-Key: \xff\xfe\xfd"), 401),
    Case("Bearer without a key", asked(b"Authorization: Bearer"), 401),
    Case("Bearer and blanks", asked(b"Authorization: Bearer   "), 401),
    Case("Bearer and a wrong key", asked(b"Authorization: Bearer wrong"), 401),
    Case("the key without Bearer", asked(b"Authorization: " + KEY), 401),
    Case("the key as Basic", asked(b"Authorization: Basic " + KEY), 401),
    Case("Bearer stuck to the key", asked(b"Authorization: Bearer" + KEY), 401),
    Case("a wrong Bearer before the right header", asked(b"Authorization: Bearer wrong", b"X-API-Key: " + KEY), 401),
    Case("the key in the query", asked(line=ASKED + b"?api_key=" + KEY + b"&X-API-Key=" + KEY), 401),
    Case("the key as a cookie", asked(b"Cookie: X-API-Key=" + KEY), 401),
    Case("the key as user and password", asked(line=b"GET http://" + KEY + b":" + KEY + b"@test" + IMPORTS), 401),
    Case("metrics without a key", asked(line=b"GET /metrics"), 401),
    Case("the document without a key", asked(line=b"GET /schema/openapi.json"), 401),
    Case("an address that is not there", asked(line=b"GET /nothing"), 401),
    Case("a public address and more", asked(line=b"GET /live/../api/v1/imports"), 401),
    Case("a public address, doubly rooted", asked(line=b"GET //live"), 401),
    Case("a public address in capitals", asked(line=b"GET /LIVE"), 401),
    Case("a public address and a NUL", asked(line=b"GET /live%00"), 401),
    Case("an upload without a key", request(b"POST " + USERS, b"Content-Type: text/csv", body=b"x" * 9, key=None), 401),
    Case("a form of another origin", post(b"x", b"Origin: https://evil.example"), 403),
    Case("a form of another site", post(b"x", b"Sec-Fetch-Site: cross-site"), 403),
    Case("a form of a sandboxed page", post(b"x", b"Origin: null"), 403),
    Case("a removal for another origin", request(b"DELETE " + IMPORTS + b"/0", b"Origin: http://evil.example:1"), 403),
    Case("an export for another origin", post(b"{}", b"Sec-Fetch-Site: same-site", target=EXPORTS), 403),
    *(
        Case(f"the host {host!r}", [ASKED + b" HTTP/1.1\r\nHost: " + host + b"\r\nX-API-Key: " + KEY + CLOSE], 421)
        for host in (b"evil.example", b"169.254.169.254", b"", b"localhost.evil.example", b"localhost@evil.example")
    ),
    Case("a second host", get(IMPORTS, b"Host: evil.example"), 421),
    Case("a removal without a key", asked(line=b"DELETE " + IMPORTS + b"/0"), 401),
]
