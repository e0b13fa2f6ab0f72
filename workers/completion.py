"""The end of a job: written by whoever finds that nothing is left to do, then told in the log and in the metrics."""

from uuid import UUID

import structlog

from db import queue
from db.connections.pool import Connection
from db.exports import completion as export_completion
from db.imports import completion
from db.queue import Claim, failpoints
from monitoring import job_events

log = structlog.get_logger()


async def end_job(conn: Connection, claim: Claim, *, has_budget: bool, is_followed: bool) -> None:
    """Ends the job of a chunk that has just become final, if that was the last one or the job's error budget is spent.

    `is_followed`: another chunk of it waited for its claim, so whoever ends that one will ask.
    """
    await failpoints.reach("before_finish", conn)
    if claim.kind == "export":
        await end_export(conn, claim.job_id)
        return
    if has_budget and await completion.judge(conn, claim.job_id):
        log.warning("import stopped by record errors", job_id=str(claim.job_id))
        is_followed = False
    if not is_followed:
        await end_import(conn, claim.job_id)


async def end_import(conn: Connection, id: UUID) -> None:
    end = await completion.finish(conn, id)
    if end is None:
        return
    # an import may have waited for this one
    await queue.notify(conn)
    if end.status != "completed":
        await end_dependents(conn)
    job_events.import_finished(end)


async def end_dependents(conn: Connection) -> None:
    """Ends the imports that wait for one that did not complete."""
    for id in await completion.stop_dependents(conn):
        await end_import(conn, id)


async def end_export(conn: Connection, id: UUID) -> None:
    end = await export_completion.finish(conn, id)
    if end is not None:
        job_events.export_finished(end)
