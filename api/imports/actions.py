"""Repairs by HTTP: refused records back, a retry, the commit of a dry run, cancel, delete."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import structlog
from litestar import Request, Response, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation
from litestar.openapi.spec.enums import OpenAPIType
from litestar.openapi.spec.media_type import OpenAPIMediaType
from litestar.openapi.spec.schema import Schema
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Meta

from api.http import parameters
from api.http import responses as answers
from api.http.dependencies import PoolHere, SettingsHere, UploadsHere
from api.http.parameters import NoParameters
from api.http.problems import Problem, request_id, responses
from api.http.responses import BINARY
from api.imports import records, retry
from api.imports.view import PATH, ImportView, existing, view
from db.connections.pool import Pool
from db.imports import actions, backlog, completion
from db.imports import uploads as uploading
from db.imports.actions import NotCommittable, Source
from db.imports.completion import Finished
from db.imports.jobs import FINAL
from db.imports.records import Gone
from db.settings import Settings
from monitoring import metrics

log = structlog.get_logger(__name__)


class RecordParameters(msgspec.Struct, kw_only=True):
    annotate: Annotated[
        bool,
        Meta(
            description="Adds `_line` and `_errors` to each record, which an import ignores: mend the file and post it."
        ),
    ] = False


@dataclass
class RecordsOperation(Operation):
    """One status, three media types: the import's format decides."""

    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or []), *answers.query_parameters(RecordParameters)]
        binary = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=BINARY))
        answer: Any = (self.responses or {})["200"]
        answer.content = {
            "text/csv": binary,
            "application/x-ndjson": binary,
            "application/json": OpenAPIMediaType(schema=Schema(type=OpenAPIType.ARRAY)),
        }


RECORDS = {
    200: ResponseSpec(bytes, description="The records", media_type="application/x-ndjson", generate_examples=False),
    **responses("invalid-request", "not-found", "unavailable"),
}


@get(
    f"{PATH}/{{id:str}}/failed-records",
    operation_class=RecordsOperation,
    tags=["imports"],
    summary="The refused records, as they were sent",
    responses=RECORDS,
)
async def get_failed_records(request: Request, id: FromPath[str], db_pool: PoolHere) -> ASGIResponse:
    """In the format, bytes and order of the file, header included. Mend them and post them again."""
    return await _records(request, id, db_pool, "failed")


@get(
    f"{PATH}/{{id:str}}/unprocessed-records",
    operation_class=RecordsOperation,
    tags=["imports"],
    summary="The records that are not done, as they were sent",
    responses=RECORDS,
)
async def get_unprocessed_records(request: Request, id: FromPath[str], db_pool: PoolHere) -> ASGIResponse:
    """In the format, bytes and order of the file, header included. While the import runs, what is not done yet."""
    return await _records(request, id, db_pool, "unprocessed")


CHILD = {
    202: ResponseSpec(ImportView, description="Taken in; the new import", generate_examples=False),
    200: ResponseSpec(ImportView, description="The same was asked before; that import", generate_examples=False),
}


@post(
    f"{PATH}/{{id:str}}/retry",
    status_code=202,
    tags=["imports"],
    summary="Do the refused and the unprocessed records again",
    responses={
        **CHILD,
        **responses(
            "invalid-request", "not-found", "not-final", "nothing-to-retry", "too-many-requests", "unavailable"
        ),
    },
)
async def retry_import(request: Request, id: FromPath[str], uploads: UploadsHere) -> Response[bytes]:
    """A new import of just these records, with the same parameters; its errors tell the lines of the first file.

    An import has one retry: asked again, it is the same one, so that nothing is ever stored twice. What that has left is
    for its own retry.
    """
    parameters.parse(request.query_params.multi_items(), NoParameters)
    parent = await _source(uploads.pool, id)
    if not parent.is_final:
        raise Problem("not-final", f"The import is {parent.status}; cancel it, or wait.")
    if not parent.left:
        raise Problem("nothing-to-retry", "Every record of the import was taken.")
    try:
        child, is_replay = await retry.run(uploads, parent, request_id(request.scope))
    except (Gone, uploading.Gone):
        raise records.removed() from None
    return await _child(uploads.pool, uploads.settings, child, is_replay=is_replay)


