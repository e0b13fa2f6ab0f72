"""The end of an export before its time: cancel, delete."""

import msgspec
import structlog
from litestar import Request, Response, delete, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath

from api.http import responses as answers, parameters
from api.http.problems import Problem, responses
from api.exports.view import PATH, ExportView, existing, view
from api.http.dependencies import PoolHere, SettingsHere
from api.http.parameters import NoParameters
from db.exports import retention, jobs, storage
from db.exports.jobs import FINAL, Finished
from monitoring import metrics

log = structlog.get_logger(__name__)


@post(
    f"{PATH}/{{id:str}}/cancel",
    status_code=202,
    tags=["exports"],
    summary="Cancel an export",
    responses={
        202: ResponseSpec(ExportView, description="Asked for; the job", generate_examples=False),
        **responses("invalid-request", "not-found", "already-final", "unavailable"),
    },
)
async def cancel_export(
    request: Request, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere
) -> Response[bytes]:
    """One that has not begun is cancelled at once; one that is being written within a second or two, and leaves no file."""
    parameters.parse(request.query_params.multi_items(), NoParameters)
    job = await existing(db_pool, id)
    async with db_pool.connection() as conn:
        if not await jobs.cancel(conn, job.id):
            raise Problem("already-final", f"The export is {job.status} already.")
        end = await jobs.finish(conn, job.id)
    if end is not None:
        _tell(end)
    job = await existing(db_pool, id)
    headers = {"Location": f"{PATH}/{job.id}"} | ({} if job.status in FINAL else {"Retry-After": "1"})
    body = msgspec.json.encode(view(settings, job))
    return Response(body, status_code=202, headers=headers, media_type=answers.JSON)


@delete(
    f"{PATH}/{{id:str}}",
    status_code=204,
    tags=["exports"],
    summary="Remove a final export",
    responses={
        204: ResponseSpec(None, description="Removed"),
        **responses("invalid-request", "not-found", "not-final", "unavailable"),
    },
)
async def delete_export(request: Request, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere) -> None:
    """With its file. Its idempotency key is free again."""
    parameters.parse(request.query_params.multi_items(), NoParameters)
    job = await existing(db_pool, id)
    async with db_pool.connection() as conn:
        leftover = await retention.close(conn, job.id)
    if leftover is None:
        raise Problem("not-final", f"The export is {job.status}; cancel it, or wait.")
    # no connection is held meanwhile: a storage may take its time
    try:
        await storage.of(settings).remove(leftover.names)
    except storage.ERRORS as error:
        log.error("export_storage_unavailable", job_id=str(job.id), error=type(error).__name__)
        raise Problem("unavailable", "The storage of the files does not answer at present.") from None
    async with db_pool.connection() as conn:
        await retention.delete(conn, job.id)


def _tell(end: Finished) -> None:
    metrics.job_finished("export", end.resource, end.status, end.seconds)
    log.info(
        "export cancelled before it was begun",
        job_id=str(end.id),
        request_id=end.request_id,
        resource=end.resource,
        format=end.format,
        status=end.status,
    )


HANDLERS = [cancel_export, delete_export]
