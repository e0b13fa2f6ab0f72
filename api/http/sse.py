"""A job as server-sent events: `progress` whenever something has changed, then `done`."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, Protocol, TypeVar
from uuid import UUID

import msgspec
import structlog
from litestar import Request, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Meta

from api.exports import view as export_view
from api.http import parameters
from api.http.dependencies import PoolHere, SettingsHere, StoppingHere
from api.http.parameters import NoParameters
from api.http.problems import responses
from api.http.streaming import BlockStream
from api.imports.view import PATH, brief, existing, view
from db.connections.pool import Connection, Pool
from db.errors import UNAVAILABLE
from db.exports import jobs
from db.exports.jobs import Export
from db.imports import jobs as imports
from db.imports.jobs import Import
from monitoring import throttle

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
# proxies take a connection that is silent for longer than that for dead
HEARTBEAT_SECONDS = 15
# how soon a client that lost its connection should come back
RETRY = b"retry: 1000\n\n"
HEARTBEAT = b": still here\n\n"


class Event(msgspec.Struct, kw_only=True):
    """One event of the stream."""

    event: Literal["progress", "done"]
    id: str
    data: Annotated[str, Meta(description="The job, as JSON.")]


@dataclass
class EventsOperation(Operation):
    def __post_init__(self) -> None:
        self.parameters = [
            *(self.parameters or []),
            Parameter(
                name="Last-Event-ID",
                param_in="header",
                required=False,
                description="The id of the last event that the client has seen.",
                schema=Schema(type=OpenAPIType.STRING),
            ),
        ]


RESPONSES = {
    200: ResponseSpec(
        Event,
        description="The events, of which each is so",
        media_type="text/event-stream",
        generate_examples=False,
    ),  # pyright: ignore[reportArgumentType]  # its enum does not know this one
    204: ResponseSpec(None, description="The client has seen the end, and need not come back"),
    **responses("invalid-request", "not-found", "unavailable"),
}


class _Job(Protocol):
    @property
    def id(self) -> UUID: ...
    @property
    def status(self) -> str: ...


J = TypeVar("J", bound=_Job)


@dataclass(frozen=True, slots=True)
class _Subject(Generic[J]):
    """What can be followed: how to look at it, and how to tell it, in short and as it ended."""

    get: Callable[[Connection, UUID], Awaitable[J | None]]
    final: Collection[str]
    event_id: Callable[[J], str]
    brief: Callable[[J], bytes]
    whole: Callable[[J], Awaitable[bytes]]


@get(
    f"{PATH}/{{id:str}}/events",
    operation_class=EventsOperation,
    tags=["imports"],
    summary="Follow an import by server-sent events",
    responses=RESPONSES,
)
async def import_events(
    request: Request, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere, stopping: StoppingHere
) -> ASGIResponse:
    """`progress` has the import without its errors, `done` the import as it ended, with the first of them."""
    parameters.parse(request.query_params.multi_items(), NoParameters)

    async def whole(now: Import) -> bytes:
        return msgspec.json.encode(await view(db_pool, settings, now))

    subject = _Subject(
        get=imports.get,
        final=imports.FINAL,
        event_id=_import_event_id,
        brief=lambda now: msgspec.json.encode(brief(settings, now)),
        whole=whole,
    )
    return _follow(request, subject, await existing(db_pool, id), db_pool, stopping)


@get(
    f"{export_view.PATH}/{{id:str}}/events",
    operation_class=EventsOperation,
    tags=["exports"],
    summary="Follow an export by server-sent events",
    responses=RESPONSES,
)
async def export_events(
    request: Request, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere, stopping: StoppingHere
) -> ASGIResponse:
    """`progress` has the export as it is, `done` as it ended."""
    parameters.parse(request.query_params.multi_items(), NoParameters)

    async def whole(now: Export) -> bytes:
        return encoded(now)

    def encoded(now: Export) -> bytes:
        return msgspec.json.encode(export_view.view(settings, now))

    subject = _Subject(get=jobs.get, final=jobs.FINAL, event_id=_export_event_id, brief=encoded, whole=whole)
    return _follow(request, subject, await export_view.get_or_404(db_pool, id), db_pool, stopping)


def _follow(request: Request, subject: _Subject[J], job: J, pool: Pool, stopping: asyncio.Event) -> ASGIResponse:
    """An event tells how things stand, not a step, so a client that comes back needs nothing that it missed: it gets the
    state at once. Only `done` is not told twice: a browser comes back for ever after the end of a stream, unless it is told 204.
    """
    if job.status in subject.final and request.headers.get("last-event-id") == subject.event_id(job):
        return ASGIResponse(status_code=204)
    return BlockStream(
        _events(subject, job, pool, stopping),
        held=AsyncExitStack(),
        media_type="text/event-stream",
        # the last one keeps nginx from collecting events before it passes them on
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        status_code=200,
    )


async def _events(subject: _Subject[J], job: J, pool: Pool, stopping: asyncio.Event) -> AsyncIterator[bytes]:
    """The stream ends after `done`, when the job is removed, and when the process is told to stop."""
    yield RETRY
    told, told_at = "", time.monotonic()
    async for now in _looks(subject, job, pool, stopping):
        id = subject.event_id(now)
        if now.status in subject.final:
            yield _event("done", id, await subject.whole(now))
            return
        if id != told:
            yield _event("progress", id, subject.brief(now))
            told, told_at = id, time.monotonic()
        elif time.monotonic() - told_at >= HEARTBEAT_SECONDS:
            yield HEARTBEAT
            told_at = time.monotonic()


async def _looks(subject: _Subject[J], job: J, pool: Pool, stopping: asyncio.Event) -> AsyncIterator[J]:
    """The job now, and again and again. Between two looks no connection is held; a database that is away is waited for."""
    now: J | None = job
    while now is not None:
        yield now
        try:
            await asyncio.wait_for(stopping.wait(), POLL_SECONDS)
            return
        except TimeoutError:
            pass
        try:
            async with pool.connection() as conn:
                now = await subject.get(conn, job.id)
        except UNAVAILABLE as error:
            throttle.warning(log, "events_without_database", error=type(error).__name__)


def _event(name: str, id: str, data: bytes) -> bytes:
    return b"event: %s\nid: %s\ndata: %s\n\n" % (name.encode(), id.encode(), data)


def _import_event_id(job: Import) -> str:
    """Changes whenever the job does, and says how far it is."""
    counts = (job.created, job.updated, job.unchanged, job.skipped, job.failed, job.errors)
    return f"{job.status}-{job.processed + job.deferred}-{'.'.join(map(str, counts))}"


def _export_event_id(job: Export) -> str:
    """Likewise."""
    return f"{job.status}-{job.exported_records or 0}"


HANDLERS = [import_events, export_events]
