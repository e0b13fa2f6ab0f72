"""Actions on an import: download refused records, retry, commit a dry run, cancel, delete."""

import hashlib
import time
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import Response, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Meta

from api.http import parameters, responses, tracing
from api.http.dependencies import PoolHere, SettingsHere
from api.http.headers import AnyRequest
from api.http.operations import CSV_OR_NDJSON, OBJECTS, operation
from api.http.parameters import STORABLE
from api.http.problems import Problem, problem_responses
from api.imports import cells, copies, records
from api.imports.admission import AdmissionHere
from api.imports.cells import RefusedPage
from api.imports.copies import CopyContext
from api.imports.undo import undo_running
from api.imports.uploads import ActiveUploadsHere
from api.imports.view import PATH, ImportView, get_or_404, view
from db import jobs, queue
from db.connections.pool import Connection, Pool, repeatable
from db.imports import actions, backlog, completion, uploads
from db.imports.actions import Copy, NotCommittable, ParentImport, Repaired, Undoing
from db.imports.records import Gone
from db.imports.refused import Selection
from db.resources.definition import Code
from db.settings import Settings
from monitoring import job_events


class RecordParameters(msgspec.Struct, kw_only=True):
    annotate: Annotated[
        bool,
        Meta(
            description="Adds `_line` and `_errors` to each record. An import ignores both, so the corrected file can be posted."
        ),
    ] = False


class FailedRecordParameters(RecordParameters, kw_only=True):
    unrepaired: Annotated[bool, Meta(description="Without the records that repairs have.")] = False
    as_: Annotated[
        Literal["cells"] | None,
        Meta(description="cells: a page of the records, split into cells, instead of all of them as a file."),
    ] = msgspec.field(default=None, name="as")
    code: Code | None = None
    field: Annotated[str, Meta(max_length=255, pattern=STORABLE)] | None = None
    limit: Annotated[Annotated[int, Meta(ge=1, le=1000)] | None, Meta(description="Default: 100.")] = None
    cursor: Annotated[str | None, Meta(description="The `next_cursor` of the previous page.")] = None

    def __post_init__(self) -> None:
        if self.as_ == "cells" and self.annotate:
            raise ValueError("as=cells has the errors of each record and excludes annotate")
        if self.as_ is None and (self.code, self.field, self.limit, self.cursor) != (None, None, None, None):
            raise ValueError("code, field, limit and cursor need as=cells")


FILES = CSV_OR_NDJSON | {"application/json": OBJECTS}
PROBLEMS = problem_responses("invalid-request", "not-found", "too-many-requests", "unavailable")


@get(
    f"{PATH}/{{id:str}}/failed-records",
    operation_class=operation(query=FailedRecordParameters, files={"200": FILES}),
    tags=["imports"],
    summary="Download the refused records",
    responses={200: ResponseSpec(RefusedPage, description="The records", generate_examples=False), **PROBLEMS},
)
async def get_failed_records(
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere, admission: AdmissionHere
) -> ASGIResponse:
    """In the format, bytes and order of the file, header included, to be corrected and imported again.

    as=cells returns a page of them, split into cells, with their errors.
    """
    requested = parameters.query(request, FailedRecordParameters)
    job = await _parent(db_pool, id)
    if requested.as_ is None:
        which = "unrepaired" if requested.unrepaired else "failed"
        return await records.download(db_pool, admission, job, which, is_annotated=requested.annotate)
    try:
        async with db_pool.connection() as conn:
            page = await cells.page(
                conn,
                job,
                Selection(requested.code, requested.field, requested.unrepaired),
                cursor=requested.cursor,
                limit=requested.limit or 100,
                record_max_bytes=settings.record_max_bytes,
            )
    except Gone:
        raise records.removed() from None
    answer = responses.page(request, "records", page.records, page.next_cursor, columns=page.columns, total=page.total)
    return answer.to_asgi_response(app=None, request=request)


@get(
    f"{PATH}/{{id:str}}/unprocessed-records",
    operation_class=operation(query=RecordParameters, files={"200": FILES}),
    tags=["imports"],
    summary="Download the unprocessed records",
    responses={
        200: ResponseSpec(bytes, description="The records", media_type="application/x-ndjson", generate_examples=False),
        **PROBLEMS,
    },
)
async def get_unprocessed_records(
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, admission: AdmissionHere
) -> ASGIResponse:
    """In the format, bytes and order of the file, header included. While the import runs, the records still to be processed."""
    requested = parameters.query(request, RecordParameters)
    parent = await _parent(db_pool, id)
    return await records.download(db_pool, admission, parent, "unprocessed", is_annotated=requested.annotate)


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
            "invalid-request",
            "not-found",
            "not-final",
            "nothing-to-retry",
            "already-repaired",
            "too-many-requests",
            "unavailable",
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
    """Creates an import of these records with the same parameters. Its errors have the line numbers of the first file.

    An import has one retry: a repeated request returns it, so that no record is stored twice. Records that fail again can be
    retried by a retry of the retry.
    """
    parameters.query(request)
    parent = await _parent(db_pool, id)
    if not parent.is_final:
        raise responses.not_final("import", parent.status)
    if not parent.remaining:
        raise Problem("nothing-to-retry", "No record of the import is failed or unprocessed.")
    context = copies.context(request, db_pool, settings, admission, active_uploads)
    child, is_replay = await _copy(parent, "retry", context)
    tracing.note_job(request.scope, "import", child, parent.resource, is_replay=is_replay)
    return await _accepted(db_pool, settings, child, is_replay=is_replay)


