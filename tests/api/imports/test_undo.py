"""`POST /imports/{id}/undo`: the rows that an import created are removed, those in use are kept and named."""

import csv
import io
import json

import pytest

from tests.support.api_client import PATH, USERS_HEADER, post_users, problem, user_row
from tests.support.eventually import eventually

SERVICE = {"worker_pool_size": 2, "batch_size": 3, "claim_chunks_max": 1, "upkeep_seconds": 0.2}
UNKNOWN_ID = "0192f0c1-0000-7000-8000-000000000000"
FILE = USERS_HEADER + b"".join(map(user_row, range(7)))


async def imported(api, content=FILE, **params):
    return await api.finished(await post_users(api, content, params={"undoable": "true"} | params))


async def act(api, job, action, **params):
    return await api.client.post(f"{PATH}/{job['id']}/{action}", params=params)


async def undone(api, job):
    """The import after its undo is finished."""

    async def finished():
        answer = await api.get(f"/{job['id']}")
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.json()["undo"]["status"] == "finished" else None

    answer = await act(api, job, "undo")
    assert answer.status_code in (200, 202), answer.text
    assert answer.headers["location"] == job["links"]["self"]
    found = await eventually(finished)
    state = found["undo"]
    assert state["removed"] + state["missing"] + sum(state["kept"].values()) == job["counts"]["created"]
    assert (found["status"], found["counts"]) == (job["status"], job["counts"])
    return state


async def count(api) -> int:
    return await api.value("SELECT count(*) FROM users")


async def refer_to(api, email):
    await api.conn.execute(
        """
        INSERT INTO articles (slug, title, body, author_id, status)
        SELECT email, 'stored', 'text', id, 'draft'
        FROM users
        WHERE email = %s
        """,
        (email,),
    )


async def test_an_undo_removes_the_rows(api):
    """The rows are gone, the job says so, and a second request finds nothing to do."""
    job = await imported(api)
    assert (job["undoable"], job["undo"]) == (True, None)
    state = await undone(api, job)
    assert state["removed"] == 7
    assert await count(api) == 0
    again = await api.client.post(job["links"]["undo"])
    assert (again.status_code, again.json()["undo"]) == (200, state)
    assert "retry-after" not in again.headers
    # the file can be imported again
    assert (await imported(api))["counts"]["created"] == 7


async def test_kept_rows_are_named(api):
    """Rows that another import has changed, or that others refer to, are kept, and listed with line, record, id and reason."""
    job = await imported(api)
    later = USERS_HEADER + user_row(2).replace(b"reader", b"admin")
    await api.finished(await post_users(api, later, params={"mode": "upsert"}))
    await refer_to(api, "user5@example.org")
    state = await undone(api, job)
    assert (state["removed"], state["kept"]) == (5, {"changed": 1, "referred_to": 1})
    ids = [await api.value("SELECT id::text FROM users WHERE email = %s", f"user{n}@example.org") for n in (2, 5)]
    expected = [
        {"line": 4, "record": 3, "id": ids[0], "reason": "changed"},
        {"line": 7, "record": 6, "id": ids[1], "reason": "referred_to"},
    ]
    answer = await api.client.get(job["links"]["kept_records"])
    assert answer.headers["content-type"].partition(";")[0] == "application/x-ndjson"
    assert list(map(json.loads, answer.text.splitlines())) == expected
    answer = await api.client.get(job["links"]["kept_records"], params={"format": "csv"})
    assert list(csv.DictReader(io.StringIO(answer.text))) == [
        {name: str(value) for name, value in row.items()} for row in expected
    ]
    # once nothing refers to the row, a repeated request removes it
    await api.conn.execute("DELETE FROM articles")
    assert (await undone(api, job))["kept"] == {"changed": 1, "referred_to": 0}
    assert await count(api) == 1
    answer = await api.client.get(job["links"]["kept_records"], params={"format": "csv"})
    assert answer.text == f"line,record,id,reason\n4,3,{ids[0]},changed\n"


async def test_workers_continue_an_undo(api):
    """A request that meets a locked row is answered 202, and the workers finish the undo when the row is free."""
    job = await imported(api)
    async with api.conn.transaction():
        await api.conn.execute("SELECT FROM users FOR UPDATE")
        answer = await act(api, job, "undo")
        assert answer.status_code == 202, answer.text
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["undo"]["status"] == "running"
        problem(await api.get(f"/{job['id']}/kept-records"), 409, "undo-running")
        problem(await api.client.delete(f"{PATH}/{job['id']}"), 409, "undo-running")

    async def is_finished():
        return (await api.get(f"/{job['id']}")).json()["undo"]["status"] == "finished"

    await eventually(is_finished)
    assert await count(api) == 0
    assert (await api.client.delete(f"{PATH}/{job['id']}")).status_code == 204


