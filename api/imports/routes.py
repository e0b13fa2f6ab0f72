"""Imports: create, list, get, events, errors."""

import base64
import binascii
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import RequestBody
from litestar.openapi.spec.media_type import OpenAPIMediaType
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import UNSET, Meta, UnsetType

from api.http import headers, parameters, responses, sse, tracing
from api.http.dependencies import PoolHere, SettingsHere, StoppingHere
from api.http.headers import AnyRequest
from api.http.operations import BINARY, CSV_OR_NDJSON, OBJECTS, object_schema, operation
from api.http.parameters import STORABLE, ListParameters
from api.http.problems import problem_responses
from api.imports import errors, wait
from api.imports.importing import ImportingHere
from api.imports.parameters import ImportParameters
from api.imports.receive import receive
from api.imports.results import get_import_results
from api.imports.timeline import get_import_timeline
from api.imports.view import PATH, ImportView, get_or_404, summary, view
from db.connections.pool import Connection, repeatable
from db.formats import XLSX_MEDIA_TYPE
from db.imports import errors as record_errors
from db.imports import jobs
from db.imports.errors import Position
from db.imports.jobs import Import, ImportFilter, ImportJobCounts, Outcome
from db.resources.definition import Code, RecordError


class ImportPage(msgspec.Struct, kw_only=True):
    imports: list[ImportView]
    next_cursor: str | None
    counts: ImportJobCounts | UnsetType = UNSET


class ErrorPage(msgspec.Struct, kw_only=True):
    errors: list[RecordError]
    next_cursor: str | None
    total: int


class ImportListParameters(ListParameters, kw_only=True):
    status: Literal["pending", "processing", "completed", "failed", "cancelled"] | None = None
    outcome: Annotated[Outcome | None, Meta(description="Completed imports with this outcome.")] = None
    parent: Annotated[UUID | None, Meta(description="Retries and commits of this import.")] = None
    name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=255, pattern=STORABLE)] | None,
        Meta(description="Imports whose file name contains this text, in upper or lower case."),
    ] = None
    dry_run: Annotated[bool | None, Meta(description="Only dry runs, or none.")] = None


class ErrorParameters(msgspec.Struct, kw_only=True):
    format: Annotated[
        Literal["csv", "ndjson"] | None,
        Meta(description="All errors as a file instead of one page; csv is safe to open in a spreadsheet."),
    ] = None
    code: Code | None = None
    field: Annotated[str, Meta(max_length=255, pattern=STORABLE)] | None = None
    limit: Annotated[Annotated[int, Meta(ge=1, le=1000)] | None, Meta(description="Default: 100.")] = None
    first_record: Annotated[
        Annotated[int, Meta(ge=1, le=2**63 - 1)] | None,
        Meta(description="Only the errors of this record and of those after it; records are counted from 1."),
    ] = None
    cursor: str | None = None

    def __post_init__(self) -> None:
        if self.format is not None and (self.limit, self.first_record, self.cursor) != (None, None, None):
            raise ValueError("format returns all errors and cannot be combined with limit, first_record or cursor")


BODY = RequestBody(
    description="A form with the part `file`; or the file itself; or a JSON object with `records` or `source`; or a JSON array "
    "of records. The parameters are in the query, in the form, or in the object.",
    required=True,
    content={
        "multipart/form-data": OpenAPIMediaType(schema=object_schema(ImportParameters, more={"file": BINARY})),
        "text/csv": OpenAPIMediaType(schema=BINARY),
        "application/x-ndjson": OpenAPIMediaType(schema=BINARY),
        XLSX_MEDIA_TYPE: OpenAPIMediaType(schema=BINARY),
        "application/octet-stream": OpenAPIMediaType(schema=BINARY),
        # or an array of records, like a file; client generators cannot handle a schema with both
        "application/json": OpenAPIMediaType(schema=object_schema(ImportParameters, more={"records": OBJECTS})),
    },
)


@post(
    PATH,
    status_code=202,
    request_max_body_size=None,
    operation_class=operation(
        query=ImportParameters,
        headers={"Prefer": "wait=N delays the response until the job is final, for at most N seconds, at most 30."},
        body=BODY,
    ),
    tags=["imports"],
    summary="Import a file",
    responses={
        202: ResponseSpec(ImportView, description="Accepted; the import job", generate_examples=False),
        200: ResponseSpec(
            ImportView,
            description="A repeated request, or the job is final and the client waited for it; the import job",
            generate_examples=False,
        ),
        **problem_responses(
            "invalid-request",
            "digest-mismatch",
            "source-not-allowed",
            "cross-origin",
            "forbidden",
            "idempotency-in-progress",
            "source-changed",
            "payload-too-large",
            "unsupported-format",
            "idempotency-key-reused",
            "too-many-requests",
            "unavailable",
        ),
    },
)
async def create_import(request: AnyRequest, importing: ImportingHere) -> Response[bytes]:
    """The file is stored completely or not at all. Requests with the same idempotency key create one job."""
    seconds = headers.wait_seconds(request)
    job, is_replay, is_small = await receive(request, importing)
    tracing.note_job(request.scope, "import", job.id, job.resource, is_replay=is_replay, records=job.total_records)
    if seconds is not None:
        job = await wait.until_final(request, importing.pool, job, seconds=seconds, stopping=importing.stopping)
    return responses.accepted(
        await view(importing.pool, importing.settings, job, turn=importing.turn if is_small else None),
        is_final=job.is_final,
        is_replay=is_replay,
        is_result=job.is_final and seconds is not None,
        headers=None if seconds is None else {"Preference-Applied": f"wait={seconds}"},
    )


