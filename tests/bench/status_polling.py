"""Status requests a second, compared with a SELECT of the row by psycopg. A few clients with persistent connections."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import urlsplit

import psycopg

from tests.bench import files, timed_import
from tests.bench.environment import Environment
from tests.bench.report import Figure
from tests.support.api_client import Api
from tests.support.service import Service, running_service

CLIENTS = 4
# small chunks, so that there are many of them
BATCH_SIZE = 100


async def run(env: Environment) -> list[Figure]:
    """Of a pending import, whose counters are sums over its chunks, and of the same one when it is final."""
    file = files.users(env, env.size.tried_records)
    chunks = file.records // BATCH_SIZE
    async with timed_import.opened(env, "polls", run=["api"], batch_size=BATCH_SIZE) as api:
        posted = await timed_import.post(api, file)
        address, database_url = posted.headers["location"], api.service.environment["DATABASE_URL"]
        waiting = await _measure(env, api, address, f"waits, {chunks} chunks")
        async with running_service(
            env.subfolder("polls-workers"), database_url, run=["workers"], worker_pool_size=env.size.workers
        ):
            await timed_import.check(api, await timed_import.final(api, posted), file)
        return [waiting, await _measure(env, api, address, f"is final, {chunks} chunks")]


async def _measure(env: Environment, api: Api, address: str, title: str) -> Figure:
    id = address.rpartition("/")[2]
    contenders = {
        "HTTP": partial(_rate, env.size.polls, partial(_get, api.service, address)),
        "SELECT": partial(_rate, env.size.polls, partial(_select, api.service, id)),
    }
    rates = await timed_import.rounds(env, f"status of an import that {title}", "a second", contenders, env.size.rounds)
    return Figure(
        name=f"status of an import that {title}",
        unit="polls/s",
        samples=rates["HTTP"],
        yardstick="SELECT of its row by psycopg",
        yardstick_samples=rates["SELECT"],
    )


async def _rate(polls: int, poll: Callable[[int], Awaitable[None]]) -> float:
    began = time.monotonic()
    await asyncio.gather(*(poll(polls // CLIENTS) for _ in range(CLIENTS)))
    return polls // CLIENTS * CLIENTS / (time.monotonic() - began)


async def _get(service: Service, address: str, times: int) -> None:
    """Without a client library: one in Python takes longer for a request than the service does."""
    place = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    request = f"GET {address} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode()
    for _ in range(times):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200 "), head
        length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
    writer.close()


async def _select(service: Service, id: str, times: int) -> None:
    async with await psycopg.AsyncConnection.connect(service.environment["DATABASE_URL"], autocommit=True) as conn:
        for _ in range(times):
            cursor = await conn.execute("SELECT * FROM import_jobs WHERE id = %(id)s", {"id": id})
            assert await cursor.fetchone()
