"""GET /resources: the fields of the records, and templates that import as they are."""

from datetime import datetime

import pytest

from tests.support.api_client import USERS_HEADER, user_row

PATH = "/api/v1/resources"
SERVICE = {"worker_pool_size": 2, "batch_size": 2, "claim_chunks_max": 2}


async def test_resources_are_listed_with_their_fields(api):
    """The list is in the order of the foreign keys; a single resource is the same object; an unknown one is 404."""
    listed = (await api.client.get(PATH)).json()["resources"]
    assert [resource["name"] for resource in listed] == ["users", "articles", "comments"]
    for resource in listed:
        assert (await api.client.get(resource["links"]["self"])).json() == resource
    users = {field["name"]: field for field in listed[0]["fields"]}
    assert users["email"] == {
        "name": "email",
        "type": "text",
        "required": True,
        "key": True,
        "reference": None,
        "enum": None,
        "min_length": None,
        "max_length": 254,
        "pattern": users["email"]["pattern"],
        "description": "The natural key; unique without regard to case.",
    }
    assert users["role"]["enum"] == ["admin", "author", "reader"]
    assert {name: field["type"] for name, field in users.items()} == {
        "id": "uuid",
        "email": "text",
        "name": "text",
        "role": "text",
        "active": "boolean",
        "created_at": "time",
        "updated_at": "time",
    }
    comments = {field["name"]: field for field in listed[2]["fields"]}
    assert (comments["user_id"]["reference"], comments["article_id"]["reference"]) == ("users", "articles")
    assert [(one["name"], one["field"], one["test"]) for one in listed[1]["filters"]][-3:] == [
        ("status", "status", "any_of"),
        ("published_after", "published_at", "from"),
        ("published_before", "published_at", "before"),
    ]
    assert listed[1]["modes"] == ["insert", "skip", "upsert", "update"]
    assert listed[1]["export_formats"] == ["csv", "ndjson", "json", "xlsx", "parquet", "arrow"]
    missing = await api.client.get(f"{PATH}/orders")
    assert (missing.status_code, missing.json()["detail"]) == (404, "No resource has this name.")


@pytest.mark.parametrize("format", ["csv", "ndjson"])
async def test_templates_import_as_they_are(api, format):
    """Each template has one valid record: users are stored, the others lack only their parents."""
    for resource in ("users", "articles", "comments"):
        template = await api.client.get(f"{PATH}/{resource}/template", params={"format": format})
        assert template.headers["content-disposition"] == f'attachment; filename="{resource}-template.{format}"'
        posted = await api.post(
            template.content, type=template.headers["content-type"], params={"resource": resource, "dry_run": "true"}
        )
        job = await api.finished(posted)
        codes = {error["code"] for error in job["errors"]}
        assert (job["total_records"], codes) == (1, set() if resource == "users" else {"foreign_key_not_found"})


async def test_a_timeline_counts_every_record_once(api):
    """Both halves of a timeline add up to the job, and the bins of the file show where records were refused."""
    rows = [user_row(n) for n in range(20)]
    rows[12] = rows[13] = b"no address,X,reader,true\n"
    job = await api.finished(
        await api.post(USERS_HEADER + b"".join(rows), type="text/csv", params={"resource": "users"})
    )
    timeline = (await api.client.get(job["links"]["timeline"], params={"bins": 10})).json()
    for bins in timeline.values():
        assert 1 <= len(bins) <= 10
        assert (sum(bin["records"] for bin in bins), sum(bin["failed"] for bin in bins)) == (20, 2)
    file = timeline["file"]
    assert [bin["first_record"] for bin in file] == [1 + sum(b["records"] for b in file[:n]) for n in range(len(file))]
    assert {bin["state"] for bin in file} == {"done"}
    [refused] = [bin for bin in file if bin["failed"]]
    assert refused["first_record"] <= 13 < 14 < refused["first_record"] + refused["records"]
    seconds = timeline["seconds"]
    assert [bin["at"] for bin in seconds] == sorted(bin["at"] for bin in seconds)
    started, finished = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
    for bin in seconds:
        assert bin["seconds"] == pytest.approx((finished - started).total_seconds() / 10, abs=1e-5)
        assert started <= datetime.fromisoformat(bin["at"]) <= finished
    assert (await api.client.get(job["links"]["timeline"], params={"bins": 0})).status_code == 400
