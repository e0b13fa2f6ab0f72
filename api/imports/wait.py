"""`Prefer: wait=N`: the response is delayed until the import is final, for at most N seconds."""

import asyncio

from api.http.headers import AnyRequest
from db.connections.pool import Pool
from db.errors import UNAVAILABLE
from db.imports import jobs
from db.imports.jobs import Import

# a small import is final within milliseconds; a longer one is polled less often
POLL_SECONDS_MIN = 0.005
POLL_SECONDS_MAX = 0.1


async def until_final(
    request: AnyRequest, pool: Pool, job: Import, *, seconds: float, stopping: asyncio.Event
) -> Import:
    """The job once it is final; its current state after `seconds`, or when the client disconnects or the process stops.

    The request body must have been read. No connection is held between two polls. When the database becomes unavailable the
    wait ends without an error: the import was accepted, and after an error the client would post it again.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    pause = POLL_SECONDS_MIN
    interrupts = {asyncio.create_task(_disconnected(request)), asyncio.create_task(stopping.wait())}
    try:
        while not job.is_final and (remaining := deadline - loop.time()) > 0:
            interrupted, _ = await asyncio.wait(
                interrupts, timeout=min(pause, remaining), return_when=asyncio.FIRST_COMPLETED
            )
            try:
                async with pool.connection() as conn:
                    job = await jobs.get(conn, job.id) or job
            except UNAVAILABLE:
                break
            if interrupted:
                break
            pause = min(pause * 1.5, POLL_SECONDS_MAX)
    finally:
        for task in interrupts:
            task.cancel()
        await asyncio.wait(interrupts)
    return job


async def _disconnected(request: AnyRequest) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
