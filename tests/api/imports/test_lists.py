"""Lists of imports: which jobs each filter selects, the counts by status and outcome, and the sentence that a job waits for."""

from datetime import UTC, datetime, timedelta, timezone

import httpx
import pytest

from db import jobs
from db.imports import completion
from tests.support.api_client import PATH
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.factories import queued, run, user, users
from tests.support.workers import HELD, stuck


async def listed(client: httpx.AsyncClient, **query: str) -> list[str]:
    """The file names of all jobs that match, page by page, newest first."""
    answer = await client.get(PATH, params={**query, "limit": "2"})
    names = []
    while True:
        assert answer.status_code == 200, answer.text
        names += [job["file"]["name"] for job in answer.json()["imports"]]
        if "next" not in answer.links:
            return names
        answer = await client.get(answer.links["next"]["url"])


@pytest.fixture
async def client(service):
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        yield client


async def make_jobs(conn) -> None:
    """Imports of each status and outcome, named for it, oldest first."""
    cancelled = await queued(conn, users(1), file_name="cancelled.csv")
    await jobs.cancel(conn, "import", cancelled)
    await completion.finish(conn, cancelled, endpoints=())
    good, bad = user(1), user(2, role="king")
    for name, records, parameters in (
        ("success.csv", [good], {"dry_run": True}),
        ("partial.csv", [good, bad], {}),
        ("rejected.csv", [bad], {}),
        ("failed.csv", [bad], {"max_errors": 0}),
    ):
        await run(conn, await queued(conn, records, file_name=name, **parameters))
    await queued(conn, users(1), file_name="pending.csv")
    await queued(conn, users(1), file_name="pending too.csv")


async def test_filters_by_status_outcome_and_dry_run(client, conn):
    """Each filter selects its jobs, several together those that match all of them. Links keep the filters."""
    await make_jobs(conn)
    for query, names in (
        ({"status": "cancelled"}, ["cancelled"]),
        ({"status": "completed"}, ["rejected", "partial", "success"]),
        ({"outcome": "partial"}, ["partial"]),
        ({"outcome": "partial", "status": "pending"}, []),
        ({"dry_run": "true"}, ["success"]),
        ({"dry_run": "false", "status": "completed"}, ["rejected", "partial"]),
        ({"dry_run": "false"}, ["pending too", "pending", "failed", "rejected", "partial", "cancelled"]),
    ):
        assert await listed(client, **query) == [f"{name}.csv" for name in names]


async def test_filter_by_parent(client, conn):
    """The commit of a dry run is found by the dry run's id."""
    dry_run = await queued(conn, users(1), dry_run=True, file_name="checked.csv")
    await run(conn, dry_run)
    await queued(conn, users(1), file_name="other.csv")
    commit = (await client.post(f"{PATH}/{dry_run}/commit")).json()
    found = (await client.get(PATH, params={"parent": str(dry_run)})).json()["imports"]
    assert [(job["id"], job["parent_id"]) for job in found] == [(commit["id"], str(dry_run))]


async def test_filter_by_name(client, conn):
    """A part of the name in upper or lower case; the wildcards of LIKE and the backslash are ordinary characters."""
    names = ["Users-2026.csv", "100%.csv", "a_b.csv", "acb.csv", "back\\slash.csv", None]
    for name in names:
        await queued(conn, users(1), file_name=name)
    for part, found in (
        ("users", ["Users-2026.csv"]),
        ("S-2", ["Users-2026.csv"]),
        ("%", ["100%.csv"]),
        ("_", ["a_b.csv"]),
        ("\\", ["back\\slash.csv"]),
        (".CSV", [name for name in reversed(names) if name]),
        ("' OR true --", []),
    ):
        assert await listed(client, name=part) == found


async def test_filter_by_time(client, conn):
    """`created_after` includes its time and `created_before` does not; any valid offset is accepted."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    for hour in range(3):
        id = await queued(conn, users(1), file_name=f"{hour}.csv")
        created_at = noon + timedelta(hours=hour)
        await conn.execute("UPDATE import_jobs SET created_at = %(at)s WHERE id = %(id)s", {"id": id, "at": created_at})
    one = (noon + timedelta(hours=1)).isoformat()
    assert await listed(client, created_after=one) == ["2.csv", "1.csv"]
    assert await listed(client, created_before=one) == ["0.csv"]
    assert await listed(client, created_after=one, created_before=(noon + timedelta(hours=2)).isoformat()) == ["1.csv"]
    far = noon.astimezone(timezone(timedelta(hours=23, minutes=59))).isoformat()
    assert await listed(client, created_before=far) == []
    assert await listed(client, created_before="0001-01-01T00:00:00+23:59") == []


async def test_counts(client, conn):
    """Counts by status and outcome, under all filters except those of status, outcome and page; absent unless requested."""
    await make_jobs(conn)
    assert "counts" not in (await client.get(PATH)).json()
    status = {"pending": 2, "processing": 0, "completed": 3, "failed": 1, "cancelled": 1}
    everything = {"total": 7, "status": status, "outcome": {"success": 1, "partial": 1, "rejected": 1}}
    for query in ({}, {"status": "failed"}, {"outcome": "partial"}, {"limit": "1"}):
        page = (await client.get(PATH, params={"counts": "true", **query})).json()
        assert page["counts"] == everything
    page = (await client.get(PATH, params={"counts": "true", "dry_run": "true", "name": "SUCC"})).json()
    assert page["counts"] == {
        "total": 1,
        "status": {"pending": 0, "processing": 0, "completed": 1, "failed": 0, "cancelled": 0},
        "outcome": {"success": 1, "partial": 0, "rejected": 0},
    }


async def test_what_an_import_waits_for(service, conn, hold):
    """The sentence of the view import_progress while the job is not final, then null; lists do not have it."""
    running = await service(worker_pool_size=1)
    async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_SECONDS) as client:

        async def waiting_for(id: object) -> str | None:
            return (await client.get(f"{PATH}/{id}")).json()["waiting_for"]

        async with hold(HELD):
            held = await queued(conn, [user(1, name=HELD)])
            await stuck(conn, held, 1)
            second = await queued(conn, users(1, first=2), after_id=held)
            third = await queued(conn, users(1, first=3))
            assert await waiting_for(held) == "1 worker is processing it"
            assert await waiting_for(second) == f"it waits for import {held}, which is processing"
            assert await waiting_for(third) == "it waits for its turn; 1 of 1 workers are busy"
            assert all("waiting_for" not in job for job in (await client.get(PATH)).json()["imports"])
        for id in (held, second, third):
            await client.get(f"{PATH}/{id}/events")
            assert await waiting_for(id) is None


async def test_behind_a_pooler_no_reason_about_workers_is_given(service, conn):
    """Their sessions cannot be counted there, so the sentence would be wrong."""
    url = (await service(run=["api"], database_pooler="transaction")).url
    id = await queued(conn, users(1))
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get(f"{PATH}/{id}")).json()["waiting_for"] is None
