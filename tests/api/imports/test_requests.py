"""Requests for imports: parameters, forms, objects, bodies that are too large, compressed or of an unknown type."""

import base64
import gzip
import hashlib

import pytest

from api.imports.decompression import zstd
from tests.support.api_client import PATH, USERS_HEADER, post_users, user_object, user_row

USERS = USERS_HEADER + user_row(1) + user_row(2)
UPLOAD_MAX_BYTES = 50_000
JSON_BODY_MAX_BYTES = 20_000
SERVICE = {
    "run": ["api"],
    "batch_size": 2,
    "upload_max_bytes": UPLOAD_MAX_BYTES,
    "json_body_max_bytes": JSON_BODY_MAX_BYTES,
}


async def refused(api, answer, status: int, slug: str) -> dict:
    """Checks that the response is this problem and that nothing of its request was stored. Returns the problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["status"]) == (f"/problems/{slug}", status)
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert await api.has_nothing()
    return problem


# (parameters in addition to resource=users, the errors as (field, code))
WRONG = [
    ({"resource": ""}, [("resource", "invalid_value")]),
    ({"resource": "Users"}, [("resource", "invalid_value")]),
    ({"resource": ["users", "users"]}, [("resource", "repeated_parameter")]),
    ({"resource": ["users", "articles"]}, [("resource", "repeated_parameter")]),
    ({"mode": "replace"}, [("mode", "invalid_value")]),
    ({"format": "xml"}, [("format", "invalid_value")]),
    ({"unknown_fields": "yes"}, [("unknown_fields", "invalid_value")]),
    ({"csv_delimiter": "::"}, [("csv_delimiter", "invalid_value")]),
    ({"idempotency_token": ""}, [("idempotency_token", "invalid_value")]),
    ({"idempotency_token": "k" * 256}, [("idempotency_token", "invalid_value")]),
    ({"idempotency_token": "a\0b"}, [("idempotency_token", "invalid_value")]),
    ({"colour": "red"}, [("colour", "unknown_parameter")]),
    ({"": "red"}, [("", "unknown_parameter")]),
    (
        {"Mode": "x", "mode": "y", "format": "z"},
        [("Mode", "unknown_parameter"), ("mode", "invalid_value"), ("format", "invalid_value")],
    ),
    ({"on_error": "go on"}, [("on_error", "invalid_value")]),
    ({"max_errors": "-1"}, [("max_errors", "invalid_value")]),
    ({"max_error_rate": "1.5"}, [("max_error_rate", "invalid_value")]),
    ({"dry_run": "perhaps"}, [("dry_run", "invalid_value")]),
    ({"after": "yesterday"}, [("after", "invalid_value")]),
]


# an object has each member once
IN_FORMS = [
    (form, wrong, faults)
    for form in ("query", "multipart", "object")
    for wrong, faults in WRONG
    if form != "object" or not isinstance(wrong.get("resource"), list)
]


@pytest.mark.parametrize(("form", "wrong", "faults"), IN_FORMS)
async def test_wrong_parameters(api, form, wrong, faults):
    """In a query, a form or an object: the problem of the 400 names every wrong parameter."""
    given = {"resource": "users"} | wrong
    if form == "query":
        answer = await api.post(USERS, type="text/csv", params=given)
    elif form == "multipart":
        answer = await api.post(data=given, files={"file": ("u.csv", USERS)})
    else:
        answer = await api.post(json=given | {"records": []})
    problem = await refused(api, answer, 400, "invalid-request")
    assert [(fault["field"], fault["code"]) for fault in problem["errors"]] == faults
    assert all(field in problem["detail"] for field, _ in faults)


def form_of(*parts: tuple[str, bytes]) -> dict:
    """A multipart body with these parts in this order: (the parameters of Content-Disposition, the content)."""
    body = b"".join(
        b"--edge\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), content)
        for head, content in parts
    )
    return {"content": body + b"--edge--\r\n", "type": "multipart/form-data; boundary=edge"}


FILE = ('name="file"; filename="u.csv"', USERS)
RESOURCE = ('name="resource"', b"users")


@pytest.mark.parametrize(
    ("parts", "field", "code"),
    [
        ([FILE], "resource", "missing"),
        ([RESOURCE], "file", "missing"),
        ([], "file", "missing"),
        ([RESOURCE, FILE, FILE], "file", "repeated_parameter"),
        ([RESOURCE, ('name="upload"; filename="u.csv"', USERS)], "upload", "unknown_parameter"),
        ([RESOURCE, FILE, RESOURCE], "resource", "repeated_parameter"),
        ([RESOURCE, FILE, ('name="mode"', b"replace")], "mode", "invalid_value"),
        ([RESOURCE, FILE, ('name="format"', b"json")], "format", "too_late"),
        ([RESOURCE, FILE, ('name="csv_delimiter"', b";")], "csv_delimiter", "too_late"),
        ([('name="mode"', b"i" * 5000), RESOURCE, FILE], "mode", "too_long"),
        ([('name="mode"', b"\xff"), RESOURCE, FILE], "mode", "invalid_value"),
    ],
)
async def test_wrong_forms(api, parts, field, code):
    """A form has one file and each parameter once. Parameters that affect how the file is read come before it."""
    problem = await refused(api, await api.post(**form_of(*parts)), 400, "invalid-request")
    assert [(fault["field"], fault["code"]) for fault in problem["errors"]] == [(field, code)]


async def test_malformed_forms(api):
    """A form that is truncated, has no boundary or too many parts is 400."""
    whole = form_of(RESOURCE, FILE)
    for content, type in (
        (whole["content"][:-10], whole["type"]),
        (whole["content"], "multipart/form-data"),
        (whole["content"], "multipart/form-data; boundary=other"),
        (b"", whole["type"]),
        (form_of(*[RESOURCE] * 100, FILE)["content"], whole["type"]),
        (form_of((f'name="{"n" * 9000}"', b""), FILE)["content"], whole["type"]),
        (form_of(("no=name", b""), FILE)["content"], whole["type"]),
    ):
        await refused(api, await api.post(content, type=type), 400, "invalid-request")


async def test_parameters_behind_the_file(api):
    """Parameters that do not affect how the file is read may come after it. The boundary may be quoted."""
    form = form_of(FILE, RESOURCE, ('name="unknown_fields"', b"ignore"))
    form["content"] = form["content"].replace(b"edge", b"a boundary, so")
    answer = await api.post(form["content"], type='multipart/form-data; charset=utf-8; Boundary="a boundary, so"')
    assert answer.status_code == 202, answer.text
    assert answer.json()["total_records"] == 2


@pytest.mark.parametrize("name", ["a/../ü.csv", "nul\0.csv", "x" * 3000 + ".csv", ""])
async def test_file_names(api, name):
    """Any name of a file is accepted and has no other effect."""
    answer = await api.post(**form_of(RESOURCE, (f'name="file"; filename="{name}"', USERS)))
    assert answer.status_code == 202, answer.text
    assert answer.json()["file"]["name"] == name.replace("\0", "\ufffd")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"resource": "users"}',
        b'{"resource": "users", "records": {}}',
        b'{"resource": "users", "records": 1}',
        b'{"resource": "users", "records": null}',
        b'{"resource": "users", "records": [}',
        b'{"resource": ["users"], "records": []}',
        b'{"resource": "us\xff", "records": []}',
        b'{"resource": "\\ud800", "records": []}',
        b'{"a":' * 3_000,
        b'{"resource": "users", "records": []} {}',
    ],
)
async def test_wrong_objects(api, body):
    """An object has an array of records and known parameters; any other is 400."""
    await refused(api, await api.post(body, type="application/json"), 400, "invalid-request")


@pytest.mark.parametrize(
    "query", ["resource=users&mode=%FF", "resource=%00", "%00=%00", "resource=users&&=", "resource"]
)
async def test_malformed_queries(api, query):
    """A query of invalid bytes or names is 400."""
    answer = await api.client.post(f"{PATH}?{query}", content=USERS, headers={"Content-Type": "text/csv"})
    await refused(api, answer, 400, "invalid-request")


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Content-Type": "image/png"}, "image/png"),
        ({"Content-Type": "text/csv", "Content-Encoding": "br"}, "br"),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip, zstd"}, "gzip, zstd"),
        ({"Content-Type": "multipart/form-data; boundary=edge", "Content-Encoding": "br"}, "br"),
    ],
)
async def test_unsupported_formats(api, headers, words):
    """The problem of the 415 names the unsupported format or encoding."""
    answer = await api.post(USERS, headers=headers, params={"resource": "users"})
    assert words in (await refused(api, answer, 415, "unsupported-format"))["detail"]


async def test_a_compressed_form(api):
    """Content-Encoding is that of the whole body, also of a form."""
    form = form_of(RESOURCE, FILE)
    answer = await api.post(gzip.compress(form["content"]), type=form["type"], headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 202, answer.text


def users(size: int) -> bytes:
    """A file of exactly this size in bytes."""
    file = USERS_HEADER + b"".join(user_row(n) for n in range(size // 30))[: size - len(USERS_HEADER)]
    return file + b"x" * (size - len(file))


async def stream(content: bytes):
    for start in range(0, len(content), 10_000):
        yield content[start : start + 10_000]


async def test_too_large(api):
    """The limit is inclusive. It holds for the bytes sent, with or without Content-Length, and for the decompressed ones."""
    largest, larger = users(UPLOAD_MAX_BYTES), users(UPLOAD_MAX_BYTES + 1)
    form = {"files": {"file": ("u.csv", larger)}, "data": {"resource": "users"}}
    for content, options in (
        (larger, {}),
        (stream(larger), {}),
        (gzip.compress(larger), {"headers": {"Content-Encoding": "gzip"}}),
        (zstd.compress(larger), {"headers": {"Content-Encoding": "zstd"}}),
    ):
        problem = await refused(api, await post_users(api, content, **options), 413, "payload-too-large")
        assert problem["limit_bytes"] == UPLOAD_MAX_BYTES
    await refused(api, await api.post(**form), 413, "payload-too-large")
    compressed = {"file": ("u.csv.gz", gzip.compress(larger))}
    await refused(api, await api.post(files=compressed, data={"resource": "users"}), 413, "payload-too-large")
    assert (await post_users(api, stream(largest))).status_code == 202
    compressed = {"headers": {"Content-Encoding": "gzip"}}
    assert (await post_users(api, gzip.compress(largest), **compressed)).status_code == 202


async def test_an_object_too_large(api):
    """An object is held in memory and has a limit of its own. An array has not, nor has white space before it."""
    records = b"[" + b",".join([user_object(1)] * 300) + b"]"
    body = b'{"resource": "users", "records": ' + records + b"}"
    answer = await api.post(body, type="application/json")
    assert (await refused(api, answer, 413, "payload-too-large"))["limit_bytes"] == JSON_BODY_MAX_BYTES
    answer = await post_users(api, b" " * JSON_BODY_MAX_BYTES + records, type="application/json")
    assert answer.json()["total_records"] == 300


async def test_content_digest(api):
    """The digest is that of the bytes as sent. A wrong one is 400; one of another algorithm is ignored."""
    compressed = gzip.compress(USERS)
    digest = base64.b64encode(hashlib.sha256(compressed).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(USERS).digest()).decode()
    encoding = {"Content-Encoding": "gzip"}
    for header in (f"sha-256=:{wrong}:", f"md5=:x:, SHA-256=:{wrong}:"):
        answer = await post_users(api, compressed, headers=encoding | {"Content-Digest": header})
        await refused(api, answer, 400, "digest-mismatch")
    for header in ("sha-256=:abc:", f"sha-256={digest}", "sha-256=", "sha-256=:ü:"):
        answer = await post_users(api, compressed, headers=encoding | {"Content-Digest": header.encode()})
        problem = await refused(api, answer, 400, "invalid-request")
        assert [fault["field"] for fault in problem["errors"]] == ["Content-Digest"]
    for header in (f"sha-256=:{digest}:", f"md5=:x:,sha-256=:{digest}:", "md5=:x:"):
        answer = await post_users(api, compressed, headers=encoding | {"Content-Digest": header})
        assert answer.status_code == 202
