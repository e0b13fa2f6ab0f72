"""The job of an import as clients read it: alone, by its validators, in lists."""

import base64
import hashlib
import json
from urllib.parse import quote

import pytest

from tests.support.api_client import PATH, USERS_HEADER, post_users, user_row

USERS = USERS_HEADER + user_row(1) + user_row(2)
UNKNOWN_ID = "0192f0c1-0000-7000-8000-000000000000"
SERVICE = {"run": ["api"], "batch_size": 2}


async def test_a_job_that_waits(api):
    """The response to an upload has what is known before any work: totals, the file, 0 percent, when to poll."""
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
    """A client that sends the current ETag gets 304 without a body; with another ETag it gets the job."""
    answer = await post_users(api, USERS)
    first = await api.get(f"/{answer.json()['id']}")
    assert first.headers["retry-after"] == "1"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await api.get(f"/{answer.json()['id']}", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert (again.headers["etag"], again.headers["retry-after"]) == (tag, "1")
    assert (await api.get(f"/{answer.json()['id']}", headers={"If-None-Match": '"other"'})).status_code == 200


async def test_an_empty_file_is_completed_immediately(api):
    """A file without records is completed at once."""
    answer = await post_users(api, b"")
    job = answer.json()
    assert answer.status_code == 202
    assert "retry-after" not in answer.headers
    assert (job["status"], job["outcome"], job["total_records"]) == ("completed", "success", 0)
    assert job["progress"]["percent"] == 100
    assert "retry-after" not in (await api.get(f"/{job['id']}")).headers


async def test_lists(api):
    """Lists are sorted newest first, have each job once for any size of a page, and filter by status and resource."""
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
        "undo",
        "webhooks",
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
async def test_wrong_queries(api, path, query, field):
    """A wrong parameter of a query is 400 with its name."""
    answer = await api.get(path.format(id=(await post_users(api, USERS)).json()["id"]), params=query)
    assert answer.status_code == 400, answer.text
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("id", [UNKNOWN_ID, "x", "%00", "0192f0c1-0000-7000-8000-00000000000", json.dumps({})])
async def test_unknown_jobs(api, id):
    """An unknown or malformed id is 404, and so is an upload that has not ended."""
    await api.conn.execute("INSERT INTO import_jobs (id) VALUES (%s)", (UNKNOWN_ID,))
    for path in (f"/{id}", f"/{id}/errors"):
        answer = await api.get(path)
        assert answer.status_code == 404
        assert answer.json()["type"] == "/problems/not-found"
    assert (await api.get()).json()["imports"] == []


async def test_other_spellings_of_an_id(api):
    """An id has one spelling. Others that Python reads as the same UUID are unknown ids, in paths and as a cursor."""
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
