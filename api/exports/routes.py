"""Export jobs: create, list, get, download the file."""

import msgspec
import structlog
from litestar import Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import UNSET, UnsetType
from uuid_utils.compat import uuid7

from api.exports import download
from api.exports.admission import check_jobs
from api.exports.download import Download
from api.exports.request import ExportParameters, read, watermark_expired
from api.exports.view import PATH, RECORD_FILES, ExportView, get_or_404, summary, view
from api.http import parameters, responses, sse, tracing
from api.http.dependencies import PoolHere, SettingsHere, StoppingHere
from api.http.headers import AnyRequest
from api.http.operations import BINARY, json_body, operation
from api.http.parameters import ListParameters
from api.http.problems import Problem, problem_responses
from db import queue
from db.connections.pool import Connection, repeatable
from db.exports import files, jobs, storage, watermarks
from db.exports.jobs import Export, ExportJobCounts, ExportRequest
from db.exports.watermarks import Watermark
from db.jobs import JobFilter
from db.settings import Settings
from monitoring import metrics

log = structlog.get_logger(__name__)

# a compressed file has the media type of its compression
FILES = RECORD_FILES | {"application/gzip": BINARY, "application/zstd": BINARY}


class ExportPage(msgspec.Struct, kw_only=True):
    exports: list[ExportView]
    next_cursor: str | None
    counts: ExportJobCounts | UnsetType = UNSET


class ExportListParameters(ListParameters, kw_only=True):
    status: jobs.Status | None = None


@post(
    PATH,
    status_code=202,
    operation_class=operation(body=json_body(ExportParameters)),
    tags=["exports"],
    summary="Create an export",
    responses={
        202: ResponseSpec(ExportView, description="Accepted; the export job", generate_examples=False),
        200: ResponseSpec(
            ExportView, description="A repeated request; the existing export job", generate_examples=False
        ),
        **problem_responses(
            "invalid-request",
            "watermark-expired",
            "payload-too-large",
            "unsupported-format",
            "idempotency-key-reused",
            "too-many-requests",
            "unavailable",
        ),
    },
)
async def create_export(request: AnyRequest, db_pool: PoolHere, settings: SettingsHere) -> Response[bytes]:
    """A worker writes the file. Requests with the same idempotency key create one job, as long as that job exists."""
    requested = await read(request)
    id = uuid7()

    async def store(conn: Connection) -> Export | None:
        if await jobs.create(conn, id, requested):
            # raised within the transaction, which also removes the new job
            check_jobs(settings, await jobs.live(conn))
            await _check_watermark(conn, requested)
        return await jobs.get(conn, id) or await jobs.by_token(conn, requested.idempotency_token or "")

    job = await queue.submit(db_pool, store)
    if job is None:
        raise Problem("not-found", "The export was deleted meanwhile.")
    is_replay = job.id != id
    _check_replay(requested, job, is_replay=is_replay)
    tracing.note_job(request.scope, "export", job.id, job.resource, is_replay=is_replay)
    return responses.accepted(await view(db_pool, settings, job), is_final=job.is_final, is_replay=is_replay)


@get(
    PATH,
    operation_class=operation(query=ExportListParameters),
    tags=["exports"],
    summary="List exports, newest first",
    responses=responses.document_page(ExportPage),
)
async def list_exports(request: AnyRequest, db_pool: PoolHere, settings: SettingsHere) -> Response[bytes]:
    """One page; `next_cursor` is the cursor of the next page, null on the last one."""
    requested = parameters.query(request, ExportListParameters)
    wanted = JobFilter(
        status=requested.status,
        resource=requested.resource,
        created_after=requested.created_after,
        created_before=requested.created_before,
    )
    before = responses.id_cursor(requested.cursor)

    async def read_page(conn: Connection) -> tuple[list[Export], ExportJobCounts | None]:
        newest = await jobs.newest(conn, wanted, before=before, limit=requested.limit + 1)
        return newest, await jobs.counts(conn, wanted) if requested.counts else None

    newest, counts = await repeatable(db_pool, read_page)
    return responses.jobs(
        request, "exports", newest, requested.limit, lambda job: summary(settings, job), counts=counts
    )