@post(
    f"{PATH}/{{id:str}}/commit",
    status_code=202,
    tags=["imports"],
    summary="Make a dry run real",
    responses={
        **CHILD,
        **responses("invalid-request", "not-found", "not-committable", "too-many-requests", "unavailable"),
    },
)
async def commit_import(request: Request, id: FromPath[str], uploads: UploadsHere) -> Response[bytes]:
    """A new import of the same file without a second upload. A dry run has one commit: asked again, it is the same one."""
    parameters.parse(request.query_params.multi_items(), NoParameters)
    dry_run = await _source(uploads.pool, id)
    digest = hashlib.sha256(b"commit" + dry_run.id.bytes).digest()
    try:
        async with uploads.pool.connection() as conn, conn.transaction():
            child, is_replay = await actions.commit(
                conn, dry_run.id, digest=digest, request_id=request_id(request.scope)
            )
            if not is_replay:
                uploads.admission.check(await backlog.load(conn))
    except NotCommittable as reason:
        raise Problem("not-committable", str(reason)) from None
    except Gone:
        raise records.removed() from None
    return await _child(uploads.pool, uploads.settings, child, is_replay=is_replay)


@post(
    f"{PATH}/{{id:str}}/cancel",
    status_code=202,
    tags=["imports"],
    summary="Cancel an import",
    responses={
        202: ResponseSpec(ImportView, description="Asked for; the job", generate_examples=False),
        **responses("invalid-request", "not-found", "already-final", "unavailable"),
    },
)
async def cancel_import(
    request: Request, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere
) -> Response[bytes]:
    """No further chunk is begun; one that is being worked on is finished. What is stored stays and is counted."""
    parameters.parse(request.query_params.multi_items(), NoParameters)
    job = await existing(db_pool, id)
    async with db_pool.connection() as conn:
        if not await actions.cancel(conn, job.id):
            raise Problem("already-final", "The import is final already.")
        end = await completion.finish(conn, job.id)
    if end is not None:
        _tell(end)
    job = await existing(db_pool, id)
    headers = {"Location": f"{PATH}/{job.id}"} | ({} if job.status in FINAL else {"Retry-After": "1"})
    body = msgspec.json.encode(await view(db_pool, settings, job))
    return Response(body, status_code=202, headers=headers, media_type=answers.JSON)


@delete(
    f"{PATH}/{{id:str}}",
    status_code=204,
    tags=["imports"],
    summary="Remove a final import",
    responses={
        204: ResponseSpec(None, description="Removed"),
        **responses("invalid-request", "not-found", "not-final", "unavailable"),
    },
)
async def delete_import(request: Request, id: FromPath[str], db_pool: PoolHere) -> None:
    """With its errors and its file; the records that it stored stay. Its idempotency key is free again."""
    parameters.parse(request.query_params.multi_items(), NoParameters)
    job = await existing(db_pool, id)
    async with db_pool.connection() as conn, conn.transaction():
        is_deleted = await actions.delete(conn, job.id)
    if not is_deleted:
        raise Problem("not-final", f"The import is {job.status}; cancel it, or wait.")


async def _records(request: Request, id: str, pool: Pool, which: Literal["failed", "unprocessed"]) -> ASGIResponse:
    asked = parameters.parse(request.query_params.multi_items(), RecordParameters)
    return await records.answer(pool, await _source(pool, id), which, is_annotated=asked.annotate)


async def _source(pool: Pool, id: str) -> Source:
    async with pool.connection() as conn:
        source = await actions.source(conn, answers.job_id(id, "import"))
    if source is None:
        raise answers.unknown("import")
    return source


async def _child(pool: Pool, settings: Settings, id: UUID, *, is_replay: bool) -> Response[bytes]:
    job = await existing(pool, str(id))
    headers = {"Location": f"{PATH}/{job.id}"}
    if job.status not in FINAL:
        headers["Retry-After"] = "1"
    if is_replay:
        headers["Idempotent-Replayed"] = "true"
    body = msgspec.json.encode(await view(pool, settings, job))
    return Response(body, status_code=200 if is_replay else 202, headers=headers, media_type=answers.JSON)


def _tell(end: Finished) -> None:
    metrics.job_finished("import", end.resource, end.status, end.seconds)
    log.info(
        "import cancelled before it was begun" if not end.created + end.failed else "import cancelled",
        job_id=str(end.id),
        request_id=end.request_id,
        resource=end.resource,
        status=end.status,
        records=end.total_records,
        created=end.created,
        failed=end.failed,
    )


HANDLERS = [
    get_failed_records,
    get_unprocessed_records,
    retry_import,
    commit_import,
    cancel_import,
    delete_import,
]
