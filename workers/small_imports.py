"""Small imports that were claimed together: one transaction stores the records of all, and makes the imports final.

That is about a fifth of the work of the imports one by one. It requires that all records are created without any conflict.
Whatever does not fit is left to `workers.imports`, which processes each import by itself.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

from db import queue
from db.connections.pool import Connection
from db.imports import completion, small_claims
from db.imports.completion import Finished
from db.imports.small_claims import SmallImport
from db.merge import together
from db.queue import Claim, failpoints
from db.resources import RESOURCES
from db.resources.definition import Parsed
from db.settings import Settings
from workers.imports import parse_chunks


class Done(NamedTuple):
    """The imports that were stored, and the ends of these and of those that waited for them; `seconds` in all."""

    stored: list[SmallImport]
    ends: list[Finished]
    seconds: float


async def perform(conn: Connection, claim: Claim, *, settings: Settings) -> Done:
    """Stores and ends the imports whose records are all sound, and returns the chunks of the other companions to the queue.

    The claim itself is still to be processed if it is not among those that were stored. Raises `queue.ClaimLost`, `REFUSED_ROW`
    and others; then nothing has changed.
    """
    start = perf_counter()
    endpoints = settings.webhook_endpoints
    ends: list[Finished] = []
    async with conn.transaction():
        loaded = await small_claims.load(conn, claim)
        await failpoints.reach("after_fence", conn)
        parsed = [(small, parse_chunks(small.job, [small.chunk], settings)) for small in loaded]
        sound = [(small, records) for small, records in parsed if _is_sound(records)]
        if sound:
            resource = RESOURCES[claim.resource]
            await together.create(conn, resource, [(small.claim.job_id, records) for small, records in sound])
            await failpoints.reach("mid_merge", conn)
            ends = await small_claims.end(conn, [small for small, _ in sound], endpoints=endpoints)
        stored = [small for small, _ in sound]
        done = {small.claim.id for small in stored}
        others = [companion for companion in claim.companions if companion.id not in done]
        if others:
            await queue.separate(conn, others)
        await failpoints.reach("before_commit", conn)
    await failpoints.reach("after_commit", conn)
    ends += await completion.follow_up(conn, ends, endpoints=endpoints)
    ends += await after_separation(conn, others, settings=settings)
    return Done(stored, ends, perf_counter() - start)


async def after_separation(conn: Connection, others: Sequence[Claim], *, settings: Settings) -> list[Finished]:
    """To be called after the commit of `queue.separate`: wakes workers, and ends the imports that were stopped meanwhile."""
    if not others:
        return []
    await queue.notify(conn)
    endpoints = settings.webhook_endpoints
    return [end for other in others for end in await completion.finish(conn, other.job_id, endpoints=endpoints)]


def _is_sound(parsed: Parsed) -> bool:
    return not (parsed.errors or parsed.unlisted)
