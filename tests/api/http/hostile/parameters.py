"""Addresses, queries and orders with values that no form would have let through."""

import base64
from uuid import UUID

from tests.api.http.hostile.case import IMPORTS, Case, get, post, request

EXPORTS = b"/api/v1/exports"
STREAM = EXPORTS + b"/users/stream"
NOBODY = str(UUID(int=1)).encode()
SOUND = b"email,name,role,active\na@example.org,A,reader,true\n"


def page(position: bytes) -> bytes:
    """The address of a page of errors, with a cursor of our own making."""
    return IMPORTS + b"/" + NOBODY + b"/errors?cursor=" + base64.urlsafe_b64encode(position)


ADDRESSES = [
    Case(f"{what}: {tail!r}", get(before + b"/" + tail), 404)
    for what, before in (("an import", IMPORTS), ("an export", EXPORTS))
    for tail in (
        b"0",
        b"-1",
        b"null",
        NOBODY,
        NOBODY[:-1],
        NOBODY + b"0",
        b"%00",
        NOBODY + b"%00",
        NOBODY + b"%0d%0aSet-Cookie:%20a=b",
        b"%ff%fe",
        b"%zz",
        b"%",
        b"%D9%A0" * 32,
        b"%0A" + NOBODY.replace(b"-", b"")[1:],
        b"%20" + NOBODY,
        b"%7B" + NOBODY + b"%7D",
        b"urn:uuid:" + NOBODY,
        NOBODY.replace(b"-", b""),
        b"+" + NOBODY.replace(b"-", b"")[1:],
        b"%E2%80%AE" + NOBODY,
        b"%F0%9F%92%A9",
        b"..",
        b"../../etc/passwd",
        b"..%2f..%2fetc%2fpasswd",
        b"%2e%2e/%2e%2e/etc/passwd",
        b"..%5c..%5cwindows",
        b"%2Fetc%2Fpasswd",
        b"..%252f..%252fetc",
        b"....//....//etc/passwd",
        b"'%3B%20DROP%20TABLE%20users%3B--",
        b"{{7*7}}",
        b"a" * 20_000,
        b"/".join([b"a"] * 10_000),
    )
] + [
    Case("a file of another folder", get(EXPORTS + b"/..%2f..%2fetc%2fpasswd/download"), 404),
    Case("a file by an absolute path", get(EXPORTS + b"/%2Fetc%2Fpasswd/download"), 404),
    Case("a page of another folder", get(b"/schema/..%2f..%2fpyproject.toml"), 404),
    Case("an unknown resource", get(EXPORTS + b"/secrets/stream"), 404),
    Case("a resource of another folder", get(EXPORTS + b"/..%2fusers/stream"), 404),
    Case("a resource with a NUL", get(EXPORTS + b"/users%00/stream"), 404),
    Case("to cancel what is not there", request(b"POST " + IMPORTS + b"/" + NOBODY + b"/cancel", body=b""), 404),
    Case("to remove what is not there", request(b"DELETE " + IMPORTS + b"/" + NOBODY), 404),
]

