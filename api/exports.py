"""Exports by HTTP: stream a resource, or order a file, look at the job, list the jobs, download the file."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import structlog
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, RequestBody
from litestar.openapi.spec.enums import OpenAPIType
from litestar.openapi.spec.media_type import OpenAPIMediaType
from litestar.openapi.spec.schema import Schema
from litestar.params import SkipValidation
from litestar.response.base import ASGIResponse
from msgspec import Meta

from api import answers, files, parameters
from api.errors import Fault, Problem, request_id, responses
from api.streaming import STALL_SECONDS_MAX, BlockStream
from api.uploads import Key, idempotency_key
from db import export, exports
from db.exports import FINAL, Export, Order
from db.payload import Format
from db.pool import Pool
from db.resources import RESOURCES
from db.settings import Settings
from monitoring import metrics

log = structlog.get_logger(__name__)

PATH = "/api/v1/exports"

MEDIA_TYPES: dict[Format, str] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
}
# what a client may accept, and which format that is; the first is for those who accept anything
ACCEPTABLE: dict[str, Format] = {
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
    "application/json": "json",
}

PoolHere = NamedDependency[SkipValidation[Pool]]
SettingsHere = NamedDependency[SkipValidation[Settings]]


class FileView(msgspec.Struct, frozen=True, kw_only=True):
    """The file, once it is whole."""

    bytes: int
    records: int
    sha256: str
    content_type: str


class ProgressView(msgspec.Struct, frozen=True, kw_only=True):
    """0 before the work begins, 100 once the file is whole; null where nothing can be said."""

    percent: float | None


class ExportView(msgspec.Struct, frozen=True, kw_only=True):
    """An export as clients see it. What only the finished work tells is null until then."""

    id: UUID
    kind: Literal["export"] = "export"
    resource: str
    format: str
    status: exports.Status
    filters: dict[str, Any]
    fields: list[str] | None
    compression: Literal["none"]
    snapshot_at: datetime | None
    total_records: int | None
    exported_records: int | None
    progress: ProgressView
    file: FileView | None
    download_url: str | None
    problem: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    links: dict[str, str]


class ExportPage(msgspec.Struct, kw_only=True):
    exports: list[ExportView]
    next_cursor: str | None


class StreamParameters(msgspec.Struct, kw_only=True):
    format: Annotated[
        Format | None, Meta(description="Without it the header Accept tells; ndjson when that takes anything.")
    ] = None


class OrderParameters(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of an order. Defaults are left out of its digest, so that a parameter that is added later changes none."""

    resource: Literal["users", "articles", "comments"]
    format: Format = "ndjson"
    compression: Literal["none"] = "none"
    filters: Annotated[dict[str, Any] | None, Meta(description="Null or empty.")] = None
    fields: Annotated[list[str] | None, Meta(description="Null or empty: all of them.")] = None
    idempotency_token: Annotated[Key | None, Meta(description="The same as the header Idempotency-Key.")] = None


class ListParameters(msgspec.Struct, kw_only=True):
    status: exports.Status | None = None
    resource: Literal["users", "articles", "comments"] | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: str | None = None


class NoParameters(msgspec.Struct):
    pass


class StreamOperation(Operation):
    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or []), *answers.query_parameters(StreamParameters)]


class ListOperation(Operation):
    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or []), *answers.query_parameters(ListParameters)]


class OrderOperation(Operation):
    """The handler reads the body itself, to name all that is wrong with it at once."""

    def __post_init__(self) -> None:
        members = answers.query_parameters(OrderParameters)
        schema = Schema(
            type=OpenAPIType.OBJECT,
            required=[member.name for member in members if member.required],
            properties={member.name: member.schema for member in members if member.schema is not None},
        )
        self.request_body = RequestBody(required=True, content={"application/json": OpenAPIMediaType(schema=schema)})


@get(
    f"{PATH}/{{resource:str}}/stream",
    operation_class=StreamOperation,
    tags=["exports"],
    summary="Stream all records of a resource",
    responses={
        200: ResponseSpec(
            bytes, description="The records, in order of id", media_type="application/x-ndjson", generate_examples=False
        ),
        **responses("invalid-request", "not-found", "not-acceptable", "unavailable"),
    },
)
async def stream_export(request: Request, resource: str, db_pool: PoolHere) -> ASGIResponse:
    """One snapshot, of the time in X-Snapshot-At. A transfer that ends without an error is whole."""
    if resource not in RESOURCES:
        raise Problem("not-found", f"There is no such resource; there are {', '.join(RESOURCES)}.")
    asked = parameters.parse(request.query_params.multi_items(), StreamParameters)
    format = asked.format or _accepted(request)
    async with AsyncExitStack() as stack:
        conn = await stack.enter_async_context(db_pool.connection())
        await stack.enter_async_context(conn.transaction())
        # the server must be more patient with us than we are with the client
        snapshot_at = await export.begin(conn, patience_seconds=2 * STALL_SECONDS_MAX)
        blocks = await stack.enter_async_context(aclosing(export.blocks(conn, RESOURCES[resource], format)))
        # what fails before the first block can still be answered as a problem
        first = await anext(blocks, None)
        tally = stack.enter_context(_Tally(resource, format))
        held = stack.pop_all()
    return BlockStream(
        tally.count(first, blocks),
        held=held,
        media_type=MEDIA_TYPES[format],
        headers={
            "Content-Disposition": f'attachment; filename="{_file_name(resource, format, snapshot_at)}"',
            "Vary": "Accept",
            "X-Snapshot-At": msgspec.to_builtins(snapshot_at),
            "Cache-Control": "no-store",
        },
        status_code=200,
    )


