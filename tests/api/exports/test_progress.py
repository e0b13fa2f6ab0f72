"""The progress of an export: in its job and as server-sent events."""

import httpx

from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.exports import EXPORTS, SEVERAL, completed, create, many_articles, resume, stall
from tests.support.sse import Events


async def test_what_an_export_waits_for(service, conn):
    """The sentence of the view export_progress while the job is not final, then null; lists do not have it."""
    id = await create(conn)
    async with httpx.AsyncClient(base_url=(await service(run=["api"])).url, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get(f"{EXPORTS}/{id}")).json()["waiting_for"] == "no worker is connected"
        assert "waiting_for" not in (await client.get(EXPORTS)).json()["exports"][0]
        assert (await client.post(f"{EXPORTS}/{id}/cancel")).json()["waiting_for"] is None


async def test_progress_is_seen(service, conn):
    """A client sees the progress and the exact total, although the worker's transaction is open."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        location = (await client.post(EXPORTS, json={"resource": "articles"})).headers["location"]

        async def half_way():
            job = (await client.get(location)).json()
            return job if job["progress"]["percent"] else None

        job = await eventually(half_way)
        assert (job["status"], job["total_records"], job["file"]) == ("processing", 400, None)
        # what waits to become a whole block is not counted yet
        assert 180 < job["exported_records"] <= 200
        assert job["progress"]["percent"] == round(job["exported_records"] / 4, 2)
        assert job["progress"]["records_per_second"] > 0
        assert job["progress"]["eta_seconds"] > 0
        await resume(conn)
        assert (await completed(client, location))["exported_records"] == 400


async def test_events(service, conn):
    """The stream sends the current state, then `done`; after `done` a client that reconnects gets 204."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        links = (await client.post(EXPORTS, json={"resource": "articles"})).json()["links"]
        seen = []
        async with client.stream("GET", links["events"]) as response:
            assert response.headers["content-type"] == "text/event-stream"
            events = Events(response)
            while event := await events.next():
                seen.append(event)
                if event["data"]["progress"]["percent"]:
                    await resume(conn)
        again = await client.get(links["events"], headers={"Last-Event-ID": seen[-1]["id"]})
        final = (await client.get(links["self"])).json()
    assert [event["event"] for event in seen] == ["progress"] * (len(seen) - 1) + ["done"]
    assert seen[-1]["data"] == final
    assert final["status"] == "completed"
    assert any(0 < event["data"]["progress"]["percent"] < 100 for event in seen if event["data"]["exported_records"])
    assert again.status_code == 204
