"""Periodic maintenance: remove abandoned uploads, finish jobs, expire files, delete old jobs, continue undos.

Workers may run it concurrently.
"""

import time
from collections.abc import Sequence
from time import monotonic

import structlog

from db.connections import liveness
from db.connections.pool import Connection
from db.exports import completion as export_completion
from db.exports import files as export_files
from db.exports import retention as export_retention
from db.exports import storage
from db.imports import completion as import_completion
from db.imports import retention as import_retention
from db.imports import undo, uploads
from db.settings import Settings
from db.webhooks.endpoints import Endpoint
from monitoring import job_events
from workers.completion import end_export, end_import

log = structlog.get_logger(__name__)


async def run_once(conn: Connection, settings: Settings) -> None:
    await _end_silent_sessions(conn)
    await _sweep_uploads(conn, settings)
    await _end_jobs(conn, settings.webhook_endpoints)
    await maintain_exports(conn, settings)
    await _prune_imports(conn, settings)
    await _continue_undos(conn)


async def _end_silent_sessions(conn: Connection) -> None:
    silent = await liveness.end_silent_copies(conn)
    if silent:
        log.warning("silent COPY sessions terminated", sessions=silent)


async def _sweep_uploads(conn: Connection, settings: Settings) -> None:
    swept = await uploads.sweep(conn, grace_seconds=settings.upload_grace_seconds)
    if swept:
        log.warning("abandoned uploads removed", uploads=swept)


async def _end_jobs(conn: Connection, endpoints: Sequence[Endpoint]) -> None:
    """Makes jobs final whose last worker died before it did so."""
    for id in await import_completion.unfinished(conn):
        await end_import(conn, id, endpoints)
    started_ns = time.time_ns()
    for end in await import_completion.finish_dependents(conn, endpoints=endpoints):
        job_events.import_finished(end, started_ns=started_ns)
    for id in await export_completion.unfinished(conn):
        await end_export(conn, id, endpoints)


async def _prune_imports(conn: Connection, settings: Settings) -> None:
    pruned = await import_retention.prune(conn, retention_seconds=settings.job_retention_seconds)
    if pruned.jobs or pruned.rows:
        log.info("old imports deleted", jobs=pruned.jobs, rows=pruned.rows)


async def _continue_undos(conn: Connection) -> None:
    """Works for about `undo.SECONDS`; the next round goes on."""
    end = monotonic() + undo.SECONDS
    for id in await undo.unfinished(conn):
        if monotonic() >= end:
            return
        undone = await undo.run(conn, id, seconds=end - monotonic())
        if undone is not None:
            job_events.import_undone(id, undone)


async def maintain_exports(conn: Connection, settings: Settings) -> None:
    """Removes partial, expired and old export files. If the storage is unavailable they stay due for the next round."""
    try:
        partial = await remove_partial_files(conn, settings)
        if partial:
            log.warning("unfinished export files removed", files=partial)
        files = await expire_files(conn, settings)
        if files:
            log.info("exports expired", files=files)
        jobs = await prune_exports(conn, settings)
        if jobs:
            log.info("old exports deleted", jobs=jobs)
    except storage.ERRORS as error:
        log.warning("export storage unavailable", error=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


async def remove_partial_files(conn: Connection, settings: Settings) -> int:
    """Removes files of this machine whose worker died while writing; returns how many. Those of other databases stay."""
    store = storage.of(settings)
    names = {claim: name for name in await store.unfinished() if (claim := export_files.claim_of(name))}
    if not names:
        return 0
    lost = await export_completion.lost_claims(conn, set(names))
    await store.discard([names[claim] for claim in lost])
    return len(lost)


async def expire_files(conn: Connection, settings: Settings) -> int:
    """Ends the downloads older than EXPORT_RETENTION_SECONDS and removes their files; returns how many."""
    await export_retention.expire(conn, retention_seconds=settings.export_retention_seconds)
    expired = await export_retention.expired(conn)
    for job in expired:
        await storage.of(settings).remove(job.names)
        await export_retention.file_removed(conn, job.id)
    return len(expired)


async def prune_exports(conn: Connection, settings: Settings) -> int:
    """Removes jobs without a file that are older than JOB_RETENTION_SECONDS; returns how many."""
    old = await export_retention.old(conn, retention_seconds=settings.job_retention_seconds)
    for job in old:
        # a worker that has lost its claim and does not know it yet may have written the file again
        await storage.of(settings).remove(job.names)
        await export_retention.delete(conn, job.id)
    return len(old)
