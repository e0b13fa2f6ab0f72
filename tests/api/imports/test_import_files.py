"""Imports of files through the whole service: stored rows, counts and errors."""

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from uuid import UUID, uuid5

import pytest

from api.imports.decompression import zstd
from tests.support.api_client import PATH, USERS_HEADER, user_object, user_row

USERS_HUGE = gzip.decompress((Path(__file__).parents[2] / "data" / "users_huge.csv.gz").read_bytes())
USERS = USERS_HEADER + user_row(1) + user_row(2)
RECORDS = [json.loads(user_object(1)), json.loads(user_object(2))]
SERVICE = {"worker_pool_size": 4, "batch_size": 100}


def duplicates(file: bytes) -> list[tuple[int, int]]:
    """(line, line of the first) of each otherwise valid user whose e-mail an earlier one has."""
    first: dict[str, int] = {}
    found = []
    for line, row in enumerate(csv.DictReader(file.decode().splitlines()), start=2):
        if row["role"] == "manager" or "." not in row["email"].partition("@")[2]:
            continue
        if (winner := first.setdefault(row["email"].lower(), line)) != line:
            found.append((line, winner))
    return found


@pytest.mark.parametrize("form", ["plain", "plain again", "gzip", "zstd", "multipart", "multipart, packed"])
async def test_users_huge(api, form):
    """The counts are those of an independent count; of equal e-mails the first of the file is stored."""
    content, headers, options = USERS_HUGE, {"Content-Type": "text/csv"}, {"params": {"resource": "users"}}
    if form in ("gzip", "zstd"):
        content = {"gzip": gzip.compress, "zstd": zstd.compress}[form](content)
        headers["Content-Encoding"] = form
    elif form.startswith("multipart"):
        file = ("u.csv.gz", gzip.compress(content)) if form.endswith("packed") else ("u.csv", content)
        content, headers, options = None, {}, {"files": {"file": file}, "data": {"resource": "users"}}
    job = await api.finished(await api.post(content, headers=headers, **options))

    assert (job["status"], job["outcome"], job["total_records"]) == ("completed", "partial", 10_000)
    assert (job["counts"]["created"], job["counts"]["failed"], job["error_count"]) == (9_667, 333, 401)
    assert job["file"]["bytes"] == len(USERS_HUGE)
    assert job["progress"]["percent"] == 100
    assert job["finished_at"]
    assert [(count["field"], count["code"], count["count"]) for count in job["error_summary"]] == [
        ("email", "invalid_format", 201),
        ("role", "invalid_enum", 167),
        ("email", "duplicate_in_file", 33),
    ]
    errors = await api.errors(job["id"])
    assert job["errors"] == errors[:100]
    assert [(error["line"], error["record"], error["field"]) for error in errors[:2]] == [
        (2, 1, "email"),
        (2, 1, "role"),
    ]
    found = [(error["line"], error["duplicate_of_line"]) for error in errors if error["code"] == "duplicate_in_file"]
    assert found == duplicates(USERS_HUGE)


def id(name: str) -> str:
    """An id that is always the same for a name."""
    return str(uuid5(UUID(int=0), name))


def articles() -> list[tuple[dict, list[tuple[str, str]]]]:
    """Articles by user 1 with what is wrong with them, as (field, code)."""
    sound = {
        "id": id("first"),
        "slug": "first",
        "title": "T",
        "body": "B",
        "author_id": id("author"),
        "status": "draft",
    }
    nobody = id("nobody")
    return [
        (sound, []),
        (sound | {"id": None, "slug": "no-id", "tags": ["a,b", 'c"d', ""]}, []),
        ({"slug": "published", "title": "T", "body": "B", "author_id": id("author"), "status": "published",
          "published_at": "2024-01-01T00:00:00Z"}, []),
        (sound | {"id": id("a3"), "slug": "Bad Slug"}, [("slug", "invalid_format")]),
        (sound | {"id": id("a4"), "slug": "bad--slug-"}, [("slug", "invalid_format")]),
        (sound | {"id": id("a5")}, [("slug", "duplicate_in_file")]),
        (sound | {"id": id("a6"), "slug": "orphan", "author_id": nobody}, [("author_id", "foreign_key_not_found")]),
        (sound | {"id": id("a7"), "slug": "draft", "published_at": "2024-01-01T00:00:00Z"},
         [("published_at", "conflicting_fields")]),
        (sound | {"slug": "same-id"}, [("id", "duplicate_in_file")]),
        (sound | {"id": id("a9"), "slug": "All At-Once", "title": "", "author_id": nobody, "status": "gone"},
         [("author_id", "foreign_key_not_found"), ("slug", "invalid_format"), ("status", "invalid_enum"),
          ("title", "too_short")]),
    ]  # fmt: skip


