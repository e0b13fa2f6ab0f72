"""Other clients occupy all connections of the server and leave them idle."""

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
# more than the `max_connections` of any server of the suite
CONNECTIONS_MAX = 1000


async def run(env: Environment, load: Load) -> list[str]:
    """Occupies the free connections, terminates sessions of the service to occupy their slots too, and disconnects after a while.

    Meanwhile requests succeed or get 503, which the clients repeat; afterwards the workers that lost their connections reconnect.
    """
    async with env.connected(), AsyncExitStack() as held:
        taken = await _fill(env, held)
        env.fault_counts["connection limit reached"] += 1
        for _ in range(KILLS):
            await faults.kill(env)
            # a slot that becomes free is occupied before the worker's successor connects
            for _ in range(FILLS):
                taken += await _fill(env, held)
                await asyncio.sleep(FILL_SECONDS)
        env.log(f"{taken} idle connections occupy all slots of the server")
    return []


@asynccontextmanager
async def idle(url: str, count: int) -> AsyncIterator[None]:
    """`count` idle connections."""
    async with AsyncExitStack() as held:
        for _ in range(count):
            await held.enter_async_context(await psycopg.AsyncConnection.connect(url, application_name="idle"))
        yield


async def _fill(env: Environment, held: AsyncExitStack) -> int:
    """Connects until the server refuses; returns the number of connections made."""
    for count in range(CONNECTIONS_MAX):
        try:
            conn = await psycopg.AsyncConnection.connect(env.database_url, application_name="idle")
        except psycopg.OperationalError:
            return count
        await held.enter_async_context(conn)
    return CONNECTIONS_MAX
