"""Background exports, from the request until the file exists, compared with psql's COPY of the same query into a file."""

import asyncio
import subprocess
import time
from pathlib import Path

import httpx

from db.exports import copy_out
from db.exports.filters import select
from db.exports.jobs import FINAL
from db.formats import Format
from db.resources.users import USERS
from tests.bench import files, timed_import
from tests.bench.environment import Environment, psql
from tests.bench.report import Figure, number

FORMATS: tuple[Format, ...] = ("ndjson", "csv")
POLL_SECONDS = 0.005


async def run(env: Environment) -> list[Figure]:
    copied = env.subfolder("copied") / "users"
    async with timed_import.opened(env, "exports", worker_pool_size=1) as api:
        database_url = api.service.environment["DATABASE_URL"]
        timed_import.copied(api, files.users(env, env.size.records))
        await timed_import.settled(api, "users")
        return [await _measure(env, api.client, database_url, copied, format) for format in FORMATS]


async def _measure(
    env: Environment, client: httpx.AsyncClient, database_url: str, file: Path, format: Format
) -> Figure:
    statement = copy_out.statement(USERS, format, select(USERS, filters={}))[0].as_string(None)
    ours: list[float] = []
    yardstick: list[float] = []
    for round in range(env.size.rounds):
        if round % 2 == 0:
            yardstick.append(env.size.records / _copy(database_url, statement, file))
        ours.append(env.size.records / await _export(client, format))
        if round % 2 == 1:
            yardstick.append(env.size.records / _copy(database_url, statement, file))
        env.log(f"export of {format}, round {round + 1}: {number(ours[-1])}/s, COPY {number(yardstick[-1])}/s")
    return Figure(
        name=f"background export of users as {format}",
        unit="records/s",
        samples=ours,
        yardstick="psql, the same COPY into a file",
        yardstick_samples=yardstick,
    )


async def _export(client: httpx.AsyncClient, format: Format) -> float:
    began = time.monotonic()
    ordered = await client.post("/api/v1/exports", json={"resource": "users", "format": format})
    ordered.raise_for_status()
    while (job := (await client.get(ordered.headers["location"])).json())["status"] not in FINAL:  # noqa: ASYNC110  # as clients do
        await asyncio.sleep(POLL_SECONDS)
    assert job["status"] == "completed", job
    return time.monotonic() - began


def _copy(database_url: str, statement: str, file: Path) -> float:
    began = time.monotonic()
    file.write_bytes(psql(database_url, statement, stdout=subprocess.PIPE))
    return time.monotonic() - began
