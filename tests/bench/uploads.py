"""Uploads alone, without workers: their rate, the memory that the API needs for one, and two at once.

The yardstick is the fastest way to store these bytes in PostgreSQL from Python: binary COPY of rows of 128 kB, about the size of
a chunk, into a table with the storage of the payloads, 4 MB a transaction, as the API does. No HTTP, no parsing.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import psycopg

from db.resources.users import USERS
from tests.bench import memory, timed_import
from tests.bench.environment import Environment
from tests.bench.report import Figure, at_most
from tests.support import api_client, make_data
from tests.support.api_client import Api

FORMATS = ("csv", "ndjson")
BLOCK_RECORDS = 2_000
ROW_BYTES = 128 * 1024
TRANSACTION_BYTES = 4 * 1024**2
# the most that an upload may add to the API's memory
LIMIT_MB = 50


class _Payload(NamedTuple):
    """A header, records that are sent repeatedly, and an end: an upload does not compare records."""

    header: bytes
    block: bytes
    times: int
    end: bytes = b""

    @property
    def megabytes(self) -> float:
        return (len(self.header) + self.times * len(self.block) + len(self.end)) / 1e6

    async def body(self) -> AsyncIterator[bytes]:
        yield self.header
        for _ in range(self.times):
            yield self.block
        yield self.end


async def run(env: Environment) -> list[Figure]:
    figures = [figure for format in FORMATS for figure in await _measure(env, format)]
    return [*figures, *[await _two_at_once(env, format) for format in ("csv", "json")]]


async def _measure(env: Environment, format: str) -> list[Figure]:
    """Uploads of each format to an API that has received no other. Its database is dropped afterwards, with the jobs."""
    payload = _payload(format, env.size.upload_bytes)
    added_mb: list[float] = []
    async with timed_import.opened(env, f"uploads-{format}", run=["api"]) as api:
        await api.conn.execute("CREATE TABLE raw (data bytea STORAGE EXTERNAL)")

        async def post() -> float:
            await timed_import.emptied(api, "raw")
            before = _watch(api)
            rate = payload.megabytes / await _post(api, format, payload)
            if before is not None and api.service.api is not None:
                added_mb.append(memory.peak_mb(api.service.api.pid) - before)
            return rate

        async def copy() -> float:
            await timed_import.emptied(api, "raw")
            return payload.megabytes / _copy(api.service.environment["DATABASE_URL"], payload)

        rates = await timed_import.rounds(
            env, f"upload of {format}", "MB/s", {"COPY": copy, "POST": post}, env.size.rounds_of_long
        )
    figures = [
        Figure(
            name=f"upload of {payload.megabytes:.0f} MB of {format}",
            unit="MB/s",
            samples=rates["POST"],
            yardstick="raw COPY of the same bytes",
            yardstick_samples=rates["COPY"],
        )
    ]
    if added_mb:
        figures.append(
            Figure(
                name=f"memory that it adds to the API ({format})",
                unit="MB",
                # only the first time: later uploads reuse its memory
                samples=added_mb[:1],
                target=at_most(LIMIT_MB, of="samples"),
            )
        )
    return figures


async def _two_at_once(env: Environment, format: str) -> Figure:
    """Two uploads, received by two processes of the API and by one. A JSON array costs most of an API process."""
    payload = _payload(format, env.size.upload_bytes)
    async with (
        timed_import.opened(env, f"uploads-{format}-one", run=["api"]) as one,
        timed_import.opened(env, f"uploads-{format}-two", run=["api"], api_processes=2) as two,
    ):

        async def post(api: Api) -> float:
            await api.conn.execute("TRUNCATE import_jobs CASCADE")
            await api.conn.execute("CHECKPOINT")
            began = time.monotonic()
            # connections of their own: a process that is busy with one upload leaves the other connection to the other process
            async with api_client.connected(api.service) as second:
                await asyncio.gather(_post(api, format, payload), _post(second, format, payload))
            return 2 * payload.megabytes / (time.monotonic() - began)

        rates = await timed_import.rounds(
            env,
            f"two uploads of {format}",
            "MB/s",
            {"one process": lambda: post(one), "two processes": lambda: post(two)},
            env.size.rounds,
        )
    return Figure(
        name=f"two uploads of {payload.megabytes:.0f} MB of {format} at once, two API processes",
        unit="MB/s",
        samples=rates["two processes"],
        yardstick="one API process",
        yardstick_samples=rates["one process"],
    )


def _watch(api: Api) -> float | None:
    """The current memory of the API in MB; resets its peak."""
    if not memory.IS_KNOWN or api.service.api is None:
        return None
    memory.forget_peak(api.service.api.pid)
    return memory.now_mb(api.service.api.pid)


async def _post(api: Api, format: str, payload: _Payload) -> float:
    """Seconds."""
    began = time.monotonic()
    posted = await api.client.post(
        api_client.PATH, params={"resource": "users", "format": format}, content=payload.body()
    )
    seconds = time.monotonic() - began
    assert posted.status_code == 202, posted.text
    job = posted.json()
    records = payload.times * BLOCK_RECORDS + bool(payload.end)
    assert job["total_records"] == job["counts"]["unprocessed"] == records, job
    return seconds


def _copy(database_url: str, payload: _Payload) -> float:
    """Seconds."""
    rows = [payload.block[start : start + ROW_BYTES] for start in range(0, len(payload.block), ROW_BYTES)]
    blocks_a_transaction = max(1, TRANSACTION_BYTES // len(payload.block))
    began = time.monotonic()
    with psycopg.connect(database_url, autocommit=True) as conn:
        for done in range(0, payload.times, blocks_a_transaction):
            with conn.cursor().copy("COPY raw (data) FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["bytea"])
                for _ in range(min(blocks_a_transaction, payload.times - done)):
                    for row in rows:
                        copy.write_row((row,))
    return time.monotonic() - began


def _payload(format: str, size_bytes: int) -> _Payload:
    header, _, rows = make_data.users(BLOCK_RECORDS, seed=1).data.partition(b"\n")
    header += b"\n"
    if format != "csv":
        template = "{{" + ", ".join(f'"{name}": "{{}}"' for name in USERS.columns) + "}}\n"
        header, rows = b"", "".join(template.format(*row.split(",")) for row in rows.decode().splitlines()).encode()
    times = max(1, size_bytes // len(rows))
    if format == "json":
        # after the last comma a number, which counts as a record
        return _Payload(b"[", rows.replace(b"\n", b",\n"), times, end=b"0]")
    return _Payload(header, rows, times)
