"""Clients that could slow others down: slow readers, incomplete requests, costly uploads, queues of exports."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle, islice
from typing import NoReturn
from urllib.parse import urlsplit

import httpx

from tests.support.eventually import in_time
from tests.support.exports import EXPORTS, STREAM
from tests.support.service import Service

IMPORTS = "/api/v1/imports"
# as many as CONNECTIONS_MAX: each further connection replaces the oldest of them
HALF_REQUESTS = 800
STREAMS = 10
UPLOADS = 10
BRACKET_BYTES = 1024 * 1024
# deep ones, the slowest ones for a byte, and ones of millions of elements
BRACKETS = [b"[", b"[{}[", b"[],", b'["",']
JOBS = 20
# a stream that is not read occupies its connection only if the response exceeds the buffers on the way
RECEIVE_BUFFER_BYTES = 64 * 1024


@asynccontextmanager
async def all_at_once(service: Service, *, bracket_bytes: int) -> AsyncIterator[None]:
    """Slow streams, incomplete requests, uploads of brackets and a queue of exports of articles, while the context is open."""
    async with AsyncExitStack() as stack:
        async with httpx.AsyncClient(base_url=service.url, timeout=600) as client:
            for _ in range(JOBS):
                assert (await client.post(EXPORTS, json={"resource": "articles"})).status_code == 202
        request = f"GET {STREAM.format('articles')} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        for _ in range(STREAMS):
            reader = await stack.enter_async_context(_connection(service, request, limit=RECEIVE_BUFFER_BYTES))
            assert b" 200 " in await in_time(reader.readline())
        for _ in range(HALF_REQUESTS):
            await stack.enter_async_context(_connection(service, b"GET /live HTTP/1.1\r\nHost: local"))
        # opened last: of too many connections the service closes the one that has been idle for longest
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=service.url, timeout=600))
        bombs = [asyncio.create_task(_post_bombs(client, number, bracket_bytes)) for number in range(UPLOADS)]
        yield
        for bomb in bombs:
            bomb.cancel()
        for ended in await asyncio.gather(*bombs, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise ended


async def _post_bombs(client: httpx.AsyncClient, number: int, size: int) -> NoReturn:
    """Posts arrays that are never closed, one after the other, each of another form, until it is cancelled."""
    for form in islice(cycle(BRACKETS), number, None):
        response = await client.post(
            IMPORTS,
            params={"resource": "users"},
            content=b"[" + form * (size // len(form)),
            headers={"Content-Type": "application/json"},
        )
        assert response.status_code == 400, response.text
    raise AssertionError("the forms never end")


@asynccontextmanager
async def _connection(service: Service, request: bytes, *, limit: int = 2**16) -> AsyncIterator[asyncio.StreamReader]:
    """A connection on which `request` was sent, and which is not read any further."""
    address = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=limit)
    writer.write(request)
    try:
        yield reader
    finally:
        # resets the connection, so that the service does not wait until the rest is read
        writer.transport.abort()
