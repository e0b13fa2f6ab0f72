r"""Users by HTTP until the import is completed, a clean file and a dirty one, against `\copy` of the clean one."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from db.imports import FINAL
from tests import importing, make_data
from tests.bench.report import Figure, number
from tests.bench.scene import WORKERS, Scene, empty, psql
from tests.make_data import Made

FAULT_RATE = 0.025
BLOCK_BYTES = 256 * 1024
POLL_SECONDS = 0.1


async def run(scene: Scene) -> list[Figure]:
    folder = scene.subfolder("imports")
    clean = make_data.users(scene.size.records, seed=1)
    dirty = make_data.users(scene.size.records, seed=2, fault_rate=FAULT_RATE)
    (folder / "clean.csv").write_bytes(clean.data)
    (folder / "dirty.csv").write_bytes(dirty.data)
    async with (
        importing.service(scene.server_url, folder, worker_pool_size=WORKERS) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60) as client,
    ):
        database_url = service.environment["DATABASE_URL"]
        contenders: dict[str, Callable[[], Awaitable[float]]] = {
            r"\copy": partial(_copy, database_url, folder / "clean.csv"),
            "clean": partial(_import, client, folder / "clean.csv", clean),
            "dirty": partial(_import, client, folder / "dirty.csv", dirty),
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for round in range(scene.size.rounds):
            for name in _rotated(list(contenders), round):
                empty(database_url)
                rates[name].append(scene.size.records / await contenders[name]())
            told = ", ".join(f"{name} {number(samples[-1])}/s" for name, samples in rates.items())
            scene.tell(f"imports, round {round + 1}: {told}")
    return [
        _figure(f"import of users, {len(clean.data) / 1e6:.0f} MB of CSV", rates["clean"], rates[r"\copy"]),
        _figure(f"the same with {FAULT_RATE:.1%} bad records", rates["dirty"], rates[r"\copy"]),
    ]


def _figure(name: str, samples: list[float], yardstick_samples: list[float]) -> Figure:
    return Figure(
        name=name,
        unit="records/s",
        samples=samples,
        yardstick=r"psql \copy of the clean file",
        yardstick_samples=yardstick_samples,
    )


def _rotated(names: list[str], round: int) -> list[str]:
    """Each contender comes first, second and last in turn."""
    first = round % len(names)
    return names[first:] + names[:first]


async def _copy(database_url: str, path: Path) -> float:
    with path.open() as file:
        columns = file.readline().strip()
    began = time.monotonic()
    psql(database_url, rf"\copy users ({columns}) FROM '{path}' WITH (FORMAT csv, HEADER)")
    return time.monotonic() - began


async def _import(client: httpx.AsyncClient, path: Path, made: Made) -> float:
    """Seconds from the first byte sent until the job was completed, by the server's clock, which is this machine's."""
    began = time.time()
    posted = await client.post(
        importing.PATH, params={"resource": "users"}, content=_blocks(path), headers={"Content-Type": "text/csv"}
    )
    assert posted.status_code == 202, posted.text
    job = posted.json()
    while job["status"] not in FINAL:
        await asyncio.sleep(POLL_SECONDS)
        job = (await client.get(posted.headers["location"])).json()
    check_books(job, made)
    return datetime.fromisoformat(job["finished_at"]).timestamp() - began


def check_books(job: dict[str, Any], made: Made) -> None:
    """All records are accounted for, and just those were refused that had to be: a fast wrong answer is no result."""
    counts = job["counts"]
    refused = made.faults.total()
    assert job["status"] == "completed", job
    assert job["total_records"] == made.records == sum(counts.values()), job
    assert (counts["failed"], counts["created"]) == (refused, made.records - refused), job
    found = {(group["field"], group["code"]): group["count"] for group in job["error_summary"]}
    assert found == made.faults, (found, made.faults)


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:  # it was just written, so it comes from memory
        while block := file.read(BLOCK_BYTES):
            yield block
