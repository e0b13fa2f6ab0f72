"""Uploads that do not come to their end, or only slowly: nothing of the first stays, nothing of the others is lost."""

import asyncio
import gzip
import json
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from tests.support import api_client
from tests.support.api_client import USERS_HEADER, Api, user_row
from tests.support.eventually import eventually, in_time
from tests.support.service import Service

# more than the API holds back before it stores, so that chunks lie in the database in mid-upload
HALF = USERS_HEADER + b"".join(user_row(n) for n in range(120_000))
# an upload is swept after so long a silence
GRACE = {"upload_grace_seconds": 5, "upkeep_seconds": 0.2, "worker_pool_size": 1}
KEY = {"Idempotency-Key": "key"}


class Client:
    """One that speaks HTTP by hand, and so may stop in the middle of a word."""

    def __init__(self, service: Service, *, multipart: bool) -> None:
        self.address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
        self.multipart = multipart

    async def send(self, part: bytes) -> None:
        """Opens the connection, sends the head of a request with chunked body, and one chunk."""
        self.reader, self.writer = await asyncio.open_connection(*self.address)
        head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="u.csv"\r\n\r\n'
        type = "multipart/form-data; boundary=edge" if self.multipart else "text/csv"
        self.writer.write(
            f"POST {api_client.PATH}?resource=users HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            f"Idempotency-Key: key\r\nContent-Type: {type}\r\n\r\n".encode()
        )
        body = head + part if self.multipart else part
        self.writer.write(b"%x\r\n%s\r\n" % (len(body), body))
        await self.writer.drain()

    async def leave(self, *, politely: bool) -> None:
        if not politely:
            # a reset instead of a farewell
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.close()


@pytest.fixture
async def api(service) -> AsyncIterator[Api]:
    async with api_client.connected(await service(**GRACE)) as api:
        yield api


async def stored_chunks(api: Api) -> int:
    """The chunks of uploads under way."""
    query = "SELECT count(*) FROM chunks JOIN import_jobs ON import_jobs.id = job_id WHERE status = 'uploading'"
    return await api.value(query)


async def post_again(api: Api) -> None:
    """The key is as good as new: an upload under it makes a job."""
    posted = await api.post(USERS_HEADER + user_row(1), type="text/csv", params={"resource": "users"}, headers=KEY)
    assert (await api.finished(posted))["outcome"] == "success"


async def test_a_client_that_disconnects(service):
    """Its job and chunks are removed at once, after FIN as after RST, and its key can be used again."""
    # without workers there is no sweep: the API itself has removed the upload
    started = await service(run=["api"])
    async with api_client.connected(started) as api:
        for multipart in (False, True):
            for politely in (True, False):
                client = Client(started, multipart=multipart)
                await client.send(HALF)
                await eventually(lambda: stored_chunks(api))
                await client.leave(politely=politely)
                await eventually(api.has_nothing)
        posted = await api.post(USERS_HEADER, type="text/csv", params={"resource": "users"}, headers=KEY)
        assert posted.status_code == 202

        # disconnects are logged as 499, and no error is; the lines are written after the responses
        def statuses() -> list[int]:
            return [line["status"] for line in started.api.log_lines() if line.get("method") == "POST"]

        await eventually(lambda: statuses() == [499] * 4 + [202])
        assert not [line for line in started.api.log_lines() if line["level"] in ("warning", "error")]


async def test_an_api_process_that_is_killed(api, service):
    """Workers remove the incomplete upload, and the key can be used again, also at another API process."""
    client = Client(api.service, multipart=False)
    await client.send(HALF)
    await eventually(lambda: stored_chunks(api))
    another = await service(run=["api"])
    api.service.api.send(signal.SIGKILL)
    await eventually(api.has_nothing)
    await client.leave(politely=True)
    async with api_client.connected(another) as second:
        await post_again(second)


