"""How much memory an API process takes for one large upload. No workers run, so that nothing but the upload is measured."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx

from db.resources.users import USERS
from tests import importing, make_data
from tests.bench.report import Figure
from tests.bench.scene import Scene
from tests.servers import Process

# what the upload may add at most
LIMIT_MB = 50
BLOCK_RECORDS = 2_000
SAMPLE_SECONDS = 0.02


async def run(scene: Scene) -> list[Figure]:
    """An upload of each format, each to an API that has had no other. The database is dropped, and the jobs with it."""
    if sys.platform != "linux":
        scene.tell("skipped: it needs /proc")
        return []
    return [figure for format in ("csv", "ndjson") for figure in await _measure(scene, format)]


async def _measure(scene: Scene, format: str) -> list[Figure]:
    async with (
        importing.service(scene.server_url, scene.subfolder(f"memory-{format}"), run=["api"]) as service,
        httpx.AsyncClient(base_url=service.url, timeout=600) as client,
    ):
        assert service.api is not None
        before = _resident_mb(service.api)
        seconds, most = await _watched(service.api, client, format, scene.size.upload_bytes)
        megabytes = scene.size.upload_bytes / 1e6
        scene.tell(f"upload of {format}: {megabytes / seconds:.0f} MB/s, resident {before:.0f} → {most:.0f} MB")
    mebibytes = scene.size.upload_bytes // 1024**2
    return [
        Figure(
            name=f"memory the API adds for {mebibytes} MiB of {format}",
            unit="MB",
            samples=[most - before],
            yardstick="what is allowed",
            yardstick_samples=[LIMIT_MB],
        ),
        Figure(name=f"the upload of these {mebibytes} MiB", unit="MB/s", samples=[megabytes / seconds]),
    ]


async def _watched(api: Process, client: httpx.AsyncClient, format: str, size_bytes: int) -> tuple[float, float]:
    """Seconds that the upload took, and the most MB that were resident meanwhile."""
    most = 0.0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, _resident_mb(api))
            await asyncio.sleep(SAMPLE_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        seconds = await _upload(client, format, size_bytes)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    return seconds, max(most, _resident_mb(api))


async def _upload(client: httpx.AsyncClient, format: str, size_bytes: int) -> float:
    header, block = _block(format)
    times = size_bytes // len(block)

    async def body() -> AsyncIterator[bytes]:
        yield header
        for _ in range(times):
            yield block

    began = time.monotonic()
    posted = await client.post(importing.PATH, params={"resource": "users", "format": format}, content=body())
    seconds = time.monotonic() - began
    assert posted.status_code == 202, posted.text
    job = posted.json()
    assert job["total_records"] == job["counts"]["unprocessed"] == times * BLOCK_RECORDS, job
    return seconds


def _block(format: str) -> tuple[bytes, bytes]:
    """A header, and records that are sent over and over: nobody looks whether they are the same."""
    header, _, rows = make_data.users(BLOCK_RECORDS, seed=1).data.partition(b"\n")
    if format == "csv":
        return header + b"\n", rows
    template = "{{" + ", ".join(f'"{name}": "{{}}"' for name in USERS.columns) + "}}\n"
    return b"", "".join(template.format(*row.split(",")) for row in rows.decode().splitlines()).encode()


def _resident_mb(process: Process) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(f"the API has ended:\n{process.output}")
