"""The work on claimed chunks of an import: load, parse, merge and finish them, all in one transaction."""

import asyncio
from time import perf_counter
from uuid import UUID

import msgspec

from db import merge, queue
from db.connections.pool import Connection
from db.imports import errors as record_errors
from db.imports.claimed import ClaimedImport, load_claimed
from db.imports.payload import Chunk
from db.merge import ConflictLevel, duplicates
from db.queue import Claim, Counts, failpoints
from db.resources import RESOURCES
from db.resources.definition import Parsed
from db.settings import Settings
from workers.parsing import parse

# imports whose conflict level a worker remembers; for others, the first strategy that it tries may fail
IMPORTS_REMEMBERED_MAX = 1000

# much shorter than the server's idle_in_transaction_session_timeout
KEEP_ALIVE_SECONDS = 1.0

# from this attempt on, a chunk that has failed without killing its worker is stored record by record
ONE_BY_ONE_ATTEMPT = 4


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A committed claim, for metrics and logs."""

    resource: str
    counts: Counts
    # whether the job has an error budget
    has_budget: bool = False
    # whether another chunk of the job is pending
    is_followed: bool = False
    # whether the job was made final with the claim
    is_ended: bool = False
    seconds: float


class ConflictMemory:
    """Remembers the conflict level of imports, which decides how their next chunks are stored."""

    def __init__(self) -> None:
        self._levels: dict[UUID, ConflictLevel] = {}

    def level(self, import_id: UUID) -> ConflictLevel:
        return self._levels.get(import_id, "none")

    def note(self, import_id: UUID, level: ConflictLevel) -> None:
        if level == "none":
            return
        self._levels[import_id] = level
        if len(self._levels) > IMPORTS_REMEMBERED_MAX:
            del self._levels[next(iter(self._levels))]


async def perform(conn: Connection, claim: Claim, *, settings: Settings, memory: ConflictMemory) -> Done | None:
    """Processes the claimed chunks in one transaction. Returns None if their job was stopped. Raises `queue.ClaimLost`."""
    start = perf_counter()
    async with conn.transaction():
        if not await queue.fence(conn, claim):
            await queue.drop(conn, claim)
            return None
        await failpoints.reach("after_fence", conn)
        job, chunks = await load_claimed(conn, claim)
        await failpoints.reach("after_load", conn)
        resource = RESOURCES[job.resource]
        if claim.kind == "settle":
            counts = await duplicates.settle(
                conn, resource, claim.job_id, job.mode, dry_run=job.dry_run, undoable=job.undoable
            )
        else:
            merged = await merge.merge(
                conn,
                resource,
                claim.job_id,
                await _parse_in_thread(conn, job, chunks, settings),
                mode=job.mode,
                dry_run=job.dry_run,
                is_whole_import=job.total_chunks == len(claim.ids),
                assumed=memory.level(claim.job_id),
                one_by_one=claim.attempt - claim.crashes >= ONE_BY_ONE_ATTEMPT,
                errors_max=settings.import_errors_max,
                undoable=job.undoable,
            )
            counts = merged.counts
            memory.note(claim.job_id, merged.level)
        listed = counts.codes.total() - counts.errors_omitted
        if listed:
            counts.errors_omitted += await record_errors.remove_excess(
                conn,
                claim.job_id,
                claim.ids if claim.kind == "records" else [],
                listed=listed,
                errors_max=settings.import_errors_max,
            )
        is_followed = await queue.finish(conn, claim, counts)
        await failpoints.reach("before_commit", conn)
    await failpoints.reach("after_commit", conn)
    return Done(
        resource=job.resource,
        counts=counts,
        has_budget=job.has_budget,
        is_followed=is_followed,
        seconds=perf_counter() - start,
    )


async def _parse_in_thread(conn: Connection, job: ClaimedImport, chunks: list[Chunk], settings: Settings) -> Parsed:
    """Parses in a thread, and sends statements meanwhile, so that the server does not end the idle session."""
    parsing = asyncio.create_task(asyncio.to_thread(parse_chunks, job, chunks, settings))
    while not (await asyncio.wait({parsing}, timeout=KEEP_ALIVE_SECONDS))[0]:
        await conn.execute("SELECT")
    return parsing.result()


def parse_chunks(job: ClaimedImport, chunks: list[Chunk], settings: Settings) -> Parsed:
    """Parses the chunks into one result. Empties the list, so that the bytes of each chunk are freed once it is parsed."""
    chunks.reverse()
    parts: list[Parsed] = []
    errors_max = settings.import_errors_max
    while chunks:
        part = parse(
            RESOURCES[job.resource],
            chunks.pop(),
            format=job.format,
            columns=job.csv_columns,
            fields=job.columns,
            delimiter=job.csv_delimiter,
            csv_safe=job.csv_safe,
            ignore_unknown=job.unknown_fields == "ignore",
            record_max_bytes=settings.record_max_bytes,
            record_errors_max=settings.record_errors_max,
            errors_max=errors_max,
        )
        errors_max -= len(part.errors)
        parts.append(part)
    return Parsed.joined(parts)
