"""A one-record import and the probes, alone and beside clients that slow others down: see tests/support/neighbours.py."""

import time
from statistics import quantiles

import httpx

from db.imports.jobs import FINAL
from tests.bench import timed_import
from tests.bench.environment import Environment
from tests.bench.report import Figure
from tests.support import neighbours
from tests.support.api_client import Api
from tests.support.exports import MANY, many_articles

BRACKET_BYTES = 4 * 1024 * 1024


async def run(env: Environment) -> list[Figure]:
    """p99 and maximum of each. The other clients are started again for each round of ten samples. No request may be refused."""
    async with timed_import.opened(env, "neighbours") as api:
        await many_articles(api.conn, MANY)
        rounds = max(1, env.size.singles // 50)
        alone: dict[str, list[float]] = {}
        beside: dict[str, list[float]] = {}
        for _ in range(rounds):
            await _samples(api, alone)
            async with neighbours.all_at_once(api.service, bracket_bytes=BRACKET_BYTES):
                await _samples(api, beside)
            await _exports_finished(api)
    return [
        Figure(
            name=f"{name} among bad neighbours, {statistic}",
            unit="ms",
            samples=[of(beside[name])],
            yardstick=f"the same alone, {statistic}",
            yardstick_samples=[of(alone[name])],
        )
        for name in beside
        for statistic, of in (("p99", _p99), ("maximum", max))
    ]


async def _samples(api: Api, samples: dict[str, list[float]]) -> None:
    for _ in range(10):
        samples.setdefault("import of one user", []).append(await _import(api))
        for probe in ("/live", "/ready"):
            samples.setdefault(probe, []).append(await _probe(api, probe))


async def _import(api: Api) -> float:
    """On a new connection."""
    began = time.monotonic()
    user = f"email,name,role,active\nuser{time.monotonic_ns()}@example.com,Ann,admin,true\n"
    headers = {"Content-Type": "text/csv", "Prefer": "wait=30"}
    async with httpx.AsyncClient(base_url=api.service.url, timeout=60) as client:
        posted = await client.post(neighbours.IMPORTS, params={"resource": "users"}, content=user, headers=headers)
        assert posted.status_code in (200, 202), posted.text
        while (job := (await client.get(posted.headers["location"])).json())["status"] not in FINAL:
            pass
    assert job["status"] == "completed", job
    return 1000 * (time.monotonic() - began)


async def _probe(api: Api, path: str) -> float:
    """On a connection of its own, as from a balancer."""
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=api.service.url, timeout=60) as client:
        response = await client.get(path)
        assert response.status_code == 200, response.text
    return 1000 * (time.monotonic() - began)


async def _exports_finished(api: Api) -> None:
    """Waits until the queue of exports is empty, which the next round fills again."""
    while await api.value("SELECT count(*) FROM export_jobs WHERE status IN ('pending', 'processing')"):
        pass


def _p99(samples: list[float]) -> float:
    return quantiles(samples, n=100, method="inclusive")[98]