def comments() -> list[tuple[dict, list[tuple[str, str]]]]:
    sound = {"id": f"cm_{id('c0')}", "article_id": id("first"), "user_id": id("author"), "body": "Hm."}
    without_body = {name: value for name, value in sound.items() if name != "body"}
    nobody = id("nobody")
    return [
        (sound, []),
        ({"article_id": id("first"), "user_id": id("author"), "body": "no id"}, []),
        (sound | {"id": id("c2"), "body": " ".join(["word"] * 500)}, []),
        (sound | {"id": f"cm_{id('c3')}", "article_id": nobody}, [("article_id", "foreign_key_not_found")]),
        (sound | {"id": f"cm_{id('c4')}", "user_id": nobody}, [("user_id", "foreign_key_not_found")]),
        (sound | {"id": f"cm_{id('c5')}", "body": " ".join(["word"] * 501)}, [("body", "too_many_words")]),
        (sound | {"id": f"cm_{id('c6')}", "body": "longer words " * 1000}, [("body", "too_many_words")]),
        (sound | {"id": f"cm_{id('c7')}", "body": ""}, [("body", "too_short")]),
        (sound | {"id": f"cm_{id('c8')}", "body": " \n\t"}, [("body", "too_short")]),
        (without_body | {"id": f"cm_{id('c9')}"}, [("body", "missing_required")]),
        (sound | {"id": "cm_1"}, [("id", "invalid_format")]),
        (sound, [("id", "duplicate_in_file")]),
    ]  # fmt: skip


async def import_planted(api, resource: str, planted: list[tuple[dict, list]]) -> dict:
    """Imports records as NDJSON and compares what is refused with what was planted; the job."""
    file = b"".join(json.dumps(record).encode() + b"\n" for record, _ in planted)
    posted = await api.post(file, type="application/x-ndjson", params={"resource": resource})
    job = await api.finished(posted)
    found: dict[int, list] = {}
    for error in await api.errors(job["id"]):
        found.setdefault(error["line"], []).append((error["field"], error["code"]))
    assert {line: sorted(errors) for line, errors in found.items()} == {
        line: errors for line, (_, errors) in enumerate(planted, start=1) if errors
    }
    assert job["outcome"] == "partial"
    return job


async def test_articles_and_comments(api):
    """Every kind of error has its code, together with the record's other errors; ids with cm_ are stored as sent."""
    author = b"id,email,name,role,active\n%s,a@example.org,A,author,true\n" % id("author").encode()
    await api.finished(await api.post(author, type="text/csv", params={"resource": "users"}))
    await import_planted(api, "articles", articles())
    await import_planted(api, "comments", comments())
    slugs = await (await api.conn.execute("SELECT slug, tags FROM articles ORDER BY import_record")).fetchall()
    assert slugs == [("first", None), ("no-id", ["a,b", 'c"d', ""]), ("published", None)]
    ids = [
        row[0] for row in await (await api.conn.execute("SELECT id FROM comments ORDER BY import_record")).fetchall()
    ]
    assert [ids[0], ids[2]] == [f"cm_{id('c0')}", id("c2")]
    assert ids[1].startswith("cm_")


NDJSON = user_object(1) + b"\n" + user_object(2) + b"\n"
ARRAY = b"[" + user_object(1) + b",\n" + user_object(2) + b"]"
BOM = b"\xef\xbb\xbf"
ASKED = {"resource": "users"}
QUERY = {"params": ASKED}


def part(name: str | None, content: bytes, type: str = "application/octet-stream") -> dict:
    return {"files": {"file": (name, content, type)}}


# (what determines the format, the format, the request)
FORMS = [
    ("content type", "csv", {"content": USERS, "type": "text/csv; charset=utf-8", **QUERY}),
    ("content type", "ndjson", {"content": NDJSON, "type": "Application/JSONL", **QUERY}),
    ("content type", "json", {"content": ARRAY, "type": "application/json", **QUERY}),
    ("first byte", "csv", {"content": BOM + USERS, **QUERY}),
    ("first byte", "ndjson", {"content": b"\n " + NDJSON, "type": "application/octet-stream", **QUERY}),
    ("first byte", "json", {"content": BOM + b"\r\n" + ARRAY, "type": "text/plain", **QUERY}),
    ("first byte, packed", "json", {"content": gzip.compress(ARRAY), "type": "application/gzip", **QUERY}),
    ("parameter", "ndjson", {"content": NDJSON, "type": "application/json", "params": ASKED | {"format": "ndjson"}}),
    ("parameter", "csv", {"content": USERS, "type": "image/png", "params": ASKED | {"format": "csv"}}),
    ("part's type", "ndjson", {**part("users.csv", NDJSON, "application/x-ndjson"), **QUERY}),
    ("part's name", "json", {**part("my.USERS.Json", ARRAY), **QUERY}),
    ("part's name, packed", "ndjson", {**part("u.jsonl.zst", zstd.compress(NDJSON)), **QUERY}),
    ("part's type, packed", "csv", {**part("u", gzip.compress(USERS), "application/gzip"), **QUERY}),
    ("part's first byte", "csv", {**part("users", USERS), **QUERY}),
    ("parameter before the file", "csv", {**part("u.json", USERS), "data": ASKED | {"format": "csv"}}),
    ("the form of an object", "json", {"json": ASKED | {"mode": "insert", "records": RECORDS}}),
    ("the form of an object", "json", {"json": {"records": RECORDS}, **QUERY}),
]


