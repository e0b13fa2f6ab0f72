"""Maintenance of export files and jobs: unfinished files of dead workers, expired files, old jobs."""

import structlog

from db.connections.pool import Connection
from db.exports import completion, files, retention, storage
from db.settings import Settings

log = structlog.get_logger(__name__)


async def run_once(conn: Connection, settings: Settings) -> None:
    """One round. If the storage is unavailable, the rest of the round is skipped and repeated by the next."""
    try:
        parts = await sweep_parts(conn, settings)
        if parts:
            log.warning("unfinished export files removed", files=parts)
        expired = await expire(conn, settings)
        if expired:
            log.info("exports expired", files=expired)
        jobs = await prune(conn, settings)
        if jobs:
            log.info("old exports deleted", jobs=jobs)
    except storage.ERRORS as error:
        log.warning("export storage unavailable", error=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


async def sweep_parts(conn: Connection, settings: Settings) -> int:
    """Removes files that dead workers of this machine left unfinished. Returns their number. Files of other databases stay."""
    place = storage.of(settings)
    parts = {claim: name for name in await place.unfinished() if (claim := files.claim_of(name))}
    if not parts:
        return 0
    lost = await completion.lost_claims(conn, set(parts))
    await place.discard([parts[claim] for claim in lost])
    return len(lost)


async def expire(conn: Connection, settings: Settings) -> int:
    """Expires exports older than EXPORT_RETENTION_SECONDS and removes their files. Returns their number."""
    await retention.expire(conn, retention_seconds=settings.export_retention_seconds)
    expired = await retention.expired(conn)
    for job in expired:
        await storage.of(settings).remove(job.names)
        await retention.file_removed(conn, job.id)
    return len(expired)


async def prune(conn: Connection, settings: Settings) -> int:
    """Deletes jobs without a file that are older than JOB_RETENTION_SECONDS. Returns their number."""
    old = await retention.old(conn, retention_seconds=settings.job_retention_seconds)
    for job in old:
        # after this time no worker still writes a file of this job
        await storage.of(settings).remove(job.names)
        await retention.delete(conn, job.id)
    return len(old)