@post(
    PATH,
    status_code=202,
    operation_class=OrderOperation,
    tags=["exports"],
    summary="Order a file",
    responses={
        202: ResponseSpec(ExportView, description="Taken in; the job", generate_examples=False),
        200: ResponseSpec(ExportView, description="The same order came before; its job", generate_examples=False),
        **responses(
            "invalid-request", "payload-too-large", "unsupported-format", "idempotency-key-reused", "unavailable"
        ),
    },
)
async def create_export(request: Request, db_pool: PoolHere) -> Response[bytes]:
    """A worker writes the file. One idempotency key makes one job, for as long as the job is kept."""
    order = await _order(request)
    async with db_pool.connection() as conn:
        async with conn.transaction():
            id = await exports.create(conn, order)
        if id is None:
            job = await exports.by_token(conn, order.idempotency_token or "")
        else:
            job = await exports.get(conn, id)
    if job is None:
        raise Problem("not-found", "The export was removed meanwhile.")
    _check_replay(order, job, is_replay=id is None)
    headers = {"Location": f"{PATH}/{job.id}"}
    if job.status not in FINAL:
        headers["Retry-After"] = "1"
    if id is None:
        headers["Idempotent-Replayed"] = "true"
    return Response(
        msgspec.json.encode(_view(job)),
        status_code=200 if id is None else 202,
        headers=headers,
        media_type=answers.JSON,
    )


@get(
    PATH,
    operation_class=ListOperation,
    tags=["exports"],
    summary="List exports, newest first",
    responses={
        200: ResponseSpec(ExportPage, description="A page", generate_examples=False),
        **responses("invalid-request", "unavailable"),
    },
)
async def list_exports(request: Request, db_pool: PoolHere) -> Response[bytes]:
    asked = parameters.parse(request.query_params.multi_items(), ListParameters)
    async with db_pool.connection() as conn:
        found = await exports.newest(
            conn,
            status=asked.status,
            resource=asked.resource,
            before=_id_cursor(asked.cursor),
            limit=asked.limit + 1,
        )
    jobs = found[: asked.limit]
    return answers.page(
        request, "exports", [_view(job) for job in jobs], str(jobs[-1].id) if len(found) > asked.limit else None
    )


@get(
    f"{PATH}/{{id:str}}",
    tags=["exports"],
    summary="An export as it is now",
    responses={
        200: ResponseSpec(ExportView, description="The job", generate_examples=False),
        304: ResponseSpec(None, description="As the client knows it"),
        **responses("invalid-request", "not-found", "unavailable"),
    },
)
async def get_export(request: Request, id: str, db_pool: PoolHere) -> Response[bytes]:
    parameters.parse(request.query_params.multi_items(), NoParameters)
    job = await _existing(db_pool, id)
    return answers.job(request, _view(job), is_final=job.status in FINAL)


@get(
    f"{PATH}/{{id:str}}/download",
    tags=["exports"],
    summary="The file of a completed export",
    responses={
        200: ResponseSpec(
            bytes, description="The file", media_type="application/octet-stream", generate_examples=False
        ),
        206: ResponseSpec(
            bytes, description="The range asked for", media_type="application/octet-stream", generate_examples=False
        ),
        304: ResponseSpec(None, description="As the client knows it"),
        **responses("invalid-request", "not-found", "export-not-ready", "range-not-satisfiable", "unavailable"),
    },
)
async def download_export(request: Request, id: str, db_pool: PoolHere, settings: SettingsHere) -> ASGIResponse:
    """Takes one Range, and If-Range with the ETag, so that a download that broke can go on."""
    parameters.parse(request.query_params.multi_items(), NoParameters)
    job = await _existing(db_pool, id)
    try:
        return await files.answer(request, _download(job, settings))
    except FileNotFoundError:
        log.error("export_file_missing", job_id=str(job.id), file=job.file_name)
        raise Problem("not-found", "The file of this export is not on this machine, or is not whole.") from None


class _Tally:
    """Counts what a stream sends, and, when it is left, whether that was all."""

    def __init__(self, resource: str, format: Format) -> None:
        self.resource = resource
        self.format: Format = format
        self.records = 0
        self.is_complete = False

    async def count(self, first: export.Block | None, rest: AsyncIterator[export.Block]) -> AsyncIterator[bytes]:
        if first is not None:
            yield self._add(first)
            async for block in rest:
                yield self._add(block)
        self.is_complete = True

    def _add(self, block: export.Block) -> bytes:
        self.records += block.records
        metrics.exported(self.resource, self.format, block.records, len(block.data))
        return block.data

    def __enter__(self) -> "_Tally":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.is_complete:
            metrics.stream_aborted()
            log.warning("export_stream_aborted", resource=self.resource, format=self.format, records=self.records)