@pytest.mark.parametrize(
    ("told_by", "format", "request_"), FORMS, ids=lambda value: value if isinstance(value, str) else ""
)
async def test_forms_and_formats(api, told_by, format, request_):
    """Raw, multipart or an object with records, packed or not: the same two users."""
    job = await api.finished(await api.post(**request_))
    assert (job["format"], job["outcome"], job["counts"]["created"]) == (format, "success", 2)
    assert await api.value("SELECT array_agg(name ORDER BY name) FROM users") == ["User 1", "User 2"]
    assert job["file"]["name"] == (request_["files"]["file"][0] if "files" in request_ else None)


@pytest.mark.parametrize(("name", "delimiter"), [(";", ";"), ("tab", "\t"), ("|", "|")])
async def test_delimiters(api, name, delimiter):
    """With another delimiter, a comma is an ordinary character."""
    file = USERS.replace(b",", delimiter.encode()).replace(b"User 1", b"User, 1")
    job = await api.finished(await api.post(file, type="text/csv", params=ASKED | {"csv_delimiter": name}))
    assert job["counts"]["created"] == 2
    assert await api.value("SELECT name FROM users WHERE email = 'user1@example.org'") == "User, 1"


async def test_a_second_import_of_the_same_users_is_rejected(api):
    """Records that are already stored are refused with the field in conflict, and the outcome is `rejected`."""
    await api.finished(await api.post(USERS, type="text/csv", **QUERY))
    job = await api.finished(await api.post(USERS.replace(b"user", b"USER"), type="text/csv", **QUERY))
    assert job["outcome"] == "rejected"
    assert [(count["field"], count["code"], count["count"]) for count in job["error_summary"]] == [
        ("email", "already_exists", 2)
    ]


async def test_pages_of_errors(api):
    """Pages by cursor or by link have every error once, in the file's order. Filters apply to pages and total."""
    bad = b"".join(b"user%d,%s,reader,true\n" % (n, b"" if n % 3 else b"N") for n in range(50))
    job = await api.finished(await api.post(USERS_HEADER + bad, type="text/csv", **QUERY))
    errors = await api.errors(job["id"])
    assert Counter(error["field"] for error in errors) == {"email": 50, "name": 33}
    places = [(error["record"], error["field"]) for error in errors]
    assert places == sorted(set(places))
    for query in ({}, {"code": "missing_required"}, {"field": "email"}, {"code": "invalid_format", "field": "email"}):
        wanted = [error for error in errors if all(error[name] == value for name, value in query.items())]
        walked, url = [], f"{PATH}/{job['id']}/errors"
        answer = await api.client.get(url, params={**query, "limit": 7})
        while True:
            page = answer.json()
            assert page["total"] == len(wanted)
            walked += page["errors"]
            assert ("next" in answer.links) == (page["next_cursor"] is not None)
            if "next" not in answer.links:
                break
            answer = await api.client.get(answer.links["next"]["url"])
        assert walked == wanted
    assert (await api.get(f"/{job['id']}/errors", params={"field": "nothing"})).json()["errors"] == []


async def test_errors_from_a_record_on(api):
    """first_record omits the errors of earlier records, also on the next pages; it excludes a file of all errors."""
    bad = b"".join(b"user%d,,reader,true\n" % n for n in range(10))
    job = await api.finished(await api.post(USERS_HEADER + bad, type="text/csv", **QUERY))
    path = job["links"]["errors"]
    answer = await api.client.get(path, params={"first_record": 8, "limit": 4, "field": "name"})
    assert [error["record"] for error in answer.json()["errors"]] == [8, 9, 10]
    answer = await api.client.get(path, params={"first_record": 8, "limit": 4})
    walked = answer.json()["errors"] + (await api.client.get(answer.links["next"]["url"])).json()["errors"]
    assert [error["record"] for error in walked] == [8, 8, 9, 9, 10, 10]
    for query in ({"first_record": 0}, {"first_record": 2**63}, {"first_record": 1, "format": "csv"}):
        assert (await api.client.get(path, params=query)).status_code == 400