async def test_refusals(api):
    """An import that is not undoable, not final, a dry run or unknown is refused with its own problem."""
    job = await api.finished(await post_users(api, USERS_HEADER + user_row(1)))
    assert (job["undoable"], job["undo"], "undo" in job["links"]) == (False, None, False)
    problem(await act(api, job, "undo"), 409, "not-undoable")
    problem(await api.get(f"/{job['id']}/kept-records"), 409, "not-undoable")
    problem(await act(api, {"id": UNKNOWN_ID}, "undo"), 404, "not-found")
    problem(await act(api, job, "undo", force="true"), 400, "invalid-request")
    undoable = await imported(api, USERS_HEADER + user_row(2))
    problem(await api.get(f"/{undoable['id']}/kept-records"), 409, "not-undone")
    problem(await api.get(f"/{undoable['id']}/kept-records", params={"format": "xlsx"}), 400, "invalid-request")
    for extra in ({"dry_run": "true"}, {"undoable": "maybe"}):
        answer = await post_users(api, FILE, params={"undoable": "true"} | extra)
        (error,) = problem(answer, 400, "invalid-request")["errors"]
        assert error["field"] == "undoable"


async def test_a_job_that_is_not_final(api):
    """A waiting import is refused with `not-final`; once it is cancelled, its undo has nothing to remove."""
    async with api.conn.transaction():
        await api.conn.execute("LOCK TABLE users IN EXCLUSIVE MODE")
        last = (await post_users(api, FILE, params={"undoable": "true"})).json()
        waiting = await post_users(api, FILE, params={"undoable": "true", "after": last["id"]})
        problem(await act(api, waiting.json(), "undo"), 409, "not-final")
        assert (await act(api, waiting.json(), "cancel")).status_code == 202
    await eventually(api.is_idle)
    answer = await act(api, waiting.json(), "undo")
    assert answer.status_code == 200, answer.text
    assert answer.json()["undo"]["removed"] == 0


async def test_the_commit_of_a_dry_run_may_be_undoable(api):
    """A dry run cannot be undone, but its commit can, if it was asked for."""
    checked = await api.finished(await post_users(api, FILE, params={"dry_run": "true"}))
    job = await api.finished(await act(api, checked, "commit", undoable="true"))
    assert job["undoable"] is True
    assert (await undone(api, job))["removed"] == 7
    assert await count(api) == 0


async def test_a_retry_is_undoable_like_its_parent(api):
    """A retry has the parameter of its parent, and is undone by itself."""
    await api.conn.execute(
        "INSERT INTO users (email, name, role, active) VALUES ('user1@example.org', 'x', 'admin', true)"
    )
    job = await imported(api)
    await api.conn.execute("DELETE FROM users WHERE name = 'x'")
    retry = await api.finished(await act(api, job, "retry"))
    assert (retry["undoable"], retry["counts"]["created"]) == (True, 1)
    assert (await undone(api, retry))["removed"] == 1
    assert (await undone(api, job))["removed"] == 6


async def test_the_parameter_belongs_to_the_request(api):
    """The same idempotency key with and without `undoable` is another request."""
    headers = {"Idempotency-Key": "undo"}
    first = await post_users(api, FILE, params={"undoable": "true"}, headers=headers)
    assert first.status_code == 202
    assert (await post_users(api, FILE, params={"undoable": "true"}, headers=headers)).status_code == 200
    problem(await post_users(api, FILE, headers=headers), 422, "idempotency-key-reused")
    await api.finished(first)


@pytest.mark.parametrize("resource", ["users", "articles", "comments"])
async def test_each_resource(api, resource):
    """Records without ids are undone in each resource, the children first."""
    author, post = "0192f0c1-0000-7000-8000-000000000001", "0192f0c1-0000-7000-8000-000000000002"
    files = {
        "users": [{"id": author, "email": "a@example.org", "name": "A", "role": "author", "active": True}],
        "articles": [{"id": post, "slug": "s", "title": "T", "body": "b", "author_id": author, "status": "draft"}],
        "comments": [{"article_id": post, "user_id": author, "body": str(n)} for n in range(5)],
    }
    jobs = {}
    for name, records in files.items():
        params = {"resource": name, "undoable": "true"}
        jobs[name] = await api.finished(await api.post(json.dumps(records), type="application/json", params=params))
        assert jobs[name]["counts"]["created"] == len(records)
        if name == resource:
            break
    for name, job in reversed(jobs.items()):
        assert (await undone(api, job))["removed"] == len(files[name])
