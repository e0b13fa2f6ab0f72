"""`Prefer: wait=N` (RFC 7240): an answer is held back until its job is final, or for N seconds."""

import asyncio
import re
from typing import Any

from litestar import Request

from db.connections.pool import Pool
from db.errors import UNAVAILABLE
from db.imports import jobs
from db.imports.jobs import FINAL, Import

WAIT_SECONDS_MAX = 30
# longer than any sensible list of preferences, and short enough to be read by a pattern
HEADER_MAX_CHARACTERS = 1000
# a small import is final within milliseconds, a large one is not in a hurry
PAUSE_SECONDS_MIN = 0.005
PAUSE_SECONDS_MAX = 0.1

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


def wait_seconds(request: Request) -> int | None:
    """How long the client wants to wait, at most `WAIT_SECONDS_MAX`; None: not at all.

    Of several the first counts, and what cannot be understood is passed over: a preference is no demand.
    """
    header = ", ".join(request.headers.getall("prefer", []))
    if len(header) > HEADER_MAX_CHARACTERS:
        return None
    # what is quoted separates nothing
    header = _QUOTED.sub(lambda quoted: re.sub("[,;]", "", quoted[0]), header)
    for preference in header.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1]
            return min(int(value), WAIT_SECONDS_MAX) if value.isascii() and value.isdigit() else None
    return None


async def until_final(
    request: Request[Any, Any, Any], pool: Pool, job: Import, *, seconds: float, stopping: asyncio.Event
) -> Import:
    """The job when it is final; as it is after `seconds`, or when the client leaves or the process is told to stop.

    The request's body has been read. Between two looks no connection is held. A database that goes away meanwhile ends the
    waiting: the job was taken in, and an error would tell the client to post it again.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    pause = PAUSE_SECONDS_MIN
    ends = {asyncio.create_task(_left(request)), asyncio.create_task(stopping.wait())}
    try:
        while job.status not in FINAL and (left := deadline - loop.time()) > 0:
            ended, _ = await asyncio.wait(ends, timeout=min(pause, left), return_when=asyncio.FIRST_COMPLETED)
            try:
                async with pool.connection() as conn:
                    job = await jobs.get(conn, job.id) or job
            except UNAVAILABLE:
                break
            if ended:
                break
            pause = min(pause * 1.5, PAUSE_SECONDS_MAX)
    finally:
        for task in ends:
            task.cancel()
        await asyncio.wait(ends)
    return job


async def _left(request: Request[Any, Any, Any]) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