@get(
    PATH,
    operation_class=operation(query=ImportListParameters),
    tags=["imports"],
    summary="List imports, newest first",
    responses=responses.document_page(ImportPage),
)
async def list_imports(request: AnyRequest, db_pool: PoolHere, settings: SettingsHere) -> Response[bytes]:
    """One page; `next_cursor` is the cursor of the next page, null on the last one."""
    requested = parameters.query(request, ImportListParameters)
    wanted = ImportFilter(
        status=requested.status,
        outcome=requested.outcome,
        resource=requested.resource,
        parent_id=requested.parent,
        name=requested.name,
        dry_run=requested.dry_run,
        created_after=requested.created_after,
        created_before=requested.created_before,
    )
    before = responses.id_cursor(requested.cursor)

    async def read(conn: Connection) -> tuple[list[Import], ImportJobCounts | None]:
        newest = await jobs.newest(conn, wanted, before=before, limit=requested.limit + 1)
        return newest, await jobs.counts(conn, wanted) if requested.counts else None

    newest, counts = await repeatable(db_pool, read)
    return responses.jobs(
        request, "imports", newest, requested.limit, lambda job: summary(settings, job), counts=counts
    )


@get(
    f"{PATH}/{{id:str}}",
    tags=["imports"],
    summary="Get an import",
    responses=responses.document_job(ImportView),
)
async def get_import(
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere
) -> Response[bytes]:
    """The current state. Poll it with If-None-Match; Retry-After is absent when the job is final."""
    parameters.query(request)
    job = await get_or_404(db_pool, id)
    return responses.job(request, await view(db_pool, settings, job), is_final=job.is_final)


@get(
    f"{PATH}/{{id:str}}/events",
    operation_class=sse.EventsOperation,
    tags=["imports"],
    summary="Follow an import by server-sent events",
    responses=sse.RESPONSES,
)
async def get_import_events(
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere, stopping: StoppingHere
) -> ASGIResponse:
    """`progress` is sent when the import has changed, without its errors; `done` is the final import with its first errors."""
    parameters.query(request)
    source = sse.EventSource(
        get=jobs.get,
        event_id=_event_id,
        summary=lambda job: summary(settings, job),
        full=lambda job: view(db_pool, settings, job),
    )
    return sse.follow(request, source, await get_or_404(db_pool, id), db_pool, stopping)


@get(
    f"{PATH}/{{id:str}}/errors",
    operation_class=operation(query=ErrorParameters, files={"200": CSV_OR_NDJSON}),
    tags=["imports"],
    summary="List the errors of an import",
    responses={
        200: ResponseSpec(ErrorPage, description="A page", generate_examples=False),
        **problem_responses("invalid-request", "not-found", "unavailable"),
    },
)
async def get_import_errors(request: AnyRequest, id: FromPath[str], db_pool: PoolHere) -> ASGIResponse:
    """In the order of the file. While the import runs, the errors found so far."""
    requested = parameters.query(request, ErrorParameters)
    job = await get_or_404(db_pool, id)
    if requested.format is not None:
        return await errors.download(db_pool, job, format=requested.format, code=requested.code, field=requested.field)
    after = _first_error(requested)
    code, field = requested.code, requested.field

    async def read(conn: Connection) -> tuple[list[RecordError], Position | None, int]:
        found, last = await record_errors.page(
            conn, job.id, after=after, code=code, field=field, limit=requested.limit or 100
        )
        return found, last, await record_errors.count(conn, job.id, code=code, field=field)

    found, last, total = await repeatable(db_pool, read)
    cursor = None if last is None else base64.urlsafe_b64encode(msgspec.json.encode(last)).decode()
    page = responses.page(request, "errors", found, cursor, total=total)
    return page.to_asgi_response(app=None, request=request)


def _event_id(job: Import) -> str:
    """Changes whenever the job does, and orders its states."""
    counts = (job.created, job.updated, job.unchanged, job.skipped, job.failed, job.errors)
    return f"{job.status}-{job.processed + job.deferred}-{'.'.join(map(str, counts))}"


def _first_error(requested: ErrorParameters) -> Position:
    """The position that the page begins after. A cursor is at or after `first_record`."""
    if requested.cursor is None:
        return Position(requested.first_record or 0, 0)
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(requested.cursor), type=Position)
    except (binascii.Error, ValueError, RecursionError):
        raise responses.invalid_cursor() from None


HANDLERS = [
    create_import,
    list_imports,
    get_import,
    get_import_events,
    get_import_errors,
    get_import_results,
    get_import_timeline,
]
