"""Import requests and the looks at jobs, as an API answers that has no workers: jobs wait, so nothing moves between two looks."""

import base64
import gzip
import hashlib
import json
from urllib.parse import quote

import pytest

from api.imports.decompression import zstd
from tests.support.api_client import PATH, USERS_HEADER, user_object, user_row

USERS = USERS_HEADER + user_row(1) + user_row(2)
UPLOAD_MAX_BYTES = 50_000
JSON_BODY_MAX_BYTES = 20_000
UNKNOWN_ID = "0192f0c1-0000-7000-8000-000000000000"
SERVICE = {
    "run": ["api"],
    "batch_size": 2,
    "upload_max_bytes": UPLOAD_MAX_BYTES,
    "json_body_max_bytes": JSON_BODY_MAX_BYTES,
}


async def post_users(api, content: bytes = USERS, *, type: str = "text/csv", **options):
    params = {"resource": "users"} | options.pop("params", {})
    return await api.post(content, type=type, params=params, **options)


async def refused(api, answer, status: int, slug: str) -> dict:
    """The problem that an answer has to be; nothing of its request was stored."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["status"]) == (f"/problems/{slug}", status)
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert await api.has_nothing()
    return problem


# (parameters beside resource=users, the faults as (field, code))
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
    """Wherever they stand: 400 names every parameter that is wrong."""
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
    """A multipart body whose parts come in just this order: (the head's parameters, the content)."""
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
    """A form has one file and each parameter once; what says how to read the file comes before it."""
    problem = await refused(api, await api.post(**form_of(*parts)), 400, "invalid-request")
    assert [(fault["field"], fault["code"]) for fault in problem["errors"]] == [(field, code)]


async def test_forms_that_are_none(api):
    """A form that is cut off, has no edge, or has far too many parts is 400."""
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
    """What does not change how the file is read may come behind it, and the edge may be quoted."""
    form = form_of(FILE, RESOURCE, ('name="unknown_fields"', b"ignore"))
    form["content"] = form["content"].replace(b"edge", b"an edge, so")
    answer = await api.post(form["content"], type='multipart/form-data; charset=utf-8; Boundary="an edge, so"')
    assert answer.status_code == 202, answer.text
    assert answer.json()["total_records"] == 2


@pytest.mark.parametrize("name", ["a/../ü.csv", "nul\0.csv", "x" * 3000 + ".csv", ""])
async def test_file_names(api, name):
    """Whatever a file is called, it is only a name."""
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
    """The object form has an array of records and parameters that are known; else it is 400."""
    await refused(api, await api.post(body, type="application/json"), 400, "invalid-request")


@pytest.mark.parametrize(
    "query", ["resource=users&mode=%FF", "resource=%00", "%00=%00", "resource=users&&=", "resource"]
)
async def test_queries_that_are_hardly_any(api, query):
    """A query may be any bytes; the answer is 400."""
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
    """415 tells what it does not know."""
    answer = await api.post(USERS, headers=headers, params={"resource": "users"})
    assert words in (await refused(api, answer, 415, "unsupported-format"))["detail"]


async def test_a_packed_form(api):
    """Content-Encoding is of the whole body, a form's too."""
    form = form_of(RESOURCE, FILE)
    answer = await api.post(gzip.compress(form["content"]), type=form["type"], headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 202, answer.text


def users(size: int) -> bytes:
    """A file of just so many bytes."""
    file = USERS_HEADER + b"".join(user_row(n) for n in range(size // 30))[: size - len(USERS_HEADER)]
    return file + b"x" * (size - len(file))


async def stream(content: bytes):
    for start in range(0, len(content), 10_000):
        yield content[start : start + 10_000]


async def test_too_large(api):
    """The limit holds for what is sent, told beforehand or not, and for what it unpacks to; just the limit is allowed."""
    most, more = users(UPLOAD_MAX_BYTES), users(UPLOAD_MAX_BYTES + 1)
    form = {"files": {"file": ("u.csv", more)}, "data": {"resource": "users"}}
    for content, options in (
        (more, {}),
        (stream(more), {}),
        (gzip.compress(more), {"headers": {"Content-Encoding": "gzip"}}),
        (zstd.compress(more), {"headers": {"Content-Encoding": "zstd"}}),
    ):
        problem = await refused(api, await post_users(api, content, **options), 413, "payload-too-large")
        assert problem["limit_bytes"] == UPLOAD_MAX_BYTES
    await refused(api, await api.post(**form), 413, "payload-too-large")
    packed = {"file": ("u.csv.gz", gzip.compress(more))}
    await refused(api, await api.post(files=packed, data={"resource": "users"}), 413, "payload-too-large")
    assert (await post_users(api, stream(most))).status_code == 202
    packed = {"headers": {"Content-Encoding": "gzip"}}
    assert (await post_users(api, gzip.compress(most), **packed)).status_code == 202


async def test_an_object_too_large(api):
    """An object is held in memory and has its own limit; an array, and blanks however many, have not."""
    records = b"[" + b",".join([user_object(1)] * 300) + b"]"
    body = b'{"resource": "users", "records": ' + records + b"}"
    answer = await api.post(body, type="application/json")
    assert (await refused(api, answer, 413, "payload-too-large"))["limit_bytes"] == JSON_BODY_MAX_BYTES
    answer = await post_users(api, b" " * JSON_BODY_MAX_BYTES + records, type="application/json")
    assert answer.json()["total_records"] == 300


async def test_content_digest(api):
    """Over the bytes as they were sent; a wrong one is told, one of another algorithm is not looked at."""
    packed = gzip.compress(USERS)
    digest = base64.b64encode(hashlib.sha256(packed).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(USERS).digest()).decode()
    encoding = {"Content-Encoding": "gzip"}
    for header in (f"sha-256=:{wrong}:", f"md5=:x:, SHA-256=:{wrong}:"):
        answer = await post_users(api, packed, headers=encoding | {"Content-Digest": header})
        await refused(api, answer, 400, "digest-mismatch")
    for header in ("sha-256=:abc:", f"sha-256={digest}", "sha-256=", "sha-256=:ü:"):
        answer = await post_users(api, packed, headers=encoding | {"Content-Digest": header.encode()})
        problem = await refused(api, answer, 400, "invalid-request")
        assert [fault["field"] for fault in problem["errors"]] == ["Content-Digest"]
    for header in (f"sha-256=:{digest}:", f"md5=:x:,sha-256=:{digest}:", "md5=:x:"):
        answer = await post_users(api, packed, headers=encoding | {"Content-Digest": header})
        assert answer.status_code == 202


async def test_a_job_that_waits(api):
    """All that can be told before the work begins is told at once: totals, the file, 0 percent, when to ask again."""
    answer = await post_users(api, USERS + user_row(3), headers={"X-Request-Id": "caller.1"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == job["links"]["self"] == f"{PATH}/{job['id']}"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-request-id"] == "caller.1"
    assert await api.value("SELECT request_id FROM import_jobs") == "caller.1"
    assert (job["kind"], job["status"], job["outcome"], job["resource"]) == ("import", "pending", None, "users")
    assert (job["total_records"], job["processed_records"]) == (3, 0)
    assert job["counts"] == dict.fromkeys(job["counts"], 0) | {"unprocessed": 3}
    assert job["progress"] == {"percent": 0, "records_per_second": None, "eta_seconds": None}
    file = USERS + user_row(3)
    assert job["file"] == {"name": None, "bytes": len(file), "sha256": hashlib.sha256(file).hexdigest()}
    assert (job["error_count"], job["errors"], job["error_summary"], job["problem"]) == (0, [], [], None)
    assert job["created_at"].endswith("Z")
    assert (job["started_at"], job["finished_at"]) == (None, None)
    assert (await api.get(f"/{job['id']}")).json() == job


async def test_validators(api):
    """A client that has the job as it is gets 304, without a body; one that has another gets the job."""
    answer = await post_users(api)
    first = await api.get(f"/{answer.json()['id']}")
    assert first.headers["retry-after"] == "1"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await api.get(f"/{answer.json()['id']}", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert (again.headers["etag"], again.headers["retry-after"]) == (tag, "1")
    assert (await api.get(f"/{answer.json()['id']}", headers={"If-None-Match": '"other"'})).status_code == 200


async def test_an_empty_file_is_done(api):
    """No record: completed at once, nothing to wait for."""
    answer = await post_users(api, b"")
    job = answer.json()
    assert answer.status_code == 202
    assert "retry-after" not in answer.headers
    assert (job["status"], job["outcome"], job["total_records"]) == ("completed", "success", 0)
    assert job["progress"]["percent"] == 100
    assert "retry-after" not in (await api.get(f"/{job['id']}")).headers


async def test_lists(api):
    """Newest first; every job once, whatever the page; filters by status and resource."""
    ids = [(await post_users(api, USERS if n % 3 else b"")).json()["id"] for n in range(7)]
    ids.append((await post_users(api, b"", params={"resource": "articles"})).json()["id"])
    ids.reverse()
    for query, wanted in (
        ({}, ids),
        ({"resource": "users"}, ids[1:]),
        ({"resource": "articles", "status": "completed"}, ids[:1]),
        ({"status": "pending"}, [id for n, id in enumerate(reversed(ids[1:])) if n % 3][::-1]),
        ({"status": "failed"}, []),
    ):
        found = []
        answer = await api.get(params={**query, "limit": 3})
        while True:
            page = answer.json()
            assert ("next" in answer.links) == (page["next_cursor"] is not None)
            found += [job["id"] for job in page["imports"]]
            if "next" not in answer.links:
                break
            answer = await api.client.get(answer.links["next"]["url"])
        assert found == wanted
    job = (await api.get()).json()["imports"][0]
    assert {*(await api.get(f"/{ids[0]}")).json()} - {*job} == {
        "errors",
        "error_summary",
        "error_kinds",
        "waiting_for",
        "repaired",
    }


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("", {"limit": "0"}, "limit"),
        ("", {"limit": "101"}, "limit"),
        ("", {"limit": "x"}, "limit"),
        ("", {"status": "uploading"}, "status"),
        ("", {"resource": "x"}, "resource"),
        ("", {"outcome": "failed"}, "outcome"),
        ("", {"parent": "x"}, "parent"),
        ("", {"name": ""}, "name"),
        ("", {"name": "a\0b"}, "name"),
        ("", {"name": "x" * 256}, "name"),
        ("", {"dry_run": "maybe"}, "dry_run"),
        ("", {"created_after": "yesterday"}, "created_after"),
        ("", {"created_before": "2026-01-31T12:00:00"}, "created_before"),
        ("", {"counts": "all"}, "counts"),
        ("", {"cursor": "x"}, "cursor"),
        ("", {"page": "2"}, "page"),
        ("/{id}", {"wait": "1"}, "wait"),
        ("/{id}/errors", {"limit": "1001"}, "limit"),
        ("/{id}/errors", {"cursor": "x"}, "cursor"),
        ("/{id}/errors", {"cursor": ""}, "cursor"),
        ("/{id}/errors", {"cursor": "ü"}, "cursor"),
        ("/{id}/errors", {"cursor": base64.urlsafe_b64encode(b"[1]").decode()}, "cursor"),
        ("/{id}/errors", {"cursor": base64.urlsafe_b64encode(b'["1", 2]').decode()}, "cursor"),
        ("/{id}/errors", {"code": "bad"}, "code"),
        ("/{id}/errors", {"field": "a\0b"}, "field"),
        ("/{id}/errors", {"format": "xml"}, "format"),
    ],
)
async def test_wrong_looks(api, path, query, field):
    """What is asked for wrongly is 400 with the parameter's name."""
    answer = await api.get(path.format(id=(await post_users(api)).json()["id"]), params=query)
    assert answer.status_code == 400, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("id", [UNKNOWN_ID, "x", "%00", "0192f0c1-0000-7000-8000-00000000000", json.dumps({})])
async def test_unknown_jobs(api, id):
    """An id of nothing, or that is none, is 404; an upload under way is not a job yet."""
    await api.conn.execute("INSERT INTO import_jobs (id) VALUES (%s)", (UNKNOWN_ID,))
    for path in (f"/{id}", f"/{id}/errors"):
        answer = await api.get(path)
        assert answer.status_code == 404
        assert answer.json()["type"] == "/problems/not-found"
    assert (await api.get()).json()["imports"] == []


async def test_other_forms_of_an_id(api):
    """An id has one form. What Python would read as the same UUID is the id of nothing, in paths and as a cursor."""
    id = (await api.post(USERS_HEADER, type="text/csv", params={"resource": "users"})).json()["id"]
    plain = id.replace("-", "")
    arabic = id.translate({ord(str(digit)): chr(0x660 + digit) for digit in range(10)})
    for other in (f"{{{id}}}", f"urn:uuid:{id}", plain, f"\n{plain[1:]}", f" {id}", f"{id} ", f"+{plain[1:]}", arabic):
        for path in (f"/{other}", f"/{other}/errors?limit=1", f"/{other}/events", f"/{other}/failed-records"):
            answer = await api.client.get(PATH + path.replace(other, quote(other)))
            assert (path, answer.status_code) == (path, 404)
        assert (await api.get(params={"cursor": other})).status_code == 400
    answer = await api.get(f"/{id.upper()}")
    assert answer.json()["id"] == id
