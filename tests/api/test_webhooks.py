"""What the API does with webhooks: ends that it writes itself, deliveries in jobs, metrics."""

from uuid import UUID

from tests.support import api_client
from tests.support.api_client import USERS_HEADER, post_users, user_row
from tests.support.eventually import eventually
from tests.support.exports import EXPORTS
from tests.support.factories import rows
from tests.support.probes import get
from tests.support.webhooks import SECRET, UNREACHABLE, receiving, response, setting

USERS = USERS_HEADER + user_row(1)


async def test_a_job_that_the_api_cancels_has_its_delivery(service):
    """The end of an import and of an export that no worker has claimed; the jobs show them, lists do not."""
    running = await service(run=["api"], webhooks=setting(UNREACHABLE))
    async with api_client.connected(running) as api:
        posted = await post_users(api, USERS)
        assert posted.json()["webhooks"] == []
        exported = await api.client.post(EXPORTS, json={"resource": "users"})
        for kind, accepted in (("import", posted), ("export", exported)):
            address = accepted.headers["location"]
            cancelled = (await api.client.post(f"{address}/cancel")).json()
            assert (await api.client.get(address)).json()["webhooks"] == cancelled["webhooks"]
            [shown] = cancelled["webhooks"]
            assert UUID(shown.pop("id")).version == 7
            assert [shown.pop(name) is None for name in ("created_at", "next_attempt_at")] == [False, False]
            assert shown == {
                "endpoint": "unreachable",
                "event": f"{kind}.cancelled",
                "state": "pending",
                "attempts": 0,
                "response_status": None,
                "error": None,
                "finished_at": None,
            }
            [listed] = (await api.client.get(f"/api/v1/{kind}s")).json()[f"{kind}s"]
            assert "webhooks" not in listed


async def test_a_file_without_records_has_its_delivery(service):
    """Such an import ends when its upload does."""
    running = await service(run=["api"], webhooks=setting(UNREACHABLE))
    async with api_client.connected(running) as api:
        [shown] = (await post_users(api, USERS_HEADER)).json()["webhooks"]
        assert (shown["event"], shown["state"]) == ("import.completed", "pending")


async def test_an_unsuccessful_delivery_is_shown_and_counted(service):
    """The job has the reason; a scrape has the attempts and what waits. No line of a log has the URL or a secret."""
    async with receiving(*[response(500)] * 100) as receiver:
        running = await service(worker_pool_size=1, log_level="debug", webhooks=setting(receiver.endpoint()))
        async with api_client.connected(running) as api:
            job = await api.finished(await post_users(api, USERS))

            async def attempted():
                [shown] = (await api.get(f"/{job['id']}")).json()["webhooks"]
                return shown if shown["state"] == "pending" and shown["attempts"] else None

            shown = await eventually(attempted)
            assert (shown["response_status"], shown["error"]) == (500, "HTTP 500")
            text = (await get(f"{running.url}/metrics")).text
            assert 'bulk_webhooks_waiting{endpoint="crm"} 1.0' in text
            assert 'bulk_webhooks_oldest_seconds{endpoint="crm"}' in text
            assert 'bulk_webhook_attempts_total{endpoint="crm",result="retried"}' in text
            assert 'bulk_webhook_attempts_total{endpoint="crm",result="failed"} 0.0' in text
            [line] = running.workers.logged("webhook not delivered")
            assert (line["endpoint"], line["error"]) == ("crm", "HTTP 500")
    assert "t0ken" in receiver.requests[0].line
    for process in (running.api, running.workers):
        assert not [word for word in ("t0ken", SECRET) if word in process.output]


async def test_without_webhooks_there_is_nothing(service):
    """No process more, no row, no member of a scrape; jobs have an empty list."""
    running = await service(worker_pool_size=1)
    await eventually(lambda: len(running.workers.children()) == 1)
    async with api_client.connected(running) as api:
        job = await api.finished(await post_users(api, USERS))
        assert job["webhooks"] == []
        assert await rows(api.conn, "SELECT 1 FROM webhook_deliveries") == []
        assert "bulk_webhook" not in (await get(f"{running.url}/metrics")).text
        assert len(running.workers.children()) == 1
