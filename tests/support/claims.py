"""Steps of the queue protocol, for tests: reclaims, give-backs, time that passes, a worker that died."""

from typing import Any
from uuid import UUID

from db import queue
from db.imports import completion
from tests.support.factories import claim, queued, user, users

GRACE_SECONDS = 5.0
ATTEMPTS_MAX = 12
CRASHES_MAX = 4


async def reclaim(conn, *, attempts_max: int = ATTEMPTS_MAX):
    return await queue.reclaim(
        conn, worker="successor", grace_seconds=GRACE_SECONDS, attempts_max=attempts_max, crashes_max=CRASHES_MAX
    )


async def reclaimed(conn, **limits: int) -> queue.Claim:
    claimed = await reclaim(conn, **limits)
    assert claimed is not None
    return claimed


async def finished(conn, id: UUID) -> completion.Finished:
    [end] = await completion.finish(conn, id, endpoints=())
    return end


async def give_back(conn, claimed, *, error: str | None, delay_seconds: float = 0.0):
    return await queue.give_back(conn, claimed, error=error, delay_seconds=delay_seconds, attempts_max=ATTEMPTS_MAX)


async def pass_time(conn, seconds: float) -> None:
    """Moves the times of all claims and delays back by so many seconds."""
    await conn.execute(
        """
        UPDATE chunks
        SET claimed_at = claimed_at - %(seconds)s * interval '1 second',
            retry_at = retry_at - %(seconds)s * interval '1 second'
        """,
        {"seconds": seconds},
    )


async def abandoned(conn, *, chunks: int = 1) -> UUID:
    """An import whose first chunk was claimed by a worker that died."""
    id = await queued(conn, users(chunks), sizes=[1] * chunks)
    await claim(conn, worker="dead")
    await pass_time(conn, GRACE_SECONDS)
    return id


async def request_cancel(conn, id: UUID) -> None:
    await conn.execute("UPDATE import_jobs SET cancel_requested_at = now() WHERE id = %(id)s", {"id": id})


async def queued_singles(conn, count: int, **parameters: Any) -> list[UUID]:
    """Imports of one user each."""
    return [await queued(conn, [user(number)], **parameters) for number in range(1, count + 1)]
