"""GET /service: the state, the queue, the limits, and what the key may do."""

from tests.support import api_client
from tests.support.api_client import USERS_HEADER, user_row

READER = "grafana:read:a-key-that-may-only-read"
WRITER = "ada:admin:a-key-that-may-do-all"
PATH = "/api/v1/service"


async def test_the_service_describes_itself(service):
    """Without workers the queue shows that an import waits; the limits are the settings', the role is the key's."""
    started = await service(run=["api"], api_keys=f"{READER},{WRITER}", uploads_max=7)
    async with api_client.connected(started) as api:
        headers = {"X-API-Key": WRITER.rpartition(":")[2]}
        await api.client.post(
            "/api/v1/imports?resource=users",
            content=USERS_HEADER + user_row(1),
            headers={**headers, "Content-Type": "text/csv"},
        )
        described = (await api.client.get(PATH, headers=headers)).json()
        assert (described["status"], described["key"]) == ("ready", {"name": "ada", "role": "admin"})
        assert described["checks"]["workers"]["status"] == "warning"
        queue = described["queue"]
        assert (queue["imports_waiting"], queue["chunks_waiting"], queue["workers"]) == (1, 1, 0)
        assert queue["records_left"]["users"] == 1
        assert described["limits"]["uploads_max"] == 7
        reader = await api.client.get(PATH, headers={"X-API-Key": READER.rpartition(":")[2]})
        assert reader.json()["key"] == {"name": "grafana", "role": "read"}


async def test_without_keys_there_is_no_key_to_describe(service):
    started = await service(run=["api"])
    async with api_client.connected(started) as api:
        assert (await api.client.get(PATH)).json()["key"] is None
