"""Slow and stalled clients: every wait for a client has a time limit, and then its resources are released."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from tests.support import api_client
from tests.support.api_client import PATH, USERS_HEADER, Api
from tests.support.eventually import PATIENCE_SECONDS, eventually, in_time
from tests.support.service import Service

# long enough that a whole request on a busy machine is in time
HEAD_SECONDS = 2
STALL_SECONDS = 2
CONNECTIONS_MAX = 20
POST = f"POST {PATH}?resource=users HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n".encode()
ENDLESS = POST + b"Content-Length: 1000000\r\n\r\n" + USERS_HEADER
ROW = b"a@example.org,A,reader,true\n"
LIVE = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSING = b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
STREAM = b"GET /api/v1/exports/users/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
SERVICE = {
    "run": ["api"],
    "head_seconds": HEAD_SECONDS,
    "keep_alive_seconds": HEAD_SECONDS,
    "stall_seconds": STALL_SECONDS,
    "body_rate_min": 1000,
    "connections_max": CONNECTIONS_MAX,
}


@pytest.fixture
async def api(api: Api) -> AsyncIterator[Api]:
    """After each test nothing of its uploads may be stored."""
    yield api
    await eventually(api.has_nothing)


class Client:
    """A connection on which the test sends and reads single bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def send_slowly(self, data: bytes, *, pause_seconds: float = 0.05) -> None:
        """Sends one byte at a time, until the server closes the connection."""
        for position in range(len(data)):
            if self.reader.at_eof() or self.writer.is_closing():
                return
            self.send(data[position : position + 1])
            await asyncio.sleep(pause_seconds)

    async def to_the_end(self) -> bytes:
        """Everything that is received until the server closes the connection."""
        received = bytearray()
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                while block := await self.reader.read(65536):
                    received += block
            except ConnectionError:
                pass
        return bytes(received)


@asynccontextmanager
async def connection(service: Service, *, receive_buffer_bytes: int | None = None) -> AsyncIterator[Client]:
    line = socket.socket()
    if receive_buffer_bytes is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", httpx.URL(service.url).port))
    reader, writer = await asyncio.open_connection(sock=line)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def problem(answer: bytes) -> dict:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    return json.loads(body)


@pytest.mark.parametrize(
    "head", [b"GET /api/v1/im", b"GET / HTTP/1.1\r\nHost: lo", b"GET / HTTP/1.1\r\nHost: localhost\r\n"]
)
async def test_an_incomplete_head(shared, head):
    """An incomplete head is answered 408, and the connection is closed."""
    async with connection(shared) as client:
        client.send(head)
        assert problem(await client.to_the_end())["type"] == "/problems/request-timeout"


async def test_a_head_byte_by_byte(shared):
    """The time limit of a head does not restart with each byte."""
    async with connection(shared) as client:
        sending = asyncio.create_task(client.send_slowly(b"GET /live HTTP/1.1\r\n" + b"X-A: b\r\n" * 1000))
        assert problem(await client.to_the_end())["status"] == 408
        await sending


async def test_a_second_head(shared):
    """The time limit applies to the next request on a connection too, and blank lines do not extend it."""
    async with connection(shared) as client:
        client.send(LIVE)
        await in_time(client.reader.readuntil(b"\r\n\r\n"))
        sending = asyncio.create_task(client.send_slowly(b"\r\n" * 1000))
        assert b"HTTP/1.1" not in await client.to_the_end()
        await sending
    async with connection(shared) as client:
        client.send(LIVE + b"GET /l")
        answer = await client.to_the_end()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b" 408 " in answer


async def test_incomplete_heads_do_not_keep_others_out(shared):
    """If all connections are without a complete request, a new one replaces the oldest of them and is served."""
    port = httpx.URL(shared.url).port
    heads = []
    try:
        for number in range(5 * CONNECTIONS_MAX):
            heads.append(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS))
            heads[-1].sendall((b"", b"GET /live HTTP/1.1\r\nHost: te")[number % 2])
            if number % 5 == 0:
                async with connection(shared) as client:
                    client.send(CLOSING)
                    assert (await client.to_the_end()).startswith(b"HTTP/1.1 200")
    finally:
        for one in heads:
            one.close()


