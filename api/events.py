"""An import as server-sent events: `progress` whenever something has changed, then `done`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import structlog
from litestar import Request, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Meta

from api import parameters
from api.errors import responses
from api.imports import PATH, DrainingHere, NoParameters, PoolHere, SettingsHere, brief, existing, view
from api.streaming import BlockStream
from db import imports
from db.errors import UNAVAILABLE
from db.imports import FINAL, Import
from db.pool import Pool
from db.settings import Settings

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
    data: Annotated[str, Meta(description="The import, as JSON.")]


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


@get(
    f"{PATH}/{{id:str}}/events",
    operation_class=EventsOperation,
    tags=["imports"],
    summary="Follow an import by server-sent events",
    responses={
        200: ResponseSpec(
            Event,
            description="The events, of which each is so",
            media_type="text/event-stream",
            generate_examples=False,
        ),  # pyright: ignore[reportArgumentType]  # its enum does not know this one
        204: ResponseSpec(None, description="The client has seen the end, and need not come back"),
        **responses("invalid-request", "not-found", "unavailable"),
    },
)
async def import_events(
    request: Request, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere, draining: DrainingHere
) -> ASGIResponse:
    """`progress` has the import without its errors, `done` the import as it ended, with the first of them.

    An event tells how things stand, not a step, so a client that comes back needs nothing that it missed: it gets the state
    at once. Only `done` is not told twice: a browser comes back for ever after the end of a stream, unless it is told 204.
    """
    parameters.parse(request.query_params.multi_items(), NoParameters)
    job = await existing(db_pool, id)
    if job.status in FINAL and request.headers.get("last-event-id") == _event_id(job):
        return ASGIResponse(status_code=204)
    return BlockStream(
        _events(db_pool, settings, job, draining),
        held=AsyncExitStack(),
        media_type="text/event-stream",
        # the last one keeps nginx from collecting events before it passes them on
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        status_code=200,
    )


async def _events(pool: Pool, settings: Settings, job: Import, draining: asyncio.Event) -> AsyncIterator[bytes]:
    """The stream ends after `done`, when the job is removed, and when the process is told to stop."""
    yield RETRY
    told, silent_seconds = "", 0.0
    async for now in _looks(pool, job, draining):
        if now.status in FINAL:
            yield _event("done", now, msgspec.json.encode(await view(pool, settings, now)))
            return
        silent_seconds += POLL_SECONDS
        if _event_id(now) != told:
            yield _event("progress", now, msgspec.json.encode(brief(settings, now)))
            told, silent_seconds = _event_id(now), 0.0
        elif silent_seconds >= HEARTBEAT_SECONDS:
            yield HEARTBEAT
            silent_seconds = 0.0


async def _looks(pool: Pool, job: Import, draining: asyncio.Event) -> AsyncIterator[Import]:
    """The job now, and again and again. Between two looks no connection is held; a database that is away is waited for."""
    now: Import | None = job
    while now is not None:
        yield now
        try:
            await asyncio.wait_for(draining.wait(), POLL_SECONDS)
            return
        except TimeoutError:
            pass
        try:
            async with pool.connection() as conn:
                now = await imports.get(conn, job.id)
        except UNAVAILABLE as error:
            log.warning("events_without_database", job_id=str(job.id), error=type(error).__name__)


def _event(name: str, job: Import, data: bytes) -> bytes:
    return b"event: %s\nid: %s\ndata: %s\n\n" % (name.encode(), _event_id(job).encode(), data)


def _event_id(job: Import) -> str:
    """Changes whenever the job does, and says how far it is."""
    counts = (job.created, job.updated, job.unchanged, job.skipped, job.failed, job.errors)
    return f"{job.status}-{job.processed + job.deferred}-{'.'.join(map(str, counts))}"


HANDLERS = [import_events]
