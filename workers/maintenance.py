"""The periodic chores of the queue. Any worker may do them, at any time, side by side with others."""

import structlog

from db.connections import liveness
from db.connections.pool import Connection
from db.exports import completion as export_completion
from db.imports import completion, retention, uploads
from db.settings import Settings
from workers import completion as ends
from workers import export_upkeep

log = structlog.get_logger()


async def run_once(conn: Connection, settings: Settings) -> None:
    """Sweeps what was left behind, ends jobs whose last worker died before it could, and removes what is too old."""
    silent = await liveness.end_silent_copies(conn)
    if silent:
        log.warning("silent COPY sessions terminated", sessions=silent)
    swept = await uploads.sweep(conn, grace_seconds=settings.upload_grace_seconds)
    if swept:
        log.warning("abandoned uploads removed", uploads=swept)
    for id in await completion.unfinished(conn):
        await ends.end_import(conn, id)
    await ends.end_dependents(conn)
    for id in await export_completion.unfinished(conn):
        await ends.end_export(conn, id)
    await export_upkeep.run_once(conn, settings)
    pruned = await retention.prune(conn, retention_seconds=settings.job_retention_seconds)
    if pruned.jobs or pruned.rows:
        log.info("old imports deleted", jobs=pruned.jobs, rows=pruned.rows)
