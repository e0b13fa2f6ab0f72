"""Streaming exports over HTTP compared with psql's COPY of the same query to /dev/null; the first byte; a slow client."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import psycopg

from db.exports import copy_out
from db.exports.filters import select
from db.formats import Format
from db.resources.users import USERS
from tests.bench import files, memory, timed_import
from tests.bench.environment import Environment, psql
from tests.bench.report import Figure, at_least, at_most, number
from tests.support.service import Service

FORMATS: tuple[Format, ...] = ("ndjson", "csv")
READ_BYTES = 256 * 1024
# how many times larger the table for the first byte and the slow client is than the one for the rates
LARGER = 4
FIRST_BYTES = 20

SLOW_BYTES_A_SECOND = 1_000_000
SLOW_LIMIT_MB = 30


async def run(env: Environment) -> list[Figure]:
    async with timed_import.opened(env, "streams", run=["api"]) as api:
        service = api.service
        database_url = service.environment["DATABASE_URL"]
        timed_import.copied(api, files.users(env, env.size.records))
        await timed_import.settled(api, "users")
        figures = [await _measure(env, service, database_url, format) for format in FORMATS]
        _enlarge(env, database_url)
        figures += [await _first_bytes(env, service, format) for format in FORMATS]
        return figures + await _slow_client(env, service)


async def _measure(env: Environment, service: Service, database_url: str, format: Format) -> Figure:
    statement = copy_out.statement(USERS, format, select(USERS, filters={}))[0].as_string(None)
    await _check_same(service, database_url, format, statement)
    ours: list[float] = []
    yardstick: list[float] = []
    for round in range(env.size.rounds):
        if round % 2 == 0:
            yardstick.append(env.size.records / _copy(database_url, statement))
        ours.append(env.size.records / await _stream(service, format))
        if round % 2 == 1:
            yardstick.append(env.size.records / _copy(database_url, statement))
        env.log(f"stream of {format}, round {round + 1}: {number(ours[-1])}/s, COPY {number(yardstick[-1])}/s")
    return Figure(
        name=f"stream of users as {format}",
        unit="records/s",
        samples=ours,
        yardstick="psql, the same COPY to stdout",
        yardstick_samples=yardstick,
        target=at_least(0.9),
    )


async def _check_same(service: Service, database_url: str, format: Format, statement: str) -> None:
    """Compares the bytes of both, which also warms both up."""
    copied = psql(database_url, statement, stdout=subprocess.PIPE)
    connection = await _Client.open(service, format)
    body = b"".join([block async for block in connection.chunks()])
    assert body == copied, f"{format}: the stream is not what COPY gives"


async def _stream(service: Service, format: Format) -> float:
    began = time.monotonic()
    connection = await _Client.open(service, format)
    await connection.drain()
    return time.monotonic() - began


def _copy(database_url: str, statement: str) -> float:
    began = time.monotonic()
    psql(database_url, statement)
    return time.monotonic() - began


def _enlarge(env: Environment, database_url: str) -> None:
    env.log(f"{LARGER * env.size.records:,} records")
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            """
            INSERT INTO users (email, name, role, active, created_at, updated_at)
            SELECT n || email, name, role, active, created_at, updated_at
            FROM users CROSS JOIN generate_series(2, %(times)s) AS n
            """,
            {"times": LARGER},
        )
        conn.execute("VACUUM ANALYZE users")


async def _first_bytes(env: Environment, service: Service, format: Format) -> Figure:
    """Milliseconds from the request to the first byte of the body; then the client disconnects."""
    samples: list[float] = []
    for _ in range(FIRST_BYTES):
        began = time.monotonic()
        connection = await _Client.open(service, format)
        await connection.reader.readexactly(1)
        samples.append(1000 * (time.monotonic() - began))
        connection.writer.close()
    records = number(LARGER * env.size.records)
    return Figure(name=f"first byte of {records} users as {format}", unit="ms", samples=samples)


async def _slow_client(env: Environment, service: Service) -> list[Figure]:
    """The growth of the API's memory while a client reads 1 MB a second."""
    if not memory.IS_KNOWN or service.api is None:
        env.log("slow client skipped: it needs /proc")
        return []
    before = memory.now_mb(service.api.pid)
    memory.forget_peak(service.api.pid)
    connection = await _Client.open(service, "ndjson")
    began = time.monotonic()
    taken = 0
    while (seconds := time.monotonic() - began) < env.size.slow_seconds:
        data = await connection.reader.read(64 * 1024)
        if not data:
            break
        taken += len(data)
        await asyncio.sleep(max(0.0, taken / SLOW_BYTES_A_SECOND - seconds))
    most = memory.peak_mb(service.api.pid)
    connection.writer.close()
    env.log(f"slow client: {taken / 1e6:.0f} MB in {seconds:.0f} s, resident {before:.0f} → {most:.0f} MB")
    return [
        Figure(
            name=f"memory the API adds for a stream of {number(LARGER * env.size.records)} users at 1 MB/s",
            unit="MB",
            samples=[most - before],
            target=at_most(SLOW_LIMIT_MB, of="samples"),
        )
    ]


class _Client:
    """A client that does as little as psql writing to /dev/null. A Python client would be slower than the service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, service: Service, format: Format) -> "_Client":
        """A stream whose head has been read."""
        address = urlsplit(service.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2 * READ_BYTES)
        path = f"/api/v1/exports/users/stream?format={format}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return cls(reader, writer)

    async def drain(self) -> None:
        """Reads the body. Fails if it is incomplete."""
        end = b""
        while data := await self.reader.read(READ_BYTES):
            end = (end + data)[-16:]
        self.writer.close()
        assert end.endswith(b"\r\n0\r\n\r\n"), "the stream is broken"

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        self.writer.close()