PARAMETERS = (
    [
        Case(f"{query[:40]!r}", get(IMPORTS + b"?" + query), 400, word)
        for query, word in (
            (b"limit=0", "limit"),
            (b"limit=-1", "limit"),
            (b"limit=101", "limit"),
            (b"limit=1.5", "limit"),
            (b"limit=1e3", "limit"),
            (b"limit=0x10", "limit"),
            (b"limit=" + b"9" * 30, "limit"),
            (b"limit=" + b"9" * 10_000, "limit"),
            (b"limit=NaN", "limit"),
            (b"limit=Infinity", "limit"),
            (b"limit=%D9%A1%D9%A0", "limit"),
            (b"limit=%EF%BC%91", "limit"),
            (b"limit=null", "limit"),
            (b"limit=", "limit"),
            (b"limit=10&limit=20", "limit"),
            (b"limit=10;drop", "limit"),
            (b"limit%00=10", "limit"),
            (b"limit[]=10", "limit[]"),
            (b"LIMIT=10", "LIMIT"),
            (b"cursor=", "cursor"),
            (b"cursor=0", "cursor"),
            (b"cursor=%00", "cursor"),
            (b"cursor=%ff", "cursor"),
            (b"cursor=..%2f..", "cursor"),
            (b"cursor=" + NOBODY + b"'", "cursor"),
            (b"cursor=" + b"a" * 60_000, "cursor"),
            (b"status=open", "status"),
            (b"status=pending%00", "status"),
            (b"status=pending&status=failed", "status"),
            (b"resource=secrets", "resource"),
            (b"foo=bar", "foo"),
            (b"%ff=%fe", "unknown"),
            (b"=", "unknown"),
            (b"&".join(b"p%d=1" % n for n in range(8000)), "parameters"),
            (b"&".join([b"limit=1"] * 8000), "parameters"),
            (b"%0d%0aSet-Cookie:%20a=b", "unknown"),
        )
    ]
    + [
        Case(f"{query[:40]!r} of a stream", get(STREAM + b"?" + query), 400, word)
        for query, word in (
            (b"limit=0", "limit"),
            (b"limit=9223372036854775808", "limit"),
            (b"limit=" + b"9" * 400, "limit"),
            (b"fields=", "fields"),
            (b"fields=password", "fields"),
            (b"fields=id,id", "fields"),
            (b"fields=" + b"a," * 20_000, "fields"),
            (b"fields=id%00", "fields"),
            (b"after=0", "after"),
            (b"after=%00", "after"),
            (b"after=" + NOBODY + b"%0a", "after"),
            (b"id=0", "id"),
            (b"id=" + b"," * 20_000, "id"),
            (b"email=%00", "email"),
            (b"email=a%00b", "email"),
            (b"role=god", "role"),
            (b"active=maybe", "active"),
            (b"created_after=yesterday", "created_after"),
            (b"created_after=2024-01-31T12:00:00", "created_after"),
            (b"created_after=0001-01-01T00:00:00%2B23:59", "created_after"),
            (b"created_before=9999-12-31T23:59:59-23:59", "created_before"),
            (b"created_after=9999-99-99T99:99:99Z", "created_after"),
            (b"created_before=infinity", "created_before"),
            (b"format=xml", "format"),
            (b"csv_safe=true&format=ndjson", "csv_safe"),
            (b"tag=a", "tag"),
        )
    ]
    + [
        Case(f"{query[:40]!r} of an import", post(SOUND, target=IMPORTS + b"?" + query), 400, word)
        for query, word in (
            (b"", "resource"),
            (b"resource=", "resource"),
            (b"resource=secrets", "resource"),
            (b"resource=users&resource=users", "resource"),
            (b"resource=users&mode=destroy", "mode"),
            (b"resource=users&format=xml", "format"),
            (b"resource=users&max_errors=-1", "max_errors"),
            (b"resource=users&max_errors=1.5", "max_errors"),
            (b"resource=users&max_errors=99999999999999999999", "max_errors"),
            (b"resource=users&max_error_rate=NaN", "max_error_rate"),
            (b"resource=users&max_error_rate=1e400", "max_error_rate"),
            (b"resource=users&max_error_rate=-0.1", "max_error_rate"),
            (b"resource=users&after=0", "after"),
            (b"resource=users&after=" + NOBODY, "after"),
            (b"resource=users&csv_delimiter=%00", "csv_delimiter"),
            (b"resource=users&csv_delimiter=%22", "csv_delimiter"),
            (b"resource=users&csv_delimiter=%0a", "csv_delimiter"),
            (b"resource=users&dry_run=perhaps", "dry_run"),
            (b"resource=users&idempotency_token=", "idempotency_token"),
            (b"resource=users&idempotency_token=%00", "idempotency_token"),
            (b"repairs=0", "repairs"),
            (b"repairs=" + NOBODY, "repairs"),
            (b"resource=users&columns=0", "columns"),
            (b"resource=users&columns=" + b"[" * 4000, "columns"),
            (b"resource=users&columns={%22a%22:%22password%22}", "columns"),
            (b"resource=users&columns={%22%5Cu0000%22:null}", "columns"),
            (b"resource=users&idempotency_token=" + b"k" * 256, "idempotency_token"),
        )
    ]
    + [
        Case("an empty Idempotency-Key", post(SOUND, b"Idempotency-Key:"), 400, "Idempotency-Key"),
        Case("an Idempotency-Key of quotes", post(SOUND, b'Idempotency-Key: ""'), 400, "Idempotency-Key"),
        Case("an Idempotency-Key of 256", post(SOUND, b"Idempotency-Key: " + b"k" * 256), 400, "Idempotency-Key"),
        Case("a digest that is none", post(SOUND, b"Content-Digest: sha-256=:AAAA:"), 400, "Content-Digest"),
        Case("a digest of other bytes", post(SOUND, b"Content-Digest: sha-256=:" + b"A" * 43 + b"=:"), 400, "digest"),
        Case("a digest that is not ASCII", post(SOUND, b"Content-Digest: sha-256=:\xff\xfe:"), 400, "Content-Digest"),
        Case("an Accept of nothing", get(STREAM, b"Accept: image/png"), 406),
        Case("an Accept without CSV", get(STREAM, b"Accept: text/csv;q=0"), 406),
        Case("an Accept without anything", get(STREAM, b"Accept: */*;q=0"), 406),
        Case("an Accept-Encoding of nothing", get(STREAM, b"Accept-Encoding: identity;q=0, *;q=0"), 406),
        *(
            Case(f"{position[:40]!r} as a cursor", get(page(position)), status, word)
            for position, status, word in (
                # the import is looked for first
                (b"[1,1]", 404, ""),
                (b"[" * 40_000, 404, ""),
            )
        ),
    ]
)


