"""Exports by HTTP: order a file, look at the job, list the jobs, download the file."""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import structlog
from litestar import Request, Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Meta

from api.http import responses as answers, parameters
from api.exports import request as export_order, download as files
from api.http.problems import Problem, responses
from api.exports.stream import stream_export
from api.exports.view import PATH, ExportView, existing, view
from api.http.dependencies import PoolHere, SettingsHere
from api.http.parameters import NoParameters
from db.exports import files as export_files, jobs as exports, storage
from db.exports.jobs import FINAL, Export, Order
from db.settings import Settings
from monitoring import metrics

log = structlog.get_logger(__name__)


class ExportPage(msgspec.Struct, kw_only=True):
    exports: list[ExportView]
    next_cursor: str | None


class ListParameters(msgspec.Struct, kw_only=True):
    status: exports.Status | None = None
    resource: Literal["users", "articles", "comments"] | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: str | None = None


@dataclass
class ListOperation(Operation):
    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or []), *answers.query_parameters(ListParameters)]


@dataclass
class DownloadOperation(Operation):
    def __post_init__(self) -> None:
        answers.document_file(self, "200", "206")


@post(
    PATH,
    status_code=202,
    operation_class=export_order.OrderOperation,
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
async def create_export(request: Request, db_pool: PoolHere, settings: SettingsHere) -> Response[bytes]:
    """A worker writes the file. One idempotency key makes one job, for as long as the job is kept."""
    order = await export_order.read(request)
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
        msgspec.json.encode(view(settings, job)),
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
async def list_exports(request: Request, db_pool: PoolHere, settings: SettingsHere) -> Response[bytes]:
    asked = parameters.parse(request.query_params.multi_items(), ListParameters)
    async with db_pool.connection() as conn:
        found = await exports.newest(
            conn,
            status=asked.status,
            resource=asked.resource,
            before=answers.id_cursor(asked.cursor),
            limit=asked.limit + 1,
        )
    return answers.jobs(request, "exports", found, asked.limit, lambda job: view(settings, job))


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
async def get_export(request: Request, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere) -> Response[bytes]:
    parameters.parse(request.query_params.multi_items(), NoParameters)
    job = await existing(db_pool, id)
    return answers.job(request, view(settings, job), is_final=job.status in FINAL)


@get(
    f"{PATH}/{{id:str}}/download",
    operation_class=DownloadOperation,
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
        307: ResponseSpec(None, description="The file is in a bucket: at `Location`, for ten minutes"),
        **responses(
            "invalid-request",
            "not-found",
            "export-not-ready",
            "export-expired",
            "range-not-satisfiable",
            "unavailable",
        ),
    },
)
async def download_export(
    request: Request, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere
) -> ASGIResponse:
    """Takes one Range, and If-Range with the ETag, so that a download that broke can go on."""
    parameters.parse(request.query_params.multi_items(), NoParameters)
    job = await existing(db_pool, id)
    download = _download(job, settings)
    try:
        return await files.answer(request, download, may_redirect=settings.export_download == "redirect")
    except FileNotFoundError:
        log.error("export_file_missing", job_id=str(job.id), file=job.file_name)
        raise Problem("not-found", "The file of this export is not where it was stored, or is not whole.") from None
    except storage.ERRORS as error:
        log.error("export_storage_unavailable", job_id=str(job.id), error=type(error).__name__)
        raise Problem("unavailable", "The storage of the files does not answer at present.") from None


def _check_replay(order: Order, job: Export, *, is_replay: bool) -> None:
    """Counts how the idempotency key was used. Raises `Problem` 422 when it is another order's."""
    if order.idempotency_token is None:
        return
    if is_replay and job.request_digest != order.digest:
        metrics.idempotency("reused")
        raise Problem("idempotency-key-reused", "This idempotency key belongs to another export.")
    metrics.idempotency("replayed" if is_replay else "created")


def _download(job: Export, settings: Settings) -> files.Download:
    """The job's file. Raises `Problem` 409, since nobody is given a file before its job is completed, and 410."""
    if job.status == "expired":
        raise Problem("export-expired", "The file of this export was removed; order it again.")
    if (
        job.status != "completed"
        or job.file_name is None
        or job.file_bytes is None
        or job.file_sha256 is None
        or job.snapshot_at is None
    ):
        raise Problem("export-not-ready", f"The export is {job.status}.")
    return files.Download(
        storage=storage.of(settings),
        key=job.file_name,
        bytes=job.file_bytes,
        sha256=job.file_sha256,
        media_type=export_files.media_type(job.format, job.compression),
        name=export_files.export_name(job.resource, job.format, job.snapshot_at, job.compression),
    )


HANDLERS = [stream_export, create_export, list_exports, get_export, download_export]
