"""Small imports in a burst: workers are notified of all of them, and do not depend on their poll."""

import asyncio
from collections.abc import Awaitable
from random import Random

import httpx
from psycopg import AsyncConnection

from db import queue
from tests.support.api_client import PATH, Api, connected
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.factories import article, rows, user

COUNT = 100
BURST = 10
UNKNOWN = "00000000-0000-0000-0000-000000000000"


def post(api: Api, resource: str, record: dict[str, object]) -> Awaitable[httpx.Response]:
    return api.client.post(PATH, json={"resource": resource, "records": [record]})


async def test_all_are_final_without_a_poll(service):
    """Sound ones, ones with errors, ones that are stored already, and those of another resource, from several clients."""
    running = await service(worker_pool_size=3, poll_seconds=3600)
    async with connected(running) as api:
        choices = [
            lambda n: ("users", user(n), "success"),
            lambda n: ("users", user(n, role="king"), "rejected"),
            lambda _: ("users", user(0), "rejected"),
            lambda n: ("articles", article(UNKNOWN, n), "rejected"),
        ]
        random = Random(0)
        await api.finished(await post(api, "users", user(0)))
        wanted = [random.choices(choices, [10, 1, 1, 1])[0](n) for n in range(1, COUNT + 1)]
        posted = await asyncio.gather(*(post(api, resource, record) for resource, record, _ in wanted))
        ends = [await api.finished(each) for each in posted]
    assert [end["outcome"] for end in ends] == [outcome for *_, outcome in wanted]


async def test_the_response_says_what_the_import_waits_for(service, database_url):
    """The number of workers may be that of a moment ago; another import that it waits for is its own reason."""
    running = await service(run=["api"])
    async with connected(running) as api:

        async def waits_for_its_turn() -> bool:
            posted = await post(api, "users", user(0))
            return posted.json()["waiting_for"] == "it waits for its turn; 0 of 1 workers are busy"

        first = (await post(api, "users", user(0))).json()
        assert first["waiting_for"] == "no worker is connected"
        async with await AsyncConnection.connect(database_url, application_name="bulk worker host:1:1"):
            await eventually(waits_for_its_turn)
        posted = await api.client.post(PATH, json={"resource": "users", "records": [user(0)], "after": first["id"]})
        assert posted.json()["waiting_for"] == f"it waits for import {first['id']}, which is pending"


async def test_a_notification_follows_each_of_them(service, database_url):
    """There are fewer notifications than imports, but after the last import of each burst there is one."""
    running = await service(run=["api"])
    notifications = 0
    async with connected(running) as api, await AsyncConnection.connect(database_url, autocommit=True) as listener:
        await queue.listen(listener)
        for count in range(BURST, COUNT + 1, BURST):
            posting = asyncio.gather(*(post(api, "users", user(n)) for n in range(BURST)))
            found = 0
            while found < count:
                assert await queue.wait(listener, PATIENCE_SECONDS) == {queue.SMALL}
                notifications += 1
                [(found,)] = await rows(listener, "SELECT count(*) FROM import_jobs")
            await posting
    assert notifications < COUNT