def export_request(body: bytes, *headers: bytes) -> list[bytes]:
    return post(body, *headers, target=EXPORTS, type=b"application/json")


TICKETS = b"/api/v1/tickets"
MEMBERS = b",".join(b'"k%d":1' % n for n in range(60_000))


def ticket(body: bytes) -> list[bytes]:
    return post(body, target=TICKETS, type=b"application/json")


EXPORT_REQUESTS = [
    Case("nothing", export_request(b""), 400),
    Case("no JSON", export_request(b"{"), 400),
    Case("NUL", export_request(b"\0"), 400),
    Case("not UTF-8", export_request(b'{"resource": "\xff"}'), 400),
    Case("half a character", export_request(b'{"resource": "users", "idempotency_token": "\\ud800"}'), 400),
    Case("an array", export_request(b"[]"), 400),
    Case("an array in an array in an array", export_request(b"[" * 500_000), 400),
    Case("an object in an object in an object", export_request(b'{"a":' * 100_000), 400),
    Case(
        "deep filters",
        export_request(b'{"resource": "users", "filters": ' + b'{"a":' * 900 + b"1" + b"}" * 901),
        400,
        "filters",
    ),
    Case("no resource", export_request(b"{}"), 400, "resource"),
    Case("a number for a resource", export_request(b'{"resource": 1}'), 400, "resource"),
    Case("a list of resources", export_request(b'{"resource": ["users"]}'), 400, "resource"),
    Case("an unknown key", export_request(b'{"resource": "users", "admin": true}'), 400, "admin"),
    Case(
        "50,000 unknown keys",
        export_request(b"{" + b",".join(b'"k%d":1' % n for n in range(50_000)) + b"}"),
        400,
        "parameters",
    ),
    Case("a key of 900 kB", export_request(b'{"resource": "users", "' + b"k" * 900_000 + b'": 1}'), 400, "kkk"),
    Case("a value of 900 kB", export_request(b'{"resource": "' + b"v" * 900_000 + b'"}'), 400, "resource"),
    Case("a number of 900 kB", export_request(b'{"resource": ' + b"9" * 900_000 + b"}"), 400),
    Case("an infinite number", export_request(b'{"resource": "users", "filters": {"id": 1e999}}'), 400),
    Case(
        "a filter of another resource", export_request(b'{"resource": "users", "filters": {"slug": "a"}}'), 400, "slug"
    ),
    Case(
        "a filter with a NUL", export_request(b'{"resource": "users", "filters": {"email": "a\\u0000"}}'), 400, "email"
    ),
    Case(
        "a filter that is an object", export_request(b'{"resource": "users", "filters": {"email": {}}}'), 400, "email"
    ),
    Case("a filter of lists", export_request(b'{"resource": "users", "filters": {"id": [[], {}]}}'), 400, "id"),
    Case(
        "100,000 values",
        export_request(b'{"resource":"users","filters":{"email":[' + b'"a",' * 100_000 + b'"b"]}}'),
        400,
        "email",
    ),
    Case(
        "a filter of time before the first year",
        export_request(b'{"resource": "users", "filters": {"created_after": "0001-01-01T00:00:00+23:59"}}'),
        400,
        "created_after",
    ),
    Case(
        "60,000 unknown filters", export_request(b'{"resource":"users","filters":{' + MEMBERS + b"}}"), 400, "filters"
    ),
    Case("a compressed order", export_request(b'{"resource": "users"}', b"Content-Encoding: gzip"), 415, "gzip"),
    Case(
        "a compressed ticket", post(b"{}", b"Content-Encoding: br", target=TICKETS, type=b"application/json"), 415, "br"
    ),
    Case("a ticket for another host", ticket(b'{"path": "//evil.example/api/v1/imports"}'), 400, "path"),
    Case("a ticket for a page", ticket(b'{"path": "/ui/imports"}'), 400, "path"),
    Case("a ticket of 60,000 members", ticket(b"{" + MEMBERS + b"}"), 400, "parameters"),
    Case("a field twice", export_request(b'{"resource": "users", "fields": ["id", "id"]}'), 400, "fields"),
    Case("an unknown field", export_request(b'{"resource": "users", "fields": ["password"]}'), 400, "fields"),
    Case(
        "100,000 fields",
        export_request(b'{"resource":"users","fields":[' + b'"x",' * 100_000 + b'"y"]}'),
        400,
        "fields",
    ),
    Case("more than a megabyte", export_request(b'{"resource": "' + b"v" * 2_000_000 + b'"}'), 413),
    Case("another type", post(b"a=b", target=EXPORTS, type=b"application/x-www-form-urlencoded"), 415),
]
