"""Imports by HTTP: post a file, look at the job, list the jobs, read the errors."""

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, Parameter, RequestBody
from litestar.openapi.spec.enums import OpenAPIType
from litestar.openapi.spec.media_type import OpenAPIMediaType
from litestar.openapi.spec.schema import Schema
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Meta

from api.http import headers as prefer
from api.http import parameters
from api.http import responses as answers
from api.http.dependencies import PoolHere, SettingsHere, StoppingHere, UploadsHere
from api.http.parameters import NoParameters
from api.http.problems import responses
from api.http.responses import BINARY
from api.imports import errors as error_stream
from api.imports.parameters import STORABLE, ImportParameters
from api.imports.uploads import receive
from api.imports.view import PATH, ImportView, brief, existing, view
from db.imports import errors as record_errors
from db.imports import jobs as imports
from db.imports.errors import Position
from db.imports.jobs import FINAL
from db.resources.definition import Code, RecordError


class ImportPage(msgspec.Struct, kw_only=True):
    imports: list[ImportView]
    next_cursor: str | None


class ErrorPage(msgspec.Struct, kw_only=True):
    errors: list[RecordError]
    next_cursor: str | None
    total: int


class ListParameters(msgspec.Struct, kw_only=True):
    status: Literal["pending", "processing", "completed", "failed", "cancelled"] | None = None
    resource: Literal["users", "articles", "comments"] | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: str | None = None


class ErrorParameters(msgspec.Struct, kw_only=True):
    format: Annotated[
        Literal["csv", "ndjson"] | None,
        Meta(description="Streams all errors instead of a page; csv is made safe for spreadsheets."),
    ] = None
    code: Code | None = None
    field: Annotated[str, Meta(max_length=255, pattern=STORABLE)] | None = None
    limit: Annotated[Annotated[int, Meta(ge=1, le=1000)] | None, Meta(description="100 unless told.")] = None
    cursor: str | None = None

    def __post_init__(self) -> None:
        if self.format is not None and (self.limit is not None or self.cursor is not None):
            raise ValueError("format streams all errors, and goes with neither limit nor cursor")


@dataclass
class ImportOperation(Operation):
    """The handler reads the body itself, as it arrives, so the document has to be told of it."""

    def __post_init__(self) -> None:
        binary = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=BINARY))
        self.request_body = RequestBody(
            description="A form with the part `file`; or the file itself; or a JSON object with `records`. "
            "Parameters stand in the query, in the form, or in the object.",
            required=True,
            content={
                "multipart/form-data": OpenAPIMediaType(
                    schema=Schema(
                        type=OpenAPIType.OBJECT,
                        required=["file"],
                        properties={"file": Schema(type=OpenAPIType.STRING, format=BINARY)},
                    )
                ),
                "text/csv": binary,
                "application/x-ndjson": binary,
                "application/json": OpenAPIMediaType(
                    schema=Schema(
                        one_of=[
                            Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT)),
                            Schema(
                                type=OpenAPIType.OBJECT,
                                required=["resource", "records"],
                                properties={
                                    "resource": Schema(enum=["users", "articles", "comments"]),
                                    "records": Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.OBJECT)),
                                },
                            ),
                        ]
                    )
                ),
            },
        )
        self.parameters = [
            *(self.parameters or []),
            *answers.query_parameters(ImportParameters),
            Parameter(
                name="Prefer",
                param_in="header",
                required=False,
                description="wait=N holds the answer back until the job is final, or for N seconds, at most 30.",
                schema=Schema(type=OpenAPIType.STRING),
            ),
        ]


@dataclass
class ListOperation(Operation):
    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or []), *answers.query_parameters(ListParameters)]


@dataclass
class ErrorsOperation(Operation):
    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or []), *answers.query_parameters(ErrorParameters)]
        binary = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=BINARY))
        answer: Any = (self.responses or {})["200"]
        answer.content |= {"text/csv": binary, "application/x-ndjson": binary}


