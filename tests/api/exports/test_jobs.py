"""Background exports: the request, the job, the list."""

import gzip
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx

import db.jobs
from db.exports import completion
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.exports import EXPORTS, create


async def test_a_pending_export(service, conn):
    """A pending export has an ETag for polling, and no file."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        accepted = await client.post(EXPORTS, json={"resource": "comments"})
        location = accepted.headers["location"]
        job = await client.get(location)
        assert job.json() == accepted.json()
        assert job.headers["retry-after"] == "1"
        shown = {name: job.json()[name] for name in ("status", "format", "progress", "file", "download_url")}
        assert shown == {
            "status": "pending",
            "format": "ndjson",
            "progress": {"percent": 0.0, "records_per_second": None, "eta_seconds": None},
            "file": None,
            "download_url": None,
        }
        assert (await client.get(location, headers={"If-None-Match": job.headers["etag"]})).status_code == 304
        early = await client.get(f"{location}/download")
        assert (early.status_code, early.json()["type"]) == (409, "/problems/export-not-ready")
        for unknown in (uuid4(), "nothing"):
            assert (await client.get(f"{EXPORTS}/{unknown}")).status_code == 404
            assert (await client.get(f"{EXPORTS}/{unknown}/download")).status_code == 404


async def test_what_is_not_supported_is_refused(service):
    """Unsupported parameters and values are named in a 400, never ignored."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:

        async def wrong(**body):
            response = await client.post(EXPORTS, json=body)
            assert response.status_code == 400
            return [error["field"] for error in response.json()["errors"]]

        assert await wrong(resource="users", filters={"roles": "admin"}) == ["filters.roles"]
        assert await wrong(resource="users", fields=["ids"]) == ["fields"]
        assert await wrong(resource="users", compression="lzma") == ["compression"]
        assert await wrong(resource="users", limit=1) == ["limit"]
        assert await wrong(resource="import_jobs") == ["resource"]
        assert await wrong(format="xml") == ["resource", "format"]
        assert (await client.post(EXPORTS, json=["users"])).status_code == 400
        assert (
            await client.post(EXPORTS, content=b"{", headers={"Content-Type": "application/json"})
        ).status_code == 400
        assert (await client.post(EXPORTS, data={"resource": "users"})).status_code == 415
        packed = gzip.compress(b'{"resource": "users"}')
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        encoded = await client.post(EXPORTS, content=packed, headers=headers)
        assert (encoded.status_code, encoded.headers["accept-encoding"]) == (415, "identity")


async def test_the_list(service, conn):
    """Newest first, by pages; the link leads to the next one."""
    ids = [str(await create(conn, resource=resource)) for resource in ("users", "comments", "users")]
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:

        async def listed(path):
            page = await client.get(path)
            return [job["id"] for job in page.json()["exports"]], page

        newest, page = await listed(f"{EXPORTS}?limit=2")
        assert newest == [ids[2], ids[1]]
        oldest, last = await listed(page.links["next"]["url"])
        assert oldest == [ids[0]]
        assert last.json()["next_cursor"] is None
        assert "next" not in last.links
        assert (await listed(f"{EXPORTS}?resource=comments&status=pending"))[0] == [ids[1]]
        assert (await listed(f"{EXPORTS}?status=completed"))[0] == []
        for wrong in (
            "limit=101",
            "cursor=x",
            "status=uploading",
            "page=2",
            "created_after=x",
            "name=x",
            "dry_run=true",
        ):
            assert (await client.get(f"{EXPORTS}?{wrong}")).status_code == 400


async def test_the_list_by_time_and_its_counts(service, conn):
    """`created_after` is inclusive, `created_before` exclusive; `counts` ignores the status and the page that are asked for."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    ids = [str(await create(conn, resource=resource)) for resource in ("users", "comments", "users")]
    for hour, id in enumerate(ids):
        created_at = noon + timedelta(hours=hour)
        await conn.execute("UPDATE export_jobs SET created_at = %(at)s WHERE id = %(id)s", {"id": id, "at": created_at})
    assert await db.jobs.cancel(conn, "export", UUID(ids[0]))
    await completion.finish(conn, UUID(ids[0]), endpoints=())
    one = (noon + timedelta(hours=1)).isoformat()
    none = {"pending": 0, "processing": 0, "completed": 0, "failed": 0, "cancelled": 0, "expired": 0}
    async with httpx.AsyncClient(base_url=(await service(run=["api"])).url, timeout=PATIENCE_SECONDS) as client:
        for query, found, counts in (
            ({"created_after": one}, ids[:0:-1], None),
            ({"created_before": one}, ids[:1], None),
            ({"created_before": "0001-01-01T00:00:00+23:59"}, [], None),
            ({"counts": "true", "status": "pending", "limit": "1"}, ids[2:], {"pending": 2, "cancelled": 1}),
            ({"counts": "true", "resource": "comments"}, ids[1:2], {"pending": 1}),
        ):
            page = (await client.get(EXPORTS, params=query)).json()
            assert [job["id"] for job in page["exports"]] == found
            expected = counts and {"total": sum(counts.values()), "status": none | counts}
            assert page.get("counts") == expected
