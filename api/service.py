"""`GET /service`: what a person asks of a running service: is it ready, what waits, which limits hold, what may my key do."""

import time
from typing import Literal

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec

from api import health
from api.http import auth, parameters, responses
from api.http.dependencies import SettingsHere
from api.http.headers import AnyRequest
from api.http.problems import problem_responses
from db.settings import Settings

PATH = "/api/v1/service"


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """The key of the request. `name` is null for a key that was set without one."""

    name: str | None
    role: Literal["admin", "read"]


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs and chunks that are not final. `oldest_seconds`: since the oldest waiting chunk can be claimed.

    `workers` is the number of connected workers; null where a pooler hides them.
    """

    imports_uploading: int
    imports_waiting: int
    imports_running: int
    exports_waiting: int
    exports_running: int
    chunks_waiting: int
    chunks_running: int
    records_left: dict[str, int]
    oldest_seconds: float
    workers: int | None


class LimitsView(msgspec.Struct, frozen=True, kw_only=True):
    """The settings with the same names in capitals."""

    upload_max_bytes: int
    record_max_bytes: int
    json_body_max_bytes: int
    record_errors_max: int
    import_errors_max: int
    uploads_max: int
    queue_jobs_max: int
    queue_bytes_max: int
    export_jobs_max: int
    streams_max: int
    batch_size: int
    job_retention_seconds: float
    export_retention_seconds: float
    ticket_seconds: float


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """`status` and `checks` are those of `/ready`. `queue` is null while the database does not reply, `key` without API keys."""

    status: Literal["ready", "unavailable", "draining"]
    checks: health.Checks
    version: str
    uptime_seconds: float
    key: KeyView | None
    queue: QueueView | None
    limits: LimitsView


@get(
    PATH,
    tags=["operations"],
    summary="Describe the service",
    responses={
        200: ResponseSpec(ServiceView, description="The service", generate_examples=False),
        **problem_responses("invalid-request", "unavailable"),
    },
)
async def get_service(request: AnyRequest, probe: health.ProbeHere, settings: SettingsHere) -> Response[bytes]:
    """Its state, its queue, its limits, and the role of the key. 200 also while the service is not ready."""
    parameters.query(request)
    readiness = await probe.readiness()
    key = auth.api_key(request.scope)
    view = ServiceView(
        status=readiness.status,
        checks=readiness.checks,
        version=health.version(),
        uptime_seconds=round(time.monotonic() - probe.started, 1),
        key=key and KeyView(name=key.name, role=key.role),
        queue=await _queue(probe, settings),
        limits=LimitsView(**{name: getattr(settings, name) for name in LimitsView.__struct_fields__}),
    )
    return Response(msgspec.json.encode(view), media_type=responses.JSON)


async def _queue(probe: health.Probe, settings: Settings) -> QueueView | None:
    queue, server = await probe.numbers()
    if queue is None:
        return None
    return QueueView(
        imports_uploading=queue.jobs["import", "uploading"],
        imports_waiting=queue.jobs["import", "pending"],
        imports_running=queue.jobs["import", "processing"],
        exports_waiting=queue.jobs["export", "pending"],
        exports_running=queue.jobs["export", "processing"],
        chunks_waiting=queue.chunks["pending"],
        chunks_running=queue.chunks["running"],
        records_left=queue.records_left,
        oldest_seconds=round(queue.oldest_seconds, 1),
        workers=server.worker_sessions if server and settings.database_pooler == "none" else None,
    )


HANDLERS = [get_service]
