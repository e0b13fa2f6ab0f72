"""Slow, incomplete, costly or numerous requests do not affect other clients."""

import httpx

from tests.support import neighbours
from tests.support.eventually import eventually
from tests.support.exports import MANY, many_articles

ROUNDS = 3


async def test_a_small_import_beside_hostile_clients(service, conn):
    """Beside slow streams, half requests, uploads of brackets and a queue of exports, imports end and probes answer."""
    await many_articles(conn, MANY)
    # the half heads stay open as long as the test runs
    running = await service(worker_pool_size=2, head_seconds=600)
    async with (
        neighbours.all_at_once(running, bracket_bytes=neighbours.BRACKET_BYTES),
        httpx.AsyncClient(base_url=running.url, timeout=120) as client,
    ):
        for number in range(ROUNDS):
            posted = await client.post(
                neighbours.IMPORTS,
                params={"resource": "users"},
                content=f"email,name,role,active\nann{number}@example.com,Ann,admin,true\n",
                headers={"Content-Type": "text/csv"},
            )
            assert posted.status_code == 202, posted.text

            async def is_completed(location=posted.headers["location"]) -> bool:
                return (await client.get(location)).json()["status"] == "completed"

            await eventually(is_completed)
            for probe in ("/live", "/ready"):
                await eventually(lambda probe=probe: is_answered(running.url + probe))


async def is_answered(url: str) -> bool:
    """Whether a probe succeeds on a connection of its own, as a balancer has it."""
    async with httpx.AsyncClient(timeout=120) as balancer:
        return (await balancer.get(url)).status_code == 200