async def test_idle_connections_make_room_too(shared):
    """A connection that is kept alive between two requests is closed for a new one."""
    async with AsyncExitStack() as stack:
        for _ in range(CONNECTIONS_MAX + 5):
            client = await stack.enter_async_context(connection(shared))
            client.send(LIVE)
            assert (await in_time(client.reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 200")


async def test_the_connection_that_has_waited_longest_makes_room(service):
    """A half head is closed before a kept-alive connection that waits for less long, though its wait would end later."""
    limited = await service(run=["api"], connections_max=5, head_seconds=600, keep_alive_seconds=300)
    async with AsyncExitStack() as stack:
        for _ in range(4):
            half = await stack.enter_async_context(connection(limited))
            half.send(LIVE[:-2])
        kept = await stack.enter_async_context(connection(limited))
        await ask(kept)
        for _ in range(3):
            await ask(await stack.enter_async_context(connection(limited)))
        await ask(kept)


async def ask(client: Client) -> None:
    """One request for /live, whose whole response is read."""
    client.send(LIVE)
    assert (await in_time(client.reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 200")
    await in_time(client.reader.readexactly(len(b'{"status":"live"}')))


async def test_probes_get_through_when_all_connections_are_busy(shared, api, events):
    """Beyond the limit only probes are answered; everything else is 503, and afterwards there is room again."""
    async with AsyncExitStack() as stack:
        # the fixture has a connection too
        for _ in range(CONNECTIONS_MAX):
            client = await stack.enter_async_context(connection(shared))
            client.send(events)
            if not (await in_time(client.reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 200"):
                break
        async with connection(shared) as probe:
            probe.send(LIVE)
            assert (await probe.to_the_end()).startswith(b"HTTP/1.1 200")
        async with connection(shared) as other:
            other.send(b"GET /api/v1/imports HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert problem(await other.to_the_end())["status"] == 503

    async def is_served() -> bool:
        async with connection(shared) as client:
            client.send(CLOSING)
            return (await client.to_the_end()).startswith(b"HTTP/1.1 200")

    await eventually(is_served)


@pytest.mark.parametrize("form", ["a file", "an order"])
async def test_a_body_that_stops(shared, api, form):
    """An upload that stalls is answered 408 and removed."""
    async with connection(shared) as client:
        if form == "a file":
            client.send(ENDLESS + ROW * 10)
        else:
            client.send(b"POST /api/v1/exports HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        answered = problem(await client.to_the_end())
        assert (answered["type"], answered["status"]) == ("/problems/request-timeout", 408)


async def test_a_body_byte_by_byte(shared, api):
    """A body below the minimum rate is answered 408 too."""
    async with connection(shared) as client:
        client.send(ENDLESS)
        sending = asyncio.create_task(client.send_slowly(b"a" * 10_000))
        assert "1000 bytes a second" in problem(await client.to_the_end())["detail"]
        await sending


@pytest.mark.timing
async def test_a_body_in_time(shared, api):
    """A slow upload above the minimum rate is completed, even if it takes much longer than any single time limit."""
    row = ROW * 40
    async with connection(shared) as client:
        client.send(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (12 * len(row) + len(USERS_HEADER)))
        client.send(USERS_HEADER)
        for _ in range(12):
            client.send(row)
            await asyncio.sleep(3 * STALL_SECONDS / 12)
        assert (await client.to_the_end()).startswith(b"HTTP/1.1 202")
    await api.conn.execute("DELETE FROM import_jobs")


async def test_the_rest_of_a_refused_body(shared):
    """A refused client can send for a short time, so that it receives its response; then the connection is closed."""
    async with connection(shared) as client:
        client.send(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        sending = asyncio.create_task(client.send_slowly(b"a" * 10_000))
        assert problem(await client.to_the_end())["status"] == 404
        await sending


async def test_invalid_bytes_after_an_early_response(shared):
    """A request that was answered before its body was received gets no second response, also if the body is invalid."""
    async with connection(shared) as client:
        client.send(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await in_time(client.reader.readuntil(b'"}'))).startswith(b"HTTP/1.1 404")
        client.send(b"nonsense\r\n")
        assert await client.to_the_end() == b""


MANY_USERS = """
    INSERT INTO users (email, name, role, active)
    SELECT 'user' || n || '@example.org', repeat('x', 250), 'reader', true FROM generate_series(1, 100000) AS n
"""


@pytest.fixture
async def many_users(api) -> None:
    """More than the buffers between the database and a client hold."""
    await api.conn.execute(MANY_USERS)


@pytest.mark.parametrize("behind", [b"", LIVE], ids=["alone", "pipelined"])
async def test_a_stream_that_is_not_read(shared, api, many_users, behind):
    """If a client neither reads nor disconnects, the stream's transaction and request are ended."""
    aborted = await aborted_streams(api)
    async with connection(shared) as client:
        client.send(STREAM + behind)
        assert (await in_time(client.reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 200")
        client.writer.transport.pause_reading()
        await eventually(lambda: not_streaming(api))
        await eventually(lambda: alone(api))
        # it did not come to its end
        assert await aborted_streams(api) == aborted + 1


SLOW_READ_BYTES = 64 * 1024
SLOW_PAUSE_SECONDS = 0.5


@pytest.mark.timing
async def test_a_stream_that_is_read_slowly(shared, server_url, tmp_path):
    """A client that reads steadily is served, however many megabytes the kernel could buffer for it."""
    stall_seconds = 3
    async with (
        api_client.service(server_url, tmp_path, run=["api"], stall_seconds=stall_seconds) as service,
        api_client.connected(service) as api,
    ):
        await api.conn.execute(MANY_USERS)
        # a client reports its free space in steps of a part of its buffer
        async with connection(service, receive_buffer_bytes=SLOW_READ_BYTES) as client:
            client.send(STREAM)
            began = time.monotonic()
            while time.monotonic() - began < 4 * stall_seconds:
                # nothing is left to read soon after the connection was ended
                assert await in_time(client.reader.read(SLOW_READ_BYTES))
                await asyncio.sleep(SLOW_PAUSE_SECONDS)


@pytest.fixture
async def events(api) -> AsyncIterator[bytes]:
    """A request whose response has no end, because there are no workers."""
    posted = await api.post(USERS_HEADER + ROW, type="text/csv", params={"resource": "users"})
    yield b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % posted.json()["links"]["events"].encode()
    await api.conn.execute("DELETE FROM import_jobs")


async def test_a_client_that_disconnects_after_a_pipelined_request(shared, api, events):
    """If a client disconnects while an earlier pipelined request is being answered, that one ends too, without an error."""
    async with connection(shared) as client:
        client.send(events + LIVE)
        await in_time(client.reader.readuntil(b"\r\n\r\n"))
        await eventually(lambda: are_in_progress(api, 2))
    await eventually(lambda: alone(api))
    assert "Exception in ASGI" not in shared.api.output


async def test_requests_in_a_row(shared, api, events):
    """A limited number of pipelined requests is kept; with more the connection is closed."""
    async with connection(shared) as client:
        client.send(events + LIVE * 40)
        await client.to_the_end()
    await eventually(lambda: alone(api))


async def test_a_client_that_reads_after_it_has_sent(shared):
    """A client that was refused early, but sends its whole body before it reads, still receives the response."""
    async with connection(shared) as client:
        client.writer.transport.pause_reading()
        client.send(
            b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5000000\r\n\r\n"
        )
        for _ in range(50):
            client.send(b"x" * 100_000)
            await client.writer.drain()
        client.writer.transport.resume_reading()
        assert problem(await client.to_the_end())["status"] == 404


async def metric(api: Api, name: str) -> float:
    metrics = (await api.client.get("/metrics")).text
    return next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith(f"{name} "))


async def aborted_streams(api: Api) -> float:
    return await metric(api, "bulk_export_streams_aborted_total")


async def are_in_progress(api: Api, count: int) -> bool:
    """Whether this number of requests is in progress, including the one that reads the metric."""
    return await metric(api, "http_requests_in_progress") == count


async def alone(api: Api) -> bool:
    return await are_in_progress(api, 1)


async def streaming(api: Api) -> int:
    """Backends that copy out."""
    return await api.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ~* '^\\s*copy'"
        " AND state = 'active' AND pid <> pg_backend_pid()"
    )


async def not_streaming(api: Api) -> bool:
    return not await streaming(api)
