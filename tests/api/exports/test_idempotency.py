"""Idempotency keys of exports: one key, one job."""

import asyncio

import httpx
from uuid_utils.compat import uuid7

from db.exports import jobs
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.exports import EXPORTS, export_request
from tests.support.factories import blocked


async def test_one_key_one_export(service, conn):
    """A repeated request with the same key, bare or quoted, returns its job; another request with this key is refused."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:

        async def post(key, **body):
            headers = {} if key is None else {"Idempotency-Key": key}
            response = await client.post(EXPORTS, json=body, headers=headers)
            return response.status_code, response.json().get("id"), response.headers.get("idempotent-replayed")

        status, id, replayed = await post("k", resource="users")
        assert (status, replayed) == (202, None)
        assert await post('"k"', resource="users", format="ndjson", filters={}, fields=None) == (200, id, "true")
        assert await post(None, resource="users", **token("k")) == (200, id, "true")
        assert await post("k", resource="users", format="csv") == (422, None, None)
        assert (await post("k", resource="users", **token("other")))[0] == 400
        assert (await post("k" * 255, resource="users"))[0] == 202
        assert (await post("k" * 256, resource="users"))[0] == 400
        assert (await post("", resource="users"))[0] == 400

        racing = await asyncio.gather(*(post("race", resource="comments") for _ in range(8)))
    assert sorted(status for status, _, _ in racing) == [200] * 7 + [202]
    assert len({id for _, id, _ in racing}) == 1


async def test_the_second_of_two_requests_waits_for_the_first(conn, other):
    """Of two transactions with one token the second waits, and creates no job once the first has committed."""
    async with conn.transaction():
        assert await jobs.create(conn, uuid7(), export_request(key="k"))
        second = asyncio.create_task(create_or_not(other))
        await blocked(other, by=conn)
    assert not await second


def token(value):
    return {"idempotency_token": value}


async def create_or_not(conn):
    async with conn.transaction():
        return await jobs.create(conn, uuid7(), export_request(key="k"))
