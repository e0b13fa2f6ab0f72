"""The API is killed during slow uploads. Their clients repeat them with the same keys, except one."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx

from tests.chaos import faults, files
from tests.chaos.client import Unexpected
from tests.chaos.environment import Environment
from tests.chaos.files import File
from tests.chaos.load import Load
from tests.support.api_client import PATH

KILLS = 4
PAUSE_SECONDS = 2.5
SLOW = 3
BLOCKS = 20
BLOCK_SECONDS = 0.05


async def run(env: Environment, load: Load) -> list[str]:
    """Slow uploads, one after the other on several lanes, while the API is killed several times."""
    over = asyncio.Event()
    lanes = [asyncio.create_task(_lane(load, number, over)) for number in range(SLOW)]
    abandoned = asyncio.create_task(_abandon(env, files.clean(load.size.records, 2**21)))
    try:
        for _ in range(KILLS):
            await asyncio.sleep(PAUSE_SECONDS * env.random.uniform(0.7, 1.3))
            await faults.kill_api(env)
        over.set()
        await asyncio.gather(*lanes, abandoned)
    finally:
        for task in (*lanes, abandoned):
            task.cancel()
    return []


async def _lane(load: Load, lane: int, over: asyncio.Event) -> None:
    for number in range(KILLS * 10):
        if over.is_set():
            return
        file = await asyncio.to_thread(files.clean, load.size.records, 2**22 + lane * 1000 + number)
        job = await load.post(file, key=f"slow {lane} {number}", content=_slowly(file.data))
        load.check(await load.env.client.final(job), file)


async def _abandon(env: Environment, file: File) -> None:
    """An upload that does not end; the API is killed during it, and it is not repeated."""

    async def body() -> AsyncIterator[bytes]:
        lines = file.data.splitlines(keepends=True)
        half = len(lines) // 2
        yield b"".join(lines[:half])
        # only a client that continues to write notices that the connection is broken
        for line in lines[half:]:
            yield line
            await asyncio.sleep(BLOCK_SECONDS)

    try:
        await env.client.http.post(
            PATH, params={"resource": "users"}, content=body(), headers={"Content-Type": file.type}, timeout=60
        )
    except httpx.TransportError:
        return
    raise Unexpected("half an upload was answered")


def _slowly(data: bytes) -> Callable[[], AsyncIterator[bytes]]:
    """The body for each attempt, in small blocks."""
    step = len(data) // BLOCKS + 1

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(data), step):
            yield data[start : start + step]
            await asyncio.sleep(BLOCK_SECONDS)

    return body
