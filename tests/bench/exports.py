"""Background exports, from the request until the file exists, compared with psql's COPY of the same query into a file."""

import time
from datetime import datetime
from pathlib import Path

from db.exports import copy_out
from db.exports.filters import select
from db.formats import Format
from db.resources.users import USERS
from tests.bench import files, timed_import
from tests.bench.environment import Environment, psql
from tests.bench.report import Figure
from tests.support.api_client import Api

FORMATS: tuple[Format, ...] = ("ndjson", "csv")
SESSIONS = (1, 2)


async def run(env: Environment) -> list[Figure]:
    figures: list[Figure] = []
    for sessions in SESSIONS:
        async with timed_import.opened(env, "exports", worker_pool_size=1, export_sessions=sessions) as api:
            timed_import.copied(api, files.users(env, env.size.records))
            await timed_import.settled(api, "users")
            figures += [await _measure(env, api, sessions, format) for format in FORMATS]
    return figures


async def _measure(env: Environment, api: Api, sessions: int, format: Format) -> Figure:
    statement = copy_out.statement(USERS, format, select(USERS, filters={}))[0].as_string(None)
    file = env.subfolder("copied") / "users"

    async def copy() -> float:
        return env.size.records / _copy(api.service.environment["DATABASE_URL"], statement, file)

    async def export() -> float:
        return env.size.records / await _export(api, format)

    name = f"export as {format} by {sessions} session{'s' * (sessions > 1)}"
    rates = await timed_import.rounds(env, name, "records/s", {"COPY": copy, "export": export}, env.size.rounds)
    return Figure(
        name=f"background {name}",
        unit="records/s",
        samples=rates["export"],
        yardstick="psql, the same COPY into a file",
        yardstick_samples=rates["COPY"],
    )


async def _export(api: Api, format: Format) -> float:
    """Seconds from the request until the job was completed, by the clock of the server, which is on this machine."""
    began = time.time()
    ordered = await api.client.post("/api/v1/exports", json={"resource": "users", "format": format})
    ordered.raise_for_status()
    job = await timed_import.final(api, ordered)
    assert job["status"] == "completed", job
    return datetime.fromisoformat(job["finished_at"]).timestamp() - began


def _copy(database_url: str, statement: str, file: Path) -> float:
    began = time.monotonic()
    with file.open("wb") as stdout:
        psql(database_url, statement, stdout=stdout.fileno())
    return time.monotonic() - began
