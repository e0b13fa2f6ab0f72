"""The smallest import: one record, from the request until the client sees it completed."""

import asyncio
import time
from statistics import quantiles

import httpx
import psycopg

from db import audit
from db.imports.jobs import FINAL
from tests.bench import timed_import
from tests.bench.environment import Environment
from tests.bench.report import Figure, at_most
from tests.support import api_client

POLL_SECONDS = 0.002
# milliseconds, by percentile
TARGETS = {50: 25, 99: 100}


async def run(env: Environment) -> list[Figure]:
    async with timed_import.opened(env, "singles") as api:
        # the first ones have to open connections and plan statements
        for n in range(5):
            await _import(api.client, -n)
        imports = [await _import(api.client, n) for n in range(1, env.size.singles + 1)]
        assert await audit.violations(api.conn, strict=True) == []
        with psycopg.connect(api.service.environment["DATABASE_URL"], autocommit=True) as conn:
            inserts = [_insert(conn, n) for n in range(env.size.singles)]
    env.log(f"one record: {len(imports)} imports, one after the other")
    ours, yardstick = (quantiles(samples, n=100, method="inclusive") for samples in (imports, inserts))
    return [
        Figure(
            name=f"import of one record, p{percent}",
            unit="ms",
            samples=[ours[percent - 1]],
            yardstick=f"one INSERT, committed, p{percent}",
            yardstick_samples=[yardstick[percent - 1]],
            target=at_most(TARGETS[percent], of="samples") if percent in TARGETS else None,
        )
        for percent in (50, 95, 99)
    ]


async def _import(client: httpx.AsyncClient, n: int) -> float:
    """Milliseconds."""
    user = {"email": f"single{n}@example.org", "name": "Ada", "role": "reader", "active": True}
    began = time.monotonic()
    posted = await client.post(api_client.PATH, json={"resource": "users", "records": [user]})
    assert posted.status_code == 202, posted.text
    job = posted.json()
    while job["status"] not in FINAL:
        await asyncio.sleep(POLL_SECONDS)
        job = (await client.get(posted.headers["location"])).json()
    taken = time.monotonic() - began
    assert (job["status"], job["outcome"], job["counts"]["created"]) == ("completed", "success", 1), job
    return 1000 * taken


def _insert(conn: psycopg.Connection, n: int) -> float:
    """Milliseconds."""
    began = time.monotonic()
    conn.execute(
        "INSERT INTO users (email, name, role, active) VALUES (%(email)s, 'Ada', 'reader', true)",
        {"email": f"inserted{n}@example.org"},
    )
    return 1000 * (time.monotonic() - began)
