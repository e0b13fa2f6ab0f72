"""The periodic chores of exports' files: what dead workers began, what is too old, and the jobs that nobody needs any more."""

import structlog

from db.connections.pool import Connection
from db.exports import files as export_files
from db.exports import jobs as exports
from db.exports import retention, storage
from db.settings import Settings

log = structlog.get_logger(__name__)


async def run_once(conn: Connection, settings: Settings) -> None:
    """One round. A storage that is away costs nothing but the round: what is due stays due."""
    try:
        parts = await sweep_parts(conn, settings)
        if parts:
            log.warning("half-written exports removed", files=parts)
        files = await expire(conn, settings)
        if files:
            log.info("exports expired", files=files)
        jobs = await prune(conn, settings)
        if jobs:
            log.info("old exports pruned", jobs=jobs)
    except storage.ERRORS as error:
        log.warning("export_storage_unavailable", error=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


async def sweep_parts(conn: Connection, settings: Settings) -> int:
    """Removes what dead workers had begun to write on this machine; how many files. Those of other databases are left."""
    place = storage.of(settings)
    parts = {claim: name for name in await place.unfinished() if (claim := export_files.claim_of(name))}
    if not parts:
        return 0
    lost = await exports.lost(conn, set(parts))
    await place.discard([parts[claim] for claim in lost])
    return len(lost)


async def expire(conn: Connection, settings: Settings) -> int:
    """Closes the downloads that are older than EXPORT_RETENTION_SECONDS, and removes their files; how many."""
    await retention.expire(conn, retention_seconds=settings.export_retention_seconds)
    due = await retention.due(conn)
    for job in due:
        await storage.of(settings).remove(job.names)
        await retention.removed(conn, job.id)
    return len(due)


async def prune(conn: Connection, settings: Settings) -> int:
    """Removes jobs without a file that are older than JOB_RETENTION_SECONDS; how many."""
    old = await retention.old(conn, retention_seconds=settings.job_retention_seconds)
    for job in old:
        # by now no worker can be left that does not know that it has lost its claim
        await storage.of(settings).remove(job.names)
        await retention.delete(conn, job.id)
    return len(old)
