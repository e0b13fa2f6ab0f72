"""Cancel and delete an export."""

import time

import structlog
from litestar import Response, delete, post
from litestar.params import FromPath

from api.exports.view import PATH, ExportView, get_or_404, view
from api.http import parameters, responses
from api.http.dependencies import PoolHere, SettingsHere
from api.http.headers import AnyRequest
from api.http.problems import Problem
from db import jobs
from db.exports import completion, retention, storage
from monitoring import job_events

log = structlog.get_logger(__name__)


@post(
    f"{PATH}/{{id:str}}/cancel",
    status_code=202,
    tags=["exports"],
    summary="Cancel an export",
    responses=responses.document_cancel(ExportView),
)
async def cancel_export(
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere
) -> Response[bytes]:
    """A pending export is cancelled immediately; a running one within a second or two. No file remains."""
    parameters.query(request)
    job = await get_or_404(db_pool, id)
    async with db_pool.connection() as conn:
        if not await jobs.cancel(conn, "export", job.id):
            raise Problem("already-final", f"The export is already {job.status}.")
        started_ns = time.time_ns()
        finished = await completion.finish(conn, job.id, endpoints=settings.webhook_endpoints)
    if finished is not None:
        job_events.export_finished(finished, started_ns=started_ns)
    job = await get_or_404(db_pool, id)
    return responses.accepted(await view(db_pool, settings, job), is_final=job.is_final)


@delete(
    f"{PATH}/{{id:str}}",
    status_code=204,
    tags=["exports"],
    summary="Delete a final export",
    responses=responses.document_delete(),
)
async def delete_export(request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere) -> None:
    """Deletes the job and its file. The idempotency key can be used again."""
    parameters.query(request)
    job = await get_or_404(db_pool, id)
    async with db_pool.connection() as conn:
        files = await retention.expire_one(conn, job.id)
    if files is None:
        raise responses.not_final("export", job.status)
    # without a database connection: the storage may be slow
    try:
        await storage.of(settings).remove(files.names)
    except storage.ERRORS as error:
        log.error("export storage unavailable", job_id=str(job.id), error=type(error).__name__)
        raise Problem("unavailable", "The storage of export files is not available.") from None
    async with db_pool.connection() as conn:
        await retention.delete(conn, job.id)


HANDLERS = [cancel_export, delete_export]
