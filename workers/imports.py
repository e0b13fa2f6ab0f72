"""The work on one chunk of an import: read, check, store, count, all in the transaction that also marks it done."""

from time import perf_counter
from uuid import UUID

import msgspec

from db import imports, queue, settle, store
from db.pool import Connection
from db.queue import Claim, Counts
from db.resource import Parsed
from db.resources import RESOURCES
from db.settings import Settings
from workers.parsing import parse

# how many imports that have shown conflicts a worker remembers; forgetting one costs a vain first step
REMEMBERED_MAX = 1000


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that was committed, for metrics and logs."""

    resource: str
    counts: Counts
    # whether the job must be judged before it goes on
    has_budget: bool
    seconds: float


class Memory:
    """The imports that have shown conflicts: their next chunks are staged at once."""

    def __init__(self) -> None:
        self._collided: dict[UUID, None] = {}

    def __contains__(self, import_id: UUID) -> bool:
        return import_id in self._collided

    def add(self, import_id: UUID) -> None:
        self._collided[import_id] = None
        if len(self._collided) > REMEMBERED_MAX:
            del self._collided[next(iter(self._collided))]


async def perform(conn: Connection, claim: Claim, *, settings: Settings, memory: Memory) -> Done | None:
    """Works on the claimed chunk in one transaction; None when its job was stopped. Raises `queue.ClaimLost`."""
    start = perf_counter()
    async with conn.transaction():
        if not await queue.fence(conn, claim):
            await queue.drop(conn, claim)
            return None
        work, chunk = await imports.work(conn, claim)
        resource = RESOURCES[work.resource]
        if chunk is None:
            counts = await settle.settle(conn, resource, claim.job_id, work.mode, dry_run=work.dry_run)
        else:
            parsed: Parsed = parse(
                resource,
                chunk,
                format=work.format,
                columns=work.csv_columns,
                delimiter=work.csv_delimiter,
                csv_safe=work.csv_safe,
                ignore_unknown=work.unknown_fields == "ignore",
                record_max_bytes=settings.record_max_bytes,
            )
            stored = await store.merge(
                conn,
                resource,
                claim.job_id,
                parsed,
                mode=work.mode,
                dry_run=work.dry_run,
                is_alone=work.total_chunks == 1,
                is_clean_so_far=claim.job_id not in memory,
            )
            counts = stored.counts
            if stored.collided:
                memory.add(claim.job_id)
        await queue.finish(conn, claim, counts)
    return Done(
        resource=work.resource,
        counts=counts,
        has_budget=work.has_budget,
        seconds=perf_counter() - start,
    )
