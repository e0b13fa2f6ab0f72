"""Streaming exports over HTTP against psql with the same COPY, to nowhere."""

import subprocess
import time

import httpx

from db import export
from db.payload import Format
from db.resources.users import USERS
from tests import importing, make_data
from tests.bench.report import Figure, number
from tests.bench.scene import Scene, psql

FORMATS: tuple[Format, ...] = ("ndjson", "csv")


async def run(scene: Scene) -> list[Figure]:
    folder = scene.subfolder("streams")
    (folder / "users.csv").write_bytes(make_data.users(scene.size.records, seed=1).data)
    async with (
        importing.service(scene.server_url, folder, run=["api"]) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60, headers={"Accept-Encoding": "identity"}) as client,
    ):
        database_url = service.environment["DATABASE_URL"]
        columns = ", ".join(USERS.columns)
        psql(database_url, rf"\copy users ({columns}) FROM '{folder / 'users.csv'}' WITH (FORMAT csv, HEADER)")
        psql(database_url, "VACUUM ANALYZE users")
        return [await _measure(scene, client, database_url, format) for format in FORMATS]


async def _measure(scene: Scene, client: httpx.AsyncClient, database_url: str, format: Format) -> Figure:
    statement = export._statement(USERS, format).as_string(None)
    await _check_same(scene, client, database_url, format, statement)
    ours: list[float] = []
    yardstick: list[float] = []
    for round in range(scene.size.rounds):
        if round % 2 == 0:
            yardstick.append(scene.size.records / _copy(database_url, statement))
        ours.append(scene.size.records / await _stream(client, format))
        if round % 2 == 1:
            yardstick.append(scene.size.records / _copy(database_url, statement))
        scene.tell(f"stream of {format}, round {round + 1}: {number(ours[-1])}/s, COPY {number(yardstick[-1])}/s")
    return Figure(
        name=f"stream of users as {format}",
        unit="records/s",
        samples=ours,
        yardstick="psql, the same COPY to stdout",
        yardstick_samples=yardstick,
    )


async def _check_same(
    scene: Scene, client: httpx.AsyncClient, database_url: str, format: Format, statement: str
) -> None:
    """Both give the same bytes; which also warms both up."""
    copied = psql(database_url, statement, stdout=subprocess.PIPE)
    response = await client.get(_path(format))
    assert response.status_code == 200, response.text
    assert response.content == copied, f"{format}: the stream is not what COPY gives"


async def _stream(client: httpx.AsyncClient, format: Format) -> float:
    began = time.monotonic()
    async with client.stream("GET", _path(format)) as response:
        async for _ in response.aiter_raw():
            pass
    return time.monotonic() - began


def _copy(database_url: str, statement: str) -> float:
    began = time.monotonic()
    psql(database_url, statement)
    return time.monotonic() - began


def _path(format: Format) -> str:
    return f"/api/v1/exports/users/stream?format={format}"