async def test_an_upload_that_breaks_off_while_the_database_is_away(service, server_url):
    """When the database is reachable again the upload is removed and its key can be used, long before maintenance would do it."""
    async with api_client.connected(await service(worker_pool_size=1)) as api:
        client = Client(api.service, multipart=False)
        await client.send(HALF)
        await eventually(lambda: stored_chunks(api))
        async with refusing(server_url, await api.value("SELECT current_database()")):
            await client.leave(politely=True)
            await eventually(lambda: "upload not discarded" in api.service.api.output)
        await eventually(api.has_nothing)
        await post_again(api)


@asynccontextmanager
async def refusing(server_url: str, name: str) -> AsyncIterator[None]:
    """A database that ends the API's sessions and accepts no new ones."""
    switch = SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
    async with await psycopg.AsyncConnection.connect(server_url, autocommit=True) as conn:
        await conn.execute(switch.format(Identifier(name), Literal(False)))
        try:
            await conn.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = %(name)s AND application_name = 'bulk api'",
                {"name": name},
            )
            yield
        finally:
            await conn.execute(switch.format(Identifier(name), Literal(True)))


async def test_an_api_process_that_stops_during_an_upload(service):
    """A slow upload has some time after the stop, then the response is 503 and the upload is removed."""
    started = await service(run=["api"], stop_seconds=8)
    client = Client(started, multipart=False)
    async with api_client.connected(started) as api:
        await client.send(HALF)
        await eventually(lambda: stored_chunks(api))
        started.api.send(signal.SIGTERM)
        head, _, problem = (await in_time(client.reader.read())).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: " in head
        assert json.loads(problem)["type"] == "/problems/unavailable"
        assert await api.has_nothing()
    await eventually(lambda: started.api.exit_code == 0)
    assert "Traceback" not in started.api.output


async def test_a_slow_upload(api):
    """An upload that pauses for longer than the grace is not removed, holds no transaction, and creates its job in the end."""
    rest = asyncio.Event()

    async def trickle() -> AsyncIterator[bytes]:
        yield HALF
        await rest.wait()
        yield user_row(120_000)

    upload = asyncio.create_task(api.post(trickle(), type="text/csv", params={"resource": "users"}))
    await eventually(lambda: stored_chunks(api))

    async def waited() -> bool:
        """Whether it has outlived the grace twice; meanwhile no session may stand within a transaction."""
        assert not await api.value(
            """
            SELECT count(*)
            FROM pg_stat_activity
            WHERE datname = current_database()
                AND application_name = 'bulk api'
                AND starts_with(state, 'idle in transaction')
            """
        )
        return await api.value(
            "SELECT touched_at > created_at + interval '10 s' FROM import_jobs WHERE status = 'uploading'"
        )

    await eventually(waited)
    rest.set()
    posted = await upload
    assert posted.json()["total_records"] == 120_001


SMALL = USERS_HEADER + b"".join(user_row(n) for n in range(100))
# packed, it announces less than a small file has
REPETITIVE = USERS_HEADER + b"".join(b"user%d@example.org,%s,reader,true\n" % (n, b"A" * 200) for n in range(500))


@pytest.mark.parametrize(
    ("content", "headers", "is_small"),
    [
        (SMALL, {}, True),
        (gzip.compress(SMALL), {"Content-Encoding": "gzip"}, True),
        (gzip.compress(REPETITIVE), {"Content-Encoding": "gzip"}, False),
        (HALF, {}, False),
    ],
    ids=["small", "small and packed", "packed", "large"],
)
async def test_a_small_file_is_stored_in_one_transaction(service, content, headers, is_small):
    """Others are stored and sealed in transactions of their own."""
    started = await service(run=["api"])
    async with api_client.connected(started) as api:
        posted = await api_client.post_users(api, content, headers=headers)
        assert posted.status_code == 202, posted.text
        transactions = await api.value(
            """
            SELECT count(DISTINCT xmin::text)
            FROM (
                SELECT xmin FROM import_jobs
                UNION ALL SELECT xmin FROM chunks
                UNION ALL SELECT xmin FROM import_payloads
            ) AS written (xmin)
            """
        )
        assert (transactions == 1) is is_small
