"""Imports of one record, posted by wrk on 16 connections without a pause: how many a second are completed, and where time goes.

The rate is from the first request to the end of the last import, with the load generator on the same cores.
"""

import asyncio
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

from db import audit
from tests.bench import timed_import
from tests.bench.environment import Environment, cpu_seconds
from tests.bench.report import Figure, at_least
from tests.support import api_client
from tests.support.api_client import Api
from tests.support.eventually import eventually

CONNECTIONS = 16
SCRIPT = Path(__file__).parent / "post_users.lua"
# workers and API processes
CASES = ((2, 1), (2, 2), (10, 1), (10, 2))
TARGET = 600


async def run(env: Environment) -> list[Figure]:
    if shutil.which("wrk") is None:
        env.log("skipped: wrk is not installed")
        return []
    figures: list[Figure] = []
    for workers, processes in CASES:
        figures += await _measure(env, workers, processes)
    return figures


async def _measure(env: Environment, workers: int, processes: int) -> list[Figure]:
    rates: list[float] = []
    cpu_ms: dict[str, list[float]] = {"API": [], "workers": [], "PostgreSQL": []}
    async with timed_import.opened(
        env, f"rate-{workers}-{processes}", worker_pool_size=workers, api_processes=processes, queue_jobs_max=1_000_000
    ) as api:
        # connections are opened and statements planned
        await _post(api, seconds=2, run="first")
        await eventually(api.is_idle)
        for round in range(env.size.rounds_of_long):
            await timed_import.emptied(api, "users")
            before = await _cpu_seconds(api)
            began = await api.value("SELECT clock_timestamp()")
            await _post(api, seconds=env.size.rate_seconds, run=f"round{round}")
            await eventually(api.is_idle)
            count, ended = await _imported(api)
            rates.append(count / (ended - began).total_seconds())
            for name, seconds in (await _cpu_seconds(api)).items():
                cpu_ms[name].append(1000 * (seconds - before[name]) / count)
        assert await audit.violations(api.conn, strict=True) == []
    name = f"{workers} workers, {processes} API process{'es' if processes > 1 else ''}"
    env.log(f"{name}: {', '.join(f'{rate:.0f}' for rate in rates)} imports/s")
    return [
        Figure(
            name=f"imports of one record, {name}",
            unit="imports/s",
            samples=rates,
            target=at_least(TARGET, of="samples"),
        ),
        *(Figure(name=f"CPU time of {of}, each", unit="ms", samples=samples) for of, samples in cpu_ms.items()),
    ]


async def _post(api: Api, *, seconds: int, run: str) -> None:
    url = api.service.url + api_client.PATH
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", SCRIPT, url, "--", run]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr


async def _imported(api: Api) -> tuple[int, datetime]:
    """The number of imports, all of which have created their record, and the end of the last one."""
    cursor = await api.conn.execute("SELECT count(*), max(finished_at), sum(created)::bigint FROM import_jobs")
    row = await cursor.fetchone()
    assert row is not None
    count, ended, created = row
    assert count == created
    return count, ended


async def _cpu_seconds(api: Api) -> dict[str, float]:
    assert api.service.api is not None
    assert api.service.workers is not None
    data = Path(await api.value("SHOW data_directory"))
    server = int((data / "postmaster.pid").read_text().split()[0])
    return {
        "API": cpu_seconds(api.service.api.pid),
        "workers": cpu_seconds(api.service.workers.pid),
        "PostgreSQL": cpu_seconds(server),
    }
