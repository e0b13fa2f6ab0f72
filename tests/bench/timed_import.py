r"""A file into the database, by the service over HTTP and by psql's `\copy`; and rounds of both."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx
from psycopg.sql import SQL, Identifier

from db import audit
from db.imports.jobs import FINAL
from db.settings import Settings
from tests.bench.environment import Environment, psql
from tests.bench.files import File
from tests.bench.report import number
from tests.support import api_client
from tests.support.api_client import Api
from tests.support.eventually import eventually
from tests.support.service import Service

POLL_SECONDS = 0.1


@asynccontextmanager
async def opened(env: Environment, name: str, **settings: Any) -> AsyncIterator[Api]:
    """A service on a database of its own, all of its workers connected, and a client; `settings` as for `running_service`."""
    settings = {"worker_pool_size": env.size.workers} | settings
    async with (
        api_client.service(env.server_url, env.subfolder(name), **settings) as service,
        connected(service) as api,
    ):
        yield api


@asynccontextmanager
async def connected(service: Service) -> AsyncIterator[Api]:
    """A client of a service whose workers are all connected."""
    async with api_client.connected(service, timeout=600) as api:
        if service.workers:
            size = int(service.environment.get("WORKER_POOL_SIZE", Settings().worker_pool_size))
            await eventually(lambda: _has_workers(api, size))
        yield api


async def _has_workers(api: Api, count: int) -> bool:
    return count == await api.value(
        """
        SELECT count(*)
        FROM pg_stat_activity
        WHERE datname = current_database() AND starts_with(application_name, 'bulk worker ')
        """
    )


async def emptied(api: Api, table: str) -> None:
    """Empties the tables and writes a checkpoint, so that each contender starts from the same state."""
    await api.conn.execute(SQL("TRUNCATE {}, import_jobs CASCADE").format(Identifier(table)))
    await api.conn.execute("CHECKPOINT")


def copied(api: Api, file: File) -> float:
    r"""Seconds that `\copy` takes, psql's start included."""
    with file.path.open() as lines:
        columns = lines.readline().strip()
    began = time.monotonic()
    psql(
        api.service.environment["DATABASE_URL"],
        rf"\copy {file.resource} ({columns}) FROM '{file.path}' WITH (FORMAT csv, HEADER)",
    )
    return time.monotonic() - began


async def settled(api: Api, table: str) -> None:
    """Brings tables that were just loaded into the state of tables at rest."""
    await api.conn.execute(SQL("VACUUM ANALYZE {}").format(Identifier(table)))
    await api.conn.execute("CHECKPOINT")


async def imported(api: Api, file: File, *, mode: str = "insert", stored: str = "created") -> float:
    """Seconds from the first byte sent until the job was completed, by the clock of the server, which is on this machine.

    All of its valid records must have been `stored`, and the counters must balance.
    """
    began = time.time()
    posted = await post(api, file, mode=mode)
    job = await final(api, posted)
    await check(api, job, file, stored=stored)
    return datetime.fromisoformat(job["finished_at"]).timestamp() - began


async def post(api: Api, file: File, *, mode: str = "insert") -> httpx.Response:
    posted = await api.client.post(
        api_client.PATH,
        params={"resource": file.resource, "format": file.format, "mode": mode},
        headers={} if file.compression == "none" else {"Content-Encoding": file.compression},
        content=file.blocks(),
    )
    assert posted.status_code == 202, posted.text
    return posted


async def final(api: Api, posted: httpx.Response, *, poll_seconds: float = POLL_SECONDS) -> dict[str, Any]:
    """The final job."""
    job = posted.json()
    while job["status"] not in FINAL:
        await asyncio.sleep(poll_seconds)
        job = (await api.client.get(posted.headers["location"])).json()
    return job


async def check(api: Api, job: dict[str, Any], file: File, *, stored: str = "created") -> None:
    """The counters balance, exactly the planted faults were refused, and the audit finds nothing."""
    counts = job["counts"]
    refused = file.faults.total()
    assert job["status"] == "completed", job
    assert job["total_records"] == file.records == sum(counts.values()), job
    assert (counts["failed"], counts[stored]) == (refused, file.records - refused), job
    found = {(group["field"], group["code"]): group["count"] for group in job["error_summary"]}
    assert found == file.faults, (found, file.faults)
    violations = await audit.violations(api.conn, import_id=job["id"], strict=True)
    assert violations == [], violations


async def rounds(
    env: Environment, title: str, unit: str, contenders: Mapping[str, Callable[[], Awaitable[float]]], count: int
) -> dict[str, list[float]]:
    """The results of each contender by round. Their order rotates from round to round."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for round in range(count):
        first = round % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(await contenders[name]())
        told = ", ".join(f"{name} {number(taken[-1])}" for name, taken in samples.items())
        env.log(f"{title}, round {round + 1}, {unit}: {told}")
    return samples
