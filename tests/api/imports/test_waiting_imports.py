"""Imports that are not processed, because there are no workers: actions, downloads, names of files."""

import pytest

from tests.support.api_client import PATH, USERS_HEADER, problem, user_row
from tests.support.refused_files import EACH_FILE, FILES, RECORDS, parameters, records_of

UNKNOWN_ID = "0192f0c1-0000-7000-8000-000000000000"
SERVICE = {"run": ["api"], "batch_size": 3}


@EACH_FILE
async def test_cancel_of_a_pending_import(api, file):
    """A pending import is cancelled immediately. All records are unprocessed, and a retry imports the whole file."""
    posted = await api.post(file.content, type=file.type, params=parameters(file))
    job = posted.json()
    assert {*job["links"]} >= {"cancel", "failed_records", "unprocessed_records"}
    assert not {"retry", "commit"} & {*job["links"]}
    assert await records_of(api, job, "unprocessed") == file.content
    assert await records_of(api, job, "failed") == file.of([])
    problem(await api.client.post(f"{PATH}/{job['id']}/retry"), 409, "not-final")
    answer = await api.client.post(job["links"]["cancel"])
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    job = await api.finished(posted)
    assert job["counts"]["unprocessed"] == RECORDS
    assert await records_of(api, job, "unprocessed") == file.content
    problem(await api.client.post(f"{PATH}/{job['id']}/cancel"), 409, "already-final")
    child = (await api.client.post(job["links"]["retry"])).json()
    assert child["file"] == job["file"]
    assert (child["status"], child["total_records"]) == ("pending", RECORDS)
    assert await records_of(api, child, "unprocessed") == file.content


async def test_a_deferred_record_counts_as_unprocessed(api):
    """A deferred record counts as unprocessed until it is settled, even if its chunk is done."""
    file = FILES["ndjson"]
    job = (await api.post(file.content, type=file.type, params=parameters(file))).json()
    await api.conn.execute("UPDATE chunks SET state = 'done', finished_at = now() WHERE seq IN (1, 2)")
    await api.conn.execute(
        "INSERT INTO import_deferred (import_id, record, line, data) VALUES (%s, 5, 5, '{}')", (job["id"],)
    )
    assert await records_of(api, job, "unprocessed") == file.of([file.records[4], *file.records[6:]])


async def test_delete(api):
    """A final import is deleted with its chunks, errors and payloads. Its key can be used again, and its child remains."""
    headers = {"Idempotency-Key": "mine"}
    params = {"resource": "users"}
    content = USERS_HEADER + user_row(1)
    job = (await api.post(content, type="text/csv", params=params, headers=headers)).json()
    address = job["links"]["self"]
    problem(await api.client.delete(address), 409, "not-final")
    await api.client.post(job["links"]["cancel"])
    child = (await api.client.post(f"{address}/retry")).json()
    answer = await api.client.delete(address)
    assert (answer.status_code, answer.content) == (204, b"")
    problem(await api.client.delete(address), 404, "not-found")
    assert (await api.client.get(child["links"]["self"])).json()["parent_id"] is None
    again = await api.post(content, type="text/csv", params=params, headers=headers)
    assert (again.status_code, again.json()["id"] != job["id"]) == (202, True)
    assert not await api.value("SELECT count(*) FROM chunks WHERE import_id = %s", job["id"])
    assert not await api.value("SELECT count(*) FROM import_payloads WHERE import_id = %s", job["id"])


async def test_an_import_that_waits_for_a_deleted_one_is_stopped(api):
    """An import that waits for a cancelled one is stopped, not started, when that one is deleted."""
    first = (await api.post(USERS_HEADER + user_row(1), type="text/csv", params={"resource": "users"})).json()
    params = {"resource": "users", "after": first["id"]}
    second = (await api.post(USERS_HEADER + user_row(2), type="text/csv", params=params)).json()
    await api.client.post(first["links"]["cancel"])
    await api.client.delete(first["links"]["self"])
    job = (await api.client.get(second["links"]["self"])).json()
    assert job["problem"]["type"] == "/problems/after-not-completed"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("my users.CSV.gz", "my_users-unprocessed.csv"),
        ('x"; filename=y\\..\\ü ber-1.csv', "ber-1-unprocessed.csv"),
        ("名前.csv", "users-unprocessed.csv"),
        ("..", "users-unprocessed.csv"),
    ],
)
async def test_names_of_files(api, name, wanted):
    """The name of a download contains only safe characters of the client's file name."""
    job = (await api.post(params={"resource": "users", "format": "csv"}, files={"file": ("u", USERS_HEADER)})).json()
    await api.conn.execute("UPDATE import_jobs SET file_name = %s", (name,))
    answer = await api.client.get(job["links"]["unprocessed_records"])
    assert answer.headers["content-disposition"] == f'attachment; filename="{wanted}"'


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/failed-records"),
        ("GET", "/unprocessed-records"),
        ("POST", "/retry"),
        ("POST", "/commit"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ],
)
async def test_bad_requests(api, method, path):
    """An unknown id is 404, an unknown parameter 400; neither has an effect."""
    for id in (UNKNOWN_ID, "x"):
        problem(await api.client.request(method, f"{PATH}/{id}{path}"), 404, "not-found")
    job = (await api.post(USERS_HEADER + user_row(1), type="text/csv", params={"resource": "users"})).json()
    answer = await api.client.request(method, f"{PATH}/{job['id']}{path}", params={"colour": "red"})
    assert [fault["field"] for fault in problem(answer, 400, "invalid-request")["errors"]] == ["colour"]
    assert (await api.client.get(job["links"]["self"])).json() == job


async def test_one_page_or_all_errors(api):
    """A file of all errors cannot be requested with a limit or a cursor."""
    job = (await api.post(USERS_HEADER + user_row(1), type="text/csv", params={"resource": "users"})).json()
    for query in ({"limit": "5"}, {"cursor": "WzEsMV0="}):
        answer = await api.client.get(job["links"]["errors"], params={"format": "csv", **query})
        problem(answer, 400, "invalid-request")