@post(
    PATH,
    status_code=202,
    request_max_body_size=None,
    operation_class=ImportOperation,
    tags=["imports"],
    summary="Import a file",
    responses={
        202: ResponseSpec(ImportView, description="Taken in; the job", generate_examples=False),
        200: ResponseSpec(
            ImportView,
            description="The same request came before, or the job is final and was waited for; the job",
            generate_examples=False,
        ),
        **responses(
            "invalid-request",
            "digest-mismatch",
            "idempotency-in-progress",
            "payload-too-large",
            "unsupported-format",
            "idempotency-key-reused",
            "too-many-requests",
            "unavailable",
        ),
    },
)
async def create_import(request: Request, uploads: UploadsHere, stopping: StoppingHere) -> Response[bytes]:
    """The upload counts whole or not at all. One idempotency key makes one job, for as long as the job is kept."""
    wait_seconds = prefer.wait_seconds(request)
    job, is_replay = await receive(request, uploads)
    headers = {"Location": f"{PATH}/{job.id}"}
    if wait_seconds is not None:
        job = await prefer.until_final(request, uploads.pool, job, seconds=wait_seconds, stopping=stopping)
        headers["Preference-Applied"] = f"wait={wait_seconds}"
    is_done = is_replay or (wait_seconds is not None and job.status in FINAL)
    if job.status not in FINAL:
        headers["Retry-After"] = "1"
    if is_replay:
        headers["Idempotent-Replayed"] = "true"
    body = msgspec.json.encode(await view(uploads.pool, uploads.settings, job))
    return Response(body, status_code=200 if is_done else 202, headers=headers, media_type=answers.JSON)


@get(
    PATH,
    operation_class=ListOperation,
    tags=["imports"],
    summary="List imports, newest first",
    responses={
        200: ResponseSpec(ImportPage, description="A page", generate_examples=False),
        **responses("invalid-request", "unavailable"),
    },
)
async def list_imports(request: Request, db_pool: PoolHere, settings: SettingsHere) -> Response[bytes]:
    asked = parameters.parse(request.query_params.multi_items(), ListParameters)
    async with db_pool.connection() as conn:
        found = await imports.newest(
            conn,
            status=asked.status,
            resource=asked.resource,
            before=answers.id_cursor(asked.cursor),
            limit=asked.limit + 1,
        )
    return answers.jobs(request, "imports", found, asked.limit, lambda job: brief(settings, job))


@get(
    f"{PATH}/{{id:str}}",
    tags=["imports"],
    summary="An import as it is now",
    responses={
        200: ResponseSpec(ImportView, description="The job", generate_examples=False),
        304: ResponseSpec(None, description="As the client knows it"),
        **responses("invalid-request", "not-found", "unavailable"),
    },
)
async def get_import(request: Request, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere) -> Response[bytes]:
    parameters.parse(request.query_params.multi_items(), NoParameters)
    job = await existing(db_pool, id)
    return answers.job(request, await view(db_pool, settings, job), is_final=job.status in FINAL)


@get(
    f"{PATH}/{{id:str}}/errors",
    operation_class=ErrorsOperation,
    tags=["imports"],
    summary="Why records were refused, in the order of the file",
    responses={
        200: ResponseSpec(ErrorPage, description="A page", generate_examples=False),
        **responses("invalid-request", "not-found", "unavailable"),
    },
)
async def get_import_errors(request: Request, id: FromPath[str], db_pool: PoolHere) -> ASGIResponse:
    """Complete once the import is final; before, what is known so far."""
    asked = parameters.parse(request.query_params.multi_items(), ErrorParameters)
    job = await existing(db_pool, id)
    if asked.format is not None:
        return await error_stream.answer(db_pool, job, format=asked.format, code=asked.code, field=asked.field)
    async with db_pool.connection() as conn:
        found, last = await record_errors.page(
            conn,
            job.id,
            after=_error_cursor(asked.cursor),
            code=asked.code,
            field=asked.field,
            limit=asked.limit or 100,
        )
        total = await record_errors.count(conn, job.id, code=asked.code, field=asked.field)
    cursor = None if last is None else base64.urlsafe_b64encode(msgspec.json.encode(last)).decode()
    page = answers.page(request, "errors", found, cursor, total=total)
    return page.to_asgi_response(app=None, request=request)


def _error_cursor(cursor: str | None) -> Position:
    if cursor is None:
        return record_errors.START
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cursor), type=Position)
    except (binascii.Error, ValueError, RecursionError):
        raise answers.cursor_fault() from None


HANDLERS = [create_import, list_imports, get_import, get_import_errors]