class CommitParameters(msgspec.Struct, kw_only=True):
    undoable: Annotated[
        bool, Meta(description="Remember the rows that the new import creates, so that it can be undone.")
    ] = False


@post(
    f"{PATH}/{{id:str}}/commit",
    status_code=202,
    operation_class=operation(query=CommitParameters),
    tags=["imports"],
    summary="Commit a dry run",
    responses={
        **CHILD,
        **problem_responses(
            "invalid-request", "not-found", "not-committable", "already-repaired", "too-many-requests", "unavailable"
        ),
    },
)
async def commit_import(
    request: AnyRequest,
    id: FromPath[str],
    db_pool: PoolHere,
    settings: SettingsHere,
    admission: AdmissionHere,
    active_uploads: ActiveUploadsHere,
) -> Response[bytes]:
    """Creates an import of the same file without a second upload. A dry run has one commit: a repeated request returns it.

    Records that repairs of the dry run have are left out: they are stored by the commits of these repairs.
    """
    requested = parameters.query(request, CommitParameters)
    dry_run = await _parent(db_pool, id)
    digest = hashlib.sha256(b"commit" + dry_run.id.bytes).digest()
    context = copies.context(request, db_pool, settings, admission, active_uploads, undoable=requested.undoable)

    async def commit(conn: Connection) -> tuple[UUID, bool]:
        child, is_replay = await actions.commit(
            conn,
            dry_run.id,
            undoable=context.undoable,
            digest=digest,
            request_id=context.request_id,
            traceparent=context.traceparent,
            created_by=context.created_by,
            endpoints=settings.webhook_endpoints,
        )
        if not is_replay:
            admission.check(await backlog.measure(conn))
        return child, is_replay

    try:
        child, is_replay = await queue.submit(db_pool, commit)
    except Repaired:
        child, is_replay = await _copy(dry_run, "commit", context)
    except NotCommittable as reason:
        raise Problem("not-committable", str(reason)) from None
    except Gone:
        raise records.removed() from None
    tracing.note_job(request.scope, "import", child, dry_run.resource, is_replay=is_replay)
    return await _accepted(db_pool, settings, child, is_replay=is_replay)


@post(
    f"{PATH}/{{id:str}}/cancel",
    status_code=202,
    tags=["imports"],
    summary="Cancel an import",
    responses=responses.document_cancel(ImportView),
)
async def cancel_import(
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere
) -> Response[bytes]:
    """No further chunk is started; running ones are finished. Stored records are kept and counted."""
    parameters.query(request)
    job = await get_or_404(db_pool, id)
    async with db_pool.connection() as conn:
        if not await jobs.cancel(conn, "import", job.id):
            raise Problem("already-final", "The import is already final.")
        started_ns = time.time_ns()
        ends = await completion.finish(conn, job.id, endpoints=settings.webhook_endpoints)
    for end in ends:
        job_events.import_finished(end, started_ns=started_ns)
    return await _accepted(db_pool, settings, job.id)


@delete(
    f"{PATH}/{{id:str}}",
    status_code=204,
    tags=["imports"],
    summary="Delete a final import",
    responses={
        **responses.document_delete(),
        **problem_responses("not-final", "undo-running"),
    },
)
async def delete_import(request: AnyRequest, id: FromPath[str], db_pool: PoolHere) -> None:
    """Deletes the import with its errors and its file. Stored records are kept. The idempotency key can be used again."""
    parameters.query(request)
    job = await get_or_404(db_pool, id)
    async with db_pool.connection() as conn, conn.transaction():
        try:
            is_deleted = await actions.delete(conn, job.id)
        except Undoing:
            raise undo_running() from None
    if not is_deleted:
        raise responses.not_final("import", job.status)


async def _copy(parent: ParentImport, relation: Copy, context: CopyContext) -> tuple[UUID, bool]:
    """The id of the retry or commit, and whether an earlier request created it. Raises `Problem`."""
    try:
        return await copies.run(parent, relation, context)
    except Repaired:
        raise Problem(
            "already-repaired", "A repair took on records of the import meanwhile. Repeat the request."
        ) from None
    except (Gone, uploads.Gone):
        raise records.removed() from None


async def _parent(pool: Pool, id: str) -> ParentImport:
    number = responses.job_id(id, "import")
    parent = await repeatable(pool, lambda conn: actions.parent(conn, number))
    if parent is None:
        raise responses.not_found("import")
    return parent


async def _accepted(pool: Pool, settings: Settings, id: UUID, *, is_replay: bool = False) -> Response[bytes]:
    job = await get_or_404(pool, str(id))
    return responses.accepted(await view(pool, settings, job), is_final=job.is_final, is_replay=is_replay)


HANDLERS = [
    get_failed_records,
    get_unprocessed_records,
    retry_import,
    commit_import,
    cancel_import,
    delete_import,
]
