"""Repairs by HTTP: refused records back, a retry, the commit of a dry run, cancel, delete."""

import hashlib
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import Response, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Meta

from api.http import parameters, responses
from api.http.dependencies import PoolHere, SettingsHere
from api.http.headers import AnyRequest
from api.http.openapi import BINARY, OBJECTS, operation
from api.http.problems import Problem, problem_responses, request_id
from api.imports import records, retry
from api.imports.admission import AdmissionHere
from api.imports.uploads import ActiveUploadsHere
from api.imports.view import PATH, ImportView, get_or_404, view
from db.connections.pool import Pool
from db.imports import actions, backlog, completion, uploads
from db.imports.actions import NotCommittable, ParentImport
from db.imports.jobs import FINAL
from db.imports.records import Gone
from db.settings import Settings
from monitoring import job_events


class RecordParameters(msgspec.Struct, kw_only=True):
    annotate: Annotated[
        bool,
        Meta(
            description="Adds `_line` and `_errors` to each record, which an import ignores: mend the file and post it."
        ),
    ] = False


RecordsOperation = operation(
    query=RecordParameters,
    files={"200": {"text/csv": BINARY, "application/x-ndjson": BINARY, "application/json": OBJECTS}},
)

RECORDS = {
    200: ResponseSpec(bytes, description="The records", media_type="application/x-ndjson", generate_examples=False),
    **problem_responses("invalid-request", "not-found", "unavailable"),
}


@get(
    f"{PATH}/{{id:str}}/failed-records",
    operation_class=RecordsOperation,
    tags=["imports"],
    summary="Download the refused records",
    responses=RECORDS,
)
async def get_failed_records(request: AnyRequest, id: FromPath[str], db_pool: PoolHere) -> ASGIResponse:
    """In the format, bytes and order of the file, header included. Mend them and post them again."""
    return await _records(request, id, db_pool, "failed")


@get(
    f"{PATH}/{{id:str}}/unprocessed-records",
    operation_class=RecordsOperation,
    tags=["imports"],
    summary="Download the unprocessed records",
    responses=RECORDS,
)
async def get_unprocessed_records(request: AnyRequest, id: FromPath[str], db_pool: PoolHere) -> ASGIResponse:
    """In the format, bytes and order of the file, header included. While the import runs, what is not done yet."""
    return await _records(request, id, db_pool, "unprocessed")


CHILD = {
    202: ResponseSpec(ImportView, description="Accepted; the new import", generate_examples=False),
    200: ResponseSpec(ImportView, description="A repeated request; the existing import", generate_examples=False),
}


@post(
    f"{PATH}/{{id:str}}/retry",
    status_code=202,
    tags=["imports"],
    summary="Retry the refused and the unprocessed records",
    responses={
        **CHILD,
        **problem_responses(
            "invalid-request", "not-found", "not-final", "nothing-to-retry", "too-many-requests", "unavailable"
        ),
    },
)
async def retry_import(
    request: AnyRequest,
    id: FromPath[str],
    db_pool: PoolHere,
    settings: SettingsHere,
    admission: AdmissionHere,
    active_uploads: ActiveUploadsHere,
) -> Response[bytes]:
    """A new import of just these records, with the same parameters; its errors tell the lines of the first file.

    An import has one retry: requested again, it is the same one, so that nothing is ever stored twice. What that has left is
    for its own retry.
    """
    parameters.query(request)
    parent = await _parent(db_pool, id)
    if not parent.is_final:
        raise Problem("not-final", f"The import is {parent.status}; cancel it, or wait.")
    if not parent.remaining:
        raise Problem("nothing-to-retry", "Every record of the import was taken.")
    try:
        child, is_replay = await retry.run(
            parent,
            pool=db_pool,
            settings=settings,
            admission=admission,
            active=active_uploads,
            request_id=request_id(request.scope),
        )
    except (Gone, uploads.Gone):
        raise records.removed() from None
    return await _child(db_pool, settings, child, is_replay=is_replay)


@post(
    f"{PATH}/{{id:str}}/commit",
    status_code=202,
    tags=["imports"],
    summary="Commit a dry run",
    responses={
        **CHILD,
        **problem_responses("invalid-request", "not-found", "not-committable", "too-many-requests", "unavailable"),
    },
)
async def commit_import(
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere, admission: AdmissionHere
) -> Response[bytes]:
    """A new import of the same file without a second upload. A dry run has one commit: requested again, it is the same one."""
    parameters.query(request)
    dry_run = await _parent(db_pool, id)
    digest = hashlib.sha256(b"commit" + dry_run.id.bytes).digest()
    try:
        async with db_pool.connection() as conn, conn.transaction():
            child, is_replay = await actions.commit(
                conn, dry_run.id, digest=digest, request_id=request_id(request.scope)
            )
            if not is_replay:
                admission.check(await backlog.measure(conn))
    except NotCommittable as reason:
        raise Problem("not-committable", str(reason)) from None
    except Gone:
        raise records.removed() from None
    return await _child(db_pool, settings, child, is_replay=is_replay)


@post(
    f"{PATH}/{{id:str}}/cancel",
    status_code=202,
    tags=["imports"],
    summary="Cancel an import",
    responses={
        202: ResponseSpec(ImportView, description="Accepted; the import job", generate_examples=False),
        **problem_responses("invalid-request", "not-found", "already-final", "unavailable"),
    },
)
async def cancel_import(
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere
) -> Response[bytes]:
    """No further chunk is begun; one that is being worked on is finished. What is stored stays and is counted."""
    parameters.query(request)
    job = await get_or_404(db_pool, id)
    async with db_pool.connection() as conn:
        if not await actions.cancel(conn, job.id):
            raise Problem("already-final", "The import is final already.")
        ends = await completion.finish(conn, job.id)
    for end in ends:
        job_events.import_finished(end)
    job = await get_or_404(db_pool, id)
    return responses.accepted(await view(db_pool, settings, job), is_final=job.status in FINAL)


@delete(
    f"{PATH}/{{id:str}}",
    status_code=204,
    tags=["imports"],
    summary="Delete a final import",
    responses={
        204: ResponseSpec(None, description="Deleted"),
        **problem_responses("invalid-request", "not-found", "not-final", "unavailable"),
    },
)
async def delete_import(request: AnyRequest, id: FromPath[str], db_pool: PoolHere) -> None:
    """With its errors and its file; the records that it stored stay. Its idempotency key is free again."""
    parameters.query(request)
    job = await get_or_404(db_pool, id)
    async with db_pool.connection() as conn, conn.transaction():
        is_deleted = await actions.delete(conn, job.id)
    if not is_deleted:
        raise Problem("not-final", f"The import is {job.status}; cancel it, or wait.")


async def _records(request: AnyRequest, id: str, pool: Pool, which: Literal["failed", "unprocessed"]) -> ASGIResponse:
    requested = parameters.query(request, RecordParameters)
    return await records.answer(pool, await _parent(pool, id), which, is_annotated=requested.annotate)


async def _parent(pool: Pool, id: str) -> ParentImport:
    async with pool.connection() as conn:
        parent = await actions.parent(conn, responses.job_id(id, "import"))
    if parent is None:
        raise responses.not_found("import")
    return parent


async def _child(pool: Pool, settings: Settings, id: UUID, *, is_replay: bool) -> Response[bytes]:
    job = await get_or_404(pool, str(id))
    return responses.accepted(await view(pool, settings, job), is_final=job.status in FINAL, is_replay=is_replay)


HANDLERS = [
    get_failed_records,
    get_unprocessed_records,
    retry_import,
    commit_import,
    cancel_import,
    delete_import,
]
