"""Imports from a bucket: `source` names an object, which is read instead of a file in the request."""

import csv
import gzip
import hashlib
import sys

import httpx
import openpyxl
import pytest
import pytest_asyncio

from db.imports.objects import PART_BYTES
from tests.support import api_client, xlsx
from tests.support import bucket as buckets
from tests.support.api_client import PATH, USERS_HEADER, problem, user_object, user_row
from tests.support.eventually import PATIENCE_SECONDS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


CSV = USERS_HEADER + user_row(1) + user_row(2)
NDJSON = user_object(1) + b"\n" + user_object(2) + b"\n"


@pytest.fixture(scope="module")
def files(s3):
    """The bucket of the module's service, which may import what is below in/ and the object one.csv."""
    return buckets.create(s3, "files")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(server_url, tmp_path_factory, files):
    allowed = "s3://files/in/, s3://files/one.csv, s3://no-such-bucket"
    settings = files.settings | {"import_sources": allowed, "upload_max_bytes": 3 * PART_BYTES, "batch_size": 100}
    async with api_client.service(server_url, tmp_path_factory.mktemp("service"), worker_pool_size=1, **settings) as it:
        yield it


async def post_source(api, source: str, **members):
    headers = members.pop("headers", {})
    return await api.client.post(PATH, json={"resource": "users", "source": source, **members}, headers=headers)


async def test_an_object_is_imported(api, files):
    """The object is imported like a file with its name. The job has what was read."""
    source = files.put("in/a b/users é.csv", CSV)
    found = files.client.head_object(Bucket="files", Key="in/a b/users é.csv")
    job = await api.finished(await post_source(api, source))
    assert (job["outcome"], job["counts"]["created"], job["format"]) == ("success", 2, "csv")
    assert job["file"] == {"name": "users é.csv", "bytes": len(CSV), "sha256": hashlib.sha256(CSV).hexdigest()}
    assert job["source"] == {
        "url": source,
        "bytes": len(CSV),
        "e_tag": found["ETag"],
        "last_modified": found["LastModified"].isoformat().replace("+00:00", "Z"),
        "verified": "md5",
    }
    [listed] = (await api.get(params={"name": "users é.csv"})).json()["imports"]
    assert listed["source"] == job["source"]
    sent = await api.finished(await api_client.post_users(api, CSV))
    assert sent["source"] is None


def workbook() -> bytes:
    book = openpyxl.Workbook()
    for row in csv.reader(CSV.decode().splitlines()):
        book.worksheets[0].append(row)
    return xlsx.saved(book)


@pytest.mark.parametrize(
    ("key", "body", "attributes"),
    [
        ("users.xlsx", workbook(), {}),
        ("users.csv.gz", gzip.compress(CSV), {}),
        ("users.ndjson.zst", zstd.compress(NDJSON), {}),
        ("users.csv", gzip.compress(CSV), {"ContentEncoding": "gzip"}),
        ("users.csv.gz", gzip.compress(CSV), {"ContentEncoding": "gzip", "ContentType": "text/csv; charset=utf-8"}),
        ("users", CSV, {"ContentType": "text/csv"}),
        ("users.json", b"[%b,%b]" % (user_object(1), user_object(2)), {"ContentType": "binary/octet-stream"}),
        ("users", NDJSON, {}),
    ],
)
async def test_packed_objects_and_formats(api, files, key, body, attributes):
    """Format and compression are those of the object's name and headers. `bytes` of the source are those as stored."""
    job = await api.finished(await post_source(api, files.put(f"in/{key}", body, **attributes)))
    assert job["counts"]["created"] == 2
    assert job["source"]["bytes"] == len(body)


async def test_the_parameters_of_an_import(api, files):
    """A format that the name does not have, columns, a dry run. The commit has the file, but reads no object."""
    source = files.put("one.csv", b"[" + user_object(1).replace(b'"name"', b'"full name"') + b"]")
    posted = await post_source(api, source, format="json", columns={"full name": "name"}, dry_run=True)
    job = await api.finished(posted)
    assert job["counts"]["created"] == 1
    committed = await api.finished(await api.client.post(job["links"]["commit"]))
    assert (committed["counts"]["created"], committed["source"]) == (1, None)


async def test_an_empty_object(api, files):
    """An empty object is an import of 0 records."""
    posted = await post_source(api, files.put("in/empty.csv", b""))
    assert (posted.json()["status"], posted.json()["total_records"]) == ("completed", 0)


async def test_source_as_a_part_of_a_form(api, files):
    """A form may have the part `source` instead of the part `file`."""
    source = files.put("in/users.csv", CSV)
    posted = await api.client.post(PATH, files={"resource": (None, "users"), "source": (None, source)})
    assert (await api.finished(posted))["counts"]["created"] == 2


@pytest.mark.parametrize(
    "source",
    [
        "s3://files/inside/users.csv",
        "s3://files/in",
        "s3://files/one.csv.gz",
        "s3://files/one.csv/x",
        "s3://other/in/users.csv",
        "s3://files.in/users.csv",
    ],
)
async def test_sources_that_are_not_allowed(api, source):
    """Prefixes are compared by whole segments."""
    expected = 400 if source in ("s3://files/in", "s3://files/one.csv/x") else 403
    answer = await post_source(api, source)
    # these two are allowed, but there is no such object
    assert answer.status_code == expected
    if expected == 403:
        problem(answer, 403, "source-not-allowed")
    assert await api.has_nothing()


