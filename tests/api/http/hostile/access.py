"""Requests of those who have no key, or think that they have."""

from tests.api.http.hostile.case import IMPORTS, KEY, USERS, Case, request

ASKED = b"GET " + IMPORTS


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
    Case("a removal without a key", asked(line=b"DELETE " + IMPORTS + b"/0"), 401),
]
