"""All connections that the server has are taken by others, who do nothing with them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg

from tests.chaos import faults
from tests.chaos.environment import Environment
from tests.chaos.load import Load

KILLS = 2
FILLS = 100
FILL_SECONDS = 0.04
# more than any server of the suite has
CONNECTIONS_MAX = 1000


async def happen(env: Environment, load: Load) -> list[str]:
    """Takes what is left, ends sessions of the service and takes their places too, and lets go after a while.

    Requests are answered 503 meanwhile, which the clients bear, or work; the workers that have lost their places come back.
    """
    async with env.connected(), AsyncExitStack() as held:
        taken = await _fill(env, held)
        env.disturbances["connection limit reached"] += 1
        for _ in range(KILLS):
            await faults.kill(env)
            # what becomes free is gone before the worker's successor asks for it
            for _ in range(FILLS):
                taken += await _fill(env, held)
                await asyncio.sleep(FILL_SECONDS)
        env.tell(f"{taken} idle connections were all that the server had left")
    return []


@asynccontextmanager
async def idle(url: str, count: int) -> AsyncIterator[None]:
    """So many connections that do nothing."""
    async with AsyncExitStack() as held:
        for _ in range(count):
            await held.enter_async_context(await psycopg.AsyncConnection.connect(url, application_name="idle"))
        yield


async def _fill(env: Environment, held: AsyncExitStack) -> int:
    """Connects until the server refuses; how often it did not."""
    for count in range(CONNECTIONS_MAX):
        try:
            conn = await psycopg.AsyncConnection.connect(env.database_url, application_name="idle")
        except psycopg.OperationalError:
            return count
        await held.enter_async_context(conn)
    return CONNECTIONS_MAX