@get(
    f"{PATH}/{{id:str}}",
    tags=["exports"],
    summary="Get an export",
    responses=responses.document_job(ExportView),
)
async def get_export(
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere
) -> Response[bytes]:
    """The current state. Poll it with If-None-Match; Retry-After is absent when the job is final."""
    parameters.query(request)
    job = await get_or_404(db_pool, id)
    return responses.job(request, await view(db_pool, settings, job), is_final=job.is_final)


@get(
    f"{PATH}/{{id:str}}/download",
    operation_class=operation(files={"200": FILES, "206": FILES}),
    tags=["exports"],
    summary="Download the file of an export",
    responses={
        200: ResponseSpec(bytes, description="The file", media_type="application/x-ndjson", generate_examples=False),
        206: ResponseSpec(
            bytes, description="The requested range", media_type="application/x-ndjson", generate_examples=False
        ),
        304: ResponseSpec(None, description="Not modified"),
        307: ResponseSpec(None, description="The file is in a bucket; `Location` is valid for ten minutes"),
        **problem_responses(
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
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere
) -> ASGIResponse:
    """Supports a single Range, and If-Range with the ETag, to resume an interrupted download."""
    parameters.query(request)
    job = await get_or_404(db_pool, id)
    file = _file(job, settings)
    try:
        return await download.respond(request, file, may_redirect=settings.export_download == "redirect")
    except FileNotFoundError:
        log.error("export file missing", job_id=str(job.id), file=job.file_name)
        raise Problem("not-found", "The file of this export is missing or incomplete.") from None
    except storage.ERRORS as error:
        log.error("export storage unavailable", job_id=str(job.id), error=type(error).__name__)
        raise Problem("unavailable", "The storage of export files is not available.") from None


@get(
    f"{PATH}/{{id:str}}/events",
    operation_class=sse.EventsOperation,
    tags=["exports"],
    summary="Follow an export by server-sent events",
    responses=sse.RESPONSES,
)
async def get_export_events(
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere, stopping: StoppingHere
) -> ASGIResponse:
    """Each event has the export as JSON: `progress` whenever it has changed, `done` when it is final."""
    parameters.query(request)
    source = sse.EventSource(
        get=jobs.get,
        event_id=_event_id,
        summary=lambda job: summary(settings, job),
        full=lambda job: view(db_pool, settings, job),
    )
    return sse.follow(request, source, await get_or_404(db_pool, id), db_pool, stopping)


def _event_id(job: Export) -> str:
    """Changes whenever the job does."""
    return f"{job.status}-{job.exported_records or 0}"


async def _check_watermark(conn: Connection, requested: ExportRequest) -> None:
    """Raises `Problem` 410 if the export could not continue from its watermark."""
    if requested.changed_since is None:
        return
    try:
        await watermarks.begin(conn, Watermark.parse(requested.changed_since))
    except watermarks.Expired as error:
        raise watermark_expired(error) from None


def _check_replay(requested: ExportRequest, job: Export, *, is_replay: bool) -> None:
    """Counts the use of the idempotency key. Raises `Problem` 422 if it belongs to a different request."""
    if requested.idempotency_token is None:
        return
    if is_replay and job.request_digest != requested.digest:
        metrics.idempotency("reused")
        raise Problem("idempotency-key-reused", "This idempotency key belongs to another export.")
    metrics.idempotency("replayed" if is_replay else "created")


def _file(job: Export, settings: Settings) -> Download:
    """The file of a completed job. Raises `Problem` 409 before the job is completed and 410 after the file has expired."""
    if job.status == "expired":
        raise Problem("export-expired", "The file of this export has expired. Create a new export.")
    if (
        job.status != "completed"
        or job.file_name is None
        or job.file_bytes is None
        or job.file_sha256 is None
        or job.snapshot_at is None
    ):
        raise Problem("export-not-ready", f"The export is {job.status}.")
    return Download(
        storage=storage.of(settings),
        key=job.file_name,
        bytes=job.file_bytes,
        sha256=job.file_sha256,
        media_type=files.media_type(job.format, job.compression),
        name=files.download_name(job.resource, job.format, job.snapshot_at, job.compression),
    )


HANDLERS = [create_export, list_exports, get_export, get_export_events, download_export]
