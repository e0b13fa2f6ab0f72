"""Makes jobs final after their last chunk, and logs and counts them."""

import time
from collections.abc import Sequence
from uuid import UUID

import structlog

from db.connections.pool import Connection
from db.exports import completion as export_completion
from db.imports import budget
from db.imports import completion as import_completion
from db.queue import Claim, failpoints
from db.webhooks.endpoints import Endpoint
from monitoring import job_events

log = structlog.get_logger(__name__)


async def end_job(
    conn: Connection, claim: Claim, *, has_budget: bool | None, is_followed: bool, endpoints: Sequence[Endpoint]
) -> None:
    """Makes the job final if the chunk that has just become final was its last one, or exceeded the error budget.

    `has_budget`: whether the job has an error budget; None if it is unknown, because the claim was not done.
    `is_followed`: another chunk of the job is pending, so the worker of that chunk checks for the end of the job.
    `endpoints`: the webhooks to which the end is delivered.
    """
    await failpoints.reach("before_finish", conn)
    if claim.kind == "export":
        await end_export(conn, claim.job_id, endpoints)
        return
    if has_budget and await budget.apply_error_budget(conn, claim.job_id):
        log.warning("import stopped by record errors", job_id=str(claim.job_id))
        is_followed = False
    if not is_followed:
        await end_import(conn, claim.job_id, endpoints, has_budget=has_budget is not False)


async def end_import(conn: Connection, id: UUID, endpoints: Sequence[Endpoint], *, has_budget: bool = True) -> None:
    started_ns = time.time_ns()
    report(await import_completion.finish(conn, id, endpoints=endpoints, has_budget=has_budget), started_ns=started_ns)


def report(ends: Sequence[import_completion.Finished], *, started_ns: int) -> None:
    """Logs, counts and traces imports that have become final; `started_ns` as in `monitoring.job_events`."""
    for end in ends:
        job_events.import_finished(end, started_ns=started_ns)


async def end_export(conn: Connection, id: UUID, endpoints: Sequence[Endpoint]) -> None:
    started_ns = time.time_ns()
    end = await export_completion.finish(conn, id, endpoints=endpoints)
    if end is not None:
        job_events.export_finished(end, started_ns=started_ns)
