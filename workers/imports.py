"""The work on claimed chunks of an import: read, check, store, count, all in the transaction that also marks them done."""

from time import perf_counter
from uuid import UUID

import msgspec

from db import merge, queue
from db.connections.pool import Connection
from db.imports import jobs
from db.imports.jobs import Work
from db.imports.payload import Chunk
from db.merge import Obstacles, duplicates
from db.queue import Claim, Counts, failpoints
from db.resources import RESOURCES
from db.resources.definition import Parsed
from db.settings import Settings
from workers.parsing import parse

# how many imports that met obstacles a worker remembers; forgetting one costs a vain first step
REMEMBERED_MAX = 1000


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that was committed, for metrics and logs."""

    resource: str
    counts: Counts
    # whether the job must be judged before it goes on
    has_budget: bool
    # whether another chunk of the job waited for its claim
    is_followed: bool
    seconds: float


class Memory:
    """What was in the way of imports, from which follows how their next chunks are best stored."""

    def __init__(self) -> None:
        self._obstacles: dict[UUID, Obstacles] = {}

    def expected(self, import_id: UUID) -> Obstacles:
        return self._obstacles.get(import_id, "none")

    def note(self, import_id: UUID, obstacles: Obstacles) -> None:
        if obstacles == "none":
            return
        self._obstacles[import_id] = obstacles
        if len(self._obstacles) > REMEMBERED_MAX:
            del self._obstacles[next(iter(self._obstacles))]


async def perform(conn: Connection, claim: Claim, *, settings: Settings, memory: Memory) -> Done | None:
    """Works on the claimed chunk in one transaction; None when its job was stopped. Raises `queue.ClaimLost`."""
    start = perf_counter()
    async with conn.transaction():
        if not await queue.fence(conn, claim):
            await queue.drop(conn, claim)
            return None
        await failpoints.reach("after_fence", conn)
        work, chunks = await jobs.work(conn, claim)
        resource = RESOURCES[work.resource]
        if claim.kind == "settle":
            counts = await duplicates.settle(conn, resource, claim.job_id, work.mode, dry_run=work.dry_run)
        else:
            stored = await merge.merge(
                conn,
                resource,
                claim.job_id,
                _parsed(work, chunks, settings),
                mode=work.mode,
                dry_run=work.dry_run,
                is_alone=work.total_chunks == len(claim.ids),
                expected=memory.expected(claim.job_id),
            )
            counts = stored.counts
            memory.note(claim.job_id, stored.obstacles)
        is_followed = await queue.finish(conn, claim, counts)
        await failpoints.reach("before_commit", conn)
    await failpoints.reach("after_commit", conn)
    return Done(
        resource=work.resource,
        counts=counts,
        has_budget=work.has_budget,
        is_followed=is_followed,
        seconds=perf_counter() - start,
    )


def _parsed(work: Work, chunks: list[Chunk], settings: Settings) -> Parsed:
    """The chunks as one, read and checked. They are taken out of the list, lest they stay as long as their records."""
    chunks.reverse()
    return Parsed.joined(
        [
            parse(
                RESOURCES[work.resource],
                chunks.pop(),
                format=work.format,
                columns=work.csv_columns,
                delimiter=work.csv_delimiter,
                csv_safe=work.csv_safe,
                ignore_unknown=work.unknown_fields == "ignore",
                record_max_bytes=settings.record_max_bytes,
            )
            for _ in range(len(chunks))
        ]
    )
