"""The client and the command have the service read an object of a bucket."""

import asyncio
import json

import httpx

from api.client import Client
from tests.client.conftest import Bulk
from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.sources import large_file, proxied, stopped_in_a_part

CSV = USERS_HEADER + user_row(1) + b"foo@bar,Bo,boss,true\n"


async def test_the_command(service, bucket, environment):
    """`bulk import s3://…` shows what was refused. A repeated command imports again, unless it has the same key."""
    started = await service(worker_pool_size=1, import_sources=f"s3://{bucket.name}", **bucket.settings)
    bulk = Bulk(environment(started.url))
    source = bucket.put("in/users.csv", CSV)
    jobs = []
    for words in ((), (), ("--key-for-retry", "k"), ("--key-for-retry", "k")):
        result = await bulk("import", source, "--mode", "skip", "--csv-safe", "--json", *words)
        assert result.code == 3, result
        jobs.append(json.loads(result.out))
    assert [job["source"]["url"] for job in jobs] == [source] * 4
    assert [job["counts"]["created"] for job in jobs] == [1, 0, 0, 0]
    assert len({job["id"] for job in jobs}) == 3
    shown = await bulk("show")
    assert source in shown.out
    refused = await bulk("import", "s3://elsewhere/users.csv")
    assert (refused.code, "IMPORT_SOURCES" in refused.err) == (2, True), refused


async def test_a_service_that_is_still_reading(service, bucket):
    """The client waits until the service has read the object for an earlier request, and returns its job."""
    source = bucket.put("users.ndjson", large_file(1))
    messages: list[str] = []
    async with proxied(service, bucket, run=["api"]) as (started, proxy):
        url = started.url
        with Client(url, on_retry=messages.append) as client:
            async with stopped_in_a_part(proxy) as is_reading:
                async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as first:
                    body = {"resource": "users", "source": source}
                    posting = asyncio.create_task(first.post(PATH, json=body, headers={"Idempotency-Key": "k"}))
                    await is_reading.wait()
                    posting.cancel()
                importing = asyncio.create_task(
                    asyncio.to_thread(client.import_file, source, resource="users", key="k")
                )
                while not messages:  # noqa: ASYNC110  the messages come from a thread
                    await asyncio.sleep(0.01)
            job = await importing
    assert (job.is_replayed, job.data["source"]["url"]) == (True, source)
    assert ["in progress" in message for message in messages] == [True]
