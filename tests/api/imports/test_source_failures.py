"""Imports from a bucket that changes, refuses, or cannot be reached; clients and processes that go away meanwhile."""

import asyncio
import hashlib
import signal
from contextlib import asynccontextmanager

import httpx
import pytest

from db.imports import objects
from db.imports.objects import PART_BYTES
from tests.support.api_client import PATH, problem, user_object
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.sources import large_file, proxied, stopped_in_a_part

NDJSON = user_object(1) + b"\n" + user_object(2) + b"\n"


@asynccontextmanager
async def through_proxy(service, bucket):
    """A client of a service without workers that reaches its bucket through a proxy, and the proxy."""
    async with (
        proxied(service, bucket, run=["api"]) as (started, proxy),
        httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client,
    ):
        yield client, proxy


async def test_an_object_that_is_replaced_while_it_is_read(service, conn, bucket):
    """The import is refused with 409, and nothing of it remains. A repeated request with the same key imports the new object."""
    body = {"resource": "users", "source": bucket.put("users.ndjson", large_file(1))}
    headers = {"Idempotency-Key": "replaced"}
    async with through_proxy(service, bucket) as (client, proxy):
        async with stopped_in_a_part(proxy) as is_reading:
            posting = asyncio.create_task(client.post(PATH, json=body, headers=headers))
            await is_reading.wait()
            bucket.put("users.ndjson", NDJSON)
        problem(await posting, 409, "source-changed")
        assert await (await conn.execute("SELECT count(*) FROM import_jobs")).fetchone() == (0,)
        again = await client.post(PATH, json=body, headers=headers)
    assert (again.status_code, again.json()["source"]["bytes"]) == (202, len(NDJSON))


async def test_an_object_that_is_deleted_while_it_is_read(bucket):
    found = await objects.find(bucket.put("large.ndjson", large_file(2)))
    with pytest.raises(objects.Changed):
        async for _ in objects.blocks(found):
            bucket.client.delete_object(Bucket=bucket.name, Key="large.ndjson")


async def test_a_client_that_disconnects(service, bucket):
    """The object is read to its end. Meanwhile a request with the same key is answered 409, and then with the job."""
    body = {"resource": "users", "source": bucket.put("users.ndjson", large_file(1))}
    headers = {"Idempotency-Key": "disconnected"}
    async with through_proxy(service, bucket) as (client, proxy):
        async with stopped_in_a_part(proxy) as is_reading:
            async with httpx.AsyncClient(base_url=client.base_url, timeout=PATIENCE_SECONDS) as first:
                posting = asyncio.create_task(first.post(PATH, json=body, headers=headers))
                await is_reading.wait()
                posting.cancel()
            problem(await client.post(PATH, json=body, headers=headers), 409, "idempotency-in-progress")

        async def replayed():
            answer = await client.post(PATH, json=body, headers=headers)
            assert answer.status_code in (200, 409), "the object is read again"
            return answer.status_code == 200

        await eventually(replayed)


async def test_broken_connections(service, conn, bucket):
    """A part whose connection breaks is continued where it broke, a limited number of times; then the answer is 503."""
    content = large_file(2)
    body = {"resource": "users", "source": bucket.put("users.ndjson", content)}
    async with through_proxy(service, bucket) as (client, proxy):
        proxy.answer_bytes_max = [PART_BYTES // 4, PART_BYTES // 4]
        answer = await client.post(PATH, json=body)
        assert answer.status_code == 202, answer.text
        assert answer.json()["file"]["sha256"] == hashlib.sha256(content).hexdigest()
        assert proxy.carried >= 3
        proxy.drop()
        # enough for the head of a response
        proxy.answer_bytes_max = [1000] * 100
        document = problem(await client.post(PATH, json=body), 503, "unavailable")
        assert body["source"] in document["detail"]
        assert proxy.answer_bytes_max, "the retries have no end"
    assert await (await conn.execute("SELECT count(*) FROM import_jobs")).fetchone() == (1,)


async def test_a_process_that_stops(service, conn, bucket):
    """A request whose object is being read is answered 503 before the process ends, and nothing of the import remains."""
    body = {"resource": "users", "source": bucket.put("users.ndjson", large_file(1))}
    async with (
        proxied(service, bucket, run=["api"], stop_seconds=10) as (started, proxy),
        httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client,
        stopped_in_a_part(proxy) as is_reading,
    ):
        posting = asyncio.create_task(client.post(PATH, json=body))
        await is_reading.wait()
        started.api.send(signal.SIGTERM)
        problem(await posting, 503, "unavailable")
        await eventually(lambda: started.api.exit_code is not None)
        assert started.api.exit_code == 0
    assert await (await conn.execute("SELECT count(*) FROM import_jobs")).fetchone() == (0,)


async def test_a_bucket_that_refuses_access(service, bucket):
    """403 of the bucket is a 400 that names the object. Neither the answer nor the log has the keys or the bucket's message."""

    async def refuse(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        body = b"<Error><Code>AccessDenied</Code><Message>TOPSECRET</Message></Error>"
        head = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = bucket.settings | {"aws_endpoint_url": endpoint, "import_sources": "s3://files"}
        settings |= {"aws_secret_access_key": "TOPSECRET"}
        started = await service(run=["api"], **settings)
        async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
            answer = await client.post(PATH, json={"resource": "users", "source": "s3://files/users.csv"})
    document = problem(answer, 400, "invalid-request")
    assert document["detail"] == "source cannot be read with the credentials of the service: s3://files/users.csv"
    assert [line["error"] for line in started.api.logged("bucket refuses access")] == ["PermissionDeniedError"]
    assert "TOPSECRET" not in answer.text + started.api.output
    assert "users.csv" not in started.api.output