@pytest.mark.parametrize(
    "source",
    [
        "s3://files/in/../secret.csv",
        "s3://files/in/./users.csv",
        "s3://files/in//users.csv",
        "s3://files/in/",
        "s3://files",
        "s3://Files/in/users.csv",
        "s3://key:secret@files/in/users.csv",
        "s3://files/in/users\n.csv",
        "s3://files/in/" + "é" * 512,
        "http://127.0.0.1/in/users.csv",
        "file:///etc/passwd",
        "/etc/passwd",
        7,
    ],
)
async def test_sources_that_are_no_address(api, source):
    document = problem(await post_source(api, source), 400, "invalid-request")
    assert document["errors"][0]["field"] == "source"
    assert await api.has_nothing()


async def test_a_missing_object(api):
    """The problem names the object and nothing else, and no job remains."""
    for source in ("s3://files/in/missing.csv", "s3://no-such-bucket/users.csv"):
        document = problem(await post_source(api, source), 400, "invalid-request")
        assert document["detail"] == f"source names no object: {source}"
    assert await api.has_nothing()


async def test_a_file_and_a_source(api, files):
    """A request has a file or a source."""
    source = files.put("in/users.csv", CSV)
    file = ("users.csv", CSV)
    answers = [
        await api.client.post(PATH, json={"resource": "users", "source": source, "records": []}),
        await api.client.post(PATH, files={"resource": (None, "users"), "source": (None, source), "file": file}),
        await api.client.post(PATH, files={"resource": (None, "users"), "file": file, "source": (None, source)}),
        await api_client.post_users(api, CSV, params={"source": source}),
        await api_client.post_users(api, CSV, params={"source_sha256": "0" * 64}),
    ]
    for answer in answers:
        problem(answer, 400, "invalid-request")
    assert await api.has_nothing()


async def test_a_bad_file(api, files):
    """An object that is no file of the resource returns 400 like an upload, and no job remains."""
    answer = await post_source(api, files.put("in/users.csv", b"email,nickname\na@example.org,A\n"))
    assert "nickname" in problem(answer, 400, "invalid-request")["detail"]
    answer = await post_source(api, files.put("in/users.csv.gz", gzip.compress(CSV)[:-9]))
    assert "gzip" in problem(answer, 400, "invalid-request")["detail"]
    answer = await post_source(api, files.put("in/users.csv", CSV, ContentEncoding="br"))
    problem(answer, 415, "unsupported-format")
    assert await api.has_nothing()


async def test_an_object_that_is_too_large(api, files):
    """UPLOAD_MAX_BYTES applies to the object as stored and decompressed."""
    zeros = b"[" + b" " * (4 * PART_BYTES)
    for key, body in (("in/large.json", zeros), ("in/large.json.zst", zstd.compress(zeros))):
        problem(await post_source(api, files.put(key, body)), 413, "payload-too-large")
    assert await api.has_nothing()


async def test_the_digest_of_the_client(api, files):
    """`source_sha256` is compared with the bytes as stored. With another digest nothing is imported."""
    body = gzip.compress(CSV)
    source, sha256 = files.put("in/users.csv.gz", body), hashlib.sha256(body).hexdigest()
    problem(await post_source(api, source, source_sha256=hashlib.sha256(CSV).hexdigest()), 400, "digest-mismatch")
    problem(await post_source(api, source, source_sha256="abc"), 400, "invalid-request")
    assert await api.has_nothing()
    job = await api.finished(await post_source(api, source, source_sha256=sha256.upper()))
    assert job["source"]["verified"] == "sha256"


async def test_an_etag_that_is_no_digest(api, files):
    """The ETag of a multipart upload is not the MD5 of the bytes: they are imported unverified."""
    upload = {"Bucket": "files", "Key": "in/parts.ndjson"}
    id = files.client.create_multipart_upload(**upload)["UploadId"]
    part = files.client.upload_part(**upload, UploadId=id, PartNumber=1, Body=NDJSON)
    parts = [{"ETag": part["ETag"], "PartNumber": 1}]
    files.client.complete_multipart_upload(**upload, UploadId=id, MultipartUpload={"Parts": parts})
    job = await api.finished(await post_source(api, "s3://files/in/parts.ndjson"))
    assert (job["counts"]["created"], job["source"]["verified"]) == (2, None)


async def test_a_repeated_request(api, files):
    """A request with the same key returns the job, also when the object was replaced or deleted. Another source is refused."""
    source, other = files.put("in/users.csv", CSV), files.put("in/other.csv", CSV)
    headers = {"Idempotency-Key": "key"}
    first = await post_source(api, source, headers=headers)
    assert first.status_code == 202
    files.put("in/users.csv", NDJSON)
    for _ in range(2):
        again = await post_source(api, source, headers=headers)
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
        files.client.delete_object(Bucket="files", Key="in/users.csv")
    problem(await post_source(api, other, headers=headers), 422, "idempotency-key-reused")
    problem(await post_source(api, source, headers=headers, mode="skip"), 422, "idempotency-key-reused")
    problem(await api_client.post_users(api, CSV, headers=headers), 422, "idempotency-key-reused")


async def test_without_a_setting(service, bucket):
    """Without IMPORT_SOURCES every source is refused."""
    started = await service(run=["api"], **bucket.settings)
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        answer = await client.post(PATH, json={"resource": "users", "source": bucket.put("users.csv", CSV)})
    assert "IMPORT_SOURCES" in problem(answer, 403, "source-not-allowed")["detail"]