def _accepted(request: Request) -> Format:
    """The format that the client would rather have. Raises `Problem` 406."""
    match = request.accept.best_match(list(ACCEPTABLE))
    if match is None:
        raise Problem("not-acceptable", f"There are {', '.join(ACCEPTABLE)}.")
    return ACCEPTABLE[match]


async def _order(request: Request) -> Order:
    """What the body and the query ask for. Raises `Problem` 400, 413, 415."""
    media_type = request.headers.get("content-type", answers.JSON).partition(";")[0].strip().lower()
    if media_type != answers.JSON:
        raise Problem("unsupported-format", f"An export is ordered as {answers.JSON}.")
    try:
        body = msgspec.json.decode(await request.body())
    except msgspec.DecodeError as error:
        raise Problem("invalid-request", f"The body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Problem("invalid-request", "The body is not a JSON object.")
    asked = parameters.parse([*request.query_params.multi_items(), *body.items()], OrderParameters)
    _refuse_selection(asked)
    key = idempotency_key(request)
    if key is not None and asked.idempotency_token not in (None, key):
        raise _invalid([Fault("idempotency_token", "conflicting_values", "differs from the header Idempotency-Key")])
    content = msgspec.structs.replace(asked, filters=None, fields=None, idempotency_token=None)
    return Order(
        resource=asked.resource,
        format=asked.format,
        idempotency_token=key or asked.idempotency_token,
        digest=hashlib.sha256(msgspec.json.encode(content)).digest(),
        request_id=request_id(request.scope),
    )


def _refuse_selection(asked: OrderParameters) -> None:
    """An export is always of all records and fields; what asks for less must not be passed by."""
    faults = [Fault(f"filters.{name}", "unknown_parameter", "is not a filter here") for name in asked.filters or ()]
    if asked.fields:
        faults.append(Fault("fields", "invalid_value", "must be null or empty: all fields are exported"))
    if faults:
        raise _invalid(faults)


def _check_replay(order: Order, job: Export, *, is_replay: bool) -> None:
    """Counts how the idempotency key was used. Raises `Problem` 422 when it is another order's."""
    if order.idempotency_token is None:
        return
    if is_replay and job.request_digest != order.digest:
        metrics.idempotency("reused")
        raise Problem("idempotency-key-reused", "This idempotency key belongs to another export.")
    metrics.idempotency("replayed" if is_replay else "created")


def _invalid(faults: list[Fault]) -> Problem:
    detail = "; ".join(f"{fault.field} {fault.message}" for fault in faults)
    return Problem("invalid-request", detail, errors=faults)


async def _existing(pool: Pool, id: str) -> Export:
    async with pool.connection() as conn:
        job = await exports.get(conn, answers.job_id(id, "export"))
    if job is None:
        raise answers.unknown("export")
    return job


def _download(job: Export, settings: Settings) -> files.Download:
    """The job's file. Raises `Problem` 409: nobody is given a file before its job is completed."""
    if (
        job.status != "completed"
        or job.file_name is None
        or job.file_bytes is None
        or job.file_sha256 is None
        or job.snapshot_at is None
    ):
        raise Problem("export-not-ready", f"The export is {job.status}.")
    return files.Download(
        path=Path(settings.export_dir).resolve() / job.file_name,
        bytes=job.file_bytes,
        sha256=job.file_sha256,
        media_type=MEDIA_TYPES[job.format],
        name=_file_name(job.resource, job.format, job.snapshot_at),
    )


def _file_name(resource: str, format: Format, snapshot_at: datetime) -> str:
    return f"{resource}-{snapshot_at:%Y%m%dT%H%M%SZ}.{format}"


def _view(job: Export) -> ExportView:
    self = f"{PATH}/{job.id}"
    is_done = job.status == "completed"
    return ExportView(
        id=job.id,
        resource=job.resource,
        format=job.format,
        status=job.status,
        filters={},
        fields=None,
        compression="none",
        snapshot_at=job.snapshot_at if is_done else None,
        total_records=job.file_records if is_done else None,
        exported_records=job.file_records if is_done else 0 if job.status == "pending" else None,
        progress=ProgressView(percent=100.0 if is_done else 0.0 if job.status == "pending" else None),
        file=_file_view(job) if is_done else None,
        download_url=f"{self}/download" if is_done else None,
        problem=job.problem,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        expires_at=None,
        links={"self": self, "download": f"{self}/download"},
    )


def _file_view(job: Export) -> FileView | None:
    if job.file_bytes is None or job.file_records is None or job.file_sha256 is None:
        return None
    return FileView(
        bytes=job.file_bytes,
        records=job.file_records,
        sha256=job.file_sha256.hex(),
        content_type=MEDIA_TYPES[job.format],
    )


def _id_cursor(cursor: str | None) -> UUID | None:
    try:
        return None if cursor is None else UUID(cursor)
    except ValueError:
        raise answers.cursor_fault() from None


HANDLERS = [stream_export, create_export, list_exports, get_export, download_export]
