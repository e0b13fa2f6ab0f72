"""Server-sent events of a job: `progress` whenever it has changed, then `done`."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Generic
from uuid import UUID

import msgspec
import structlog
from litestar.openapi.datastructures import ResponseSpec
from litestar.response.base import ASGIResponse

from api.http.headers import AnyRequest
from api.http.operations import operation
from api.http.problems import problem_responses
from api.http.responses import J
from api.http.streaming import BlockStream
from db.connections.pool import Connection, Pool
from db.errors import UNAVAILABLE
from monitoring import throttle

log = structlog.get_logger(__name__)

MEDIA_TYPE = "text/event-stream"
POLL_SECONDS = 0.5
# proxies close connections that are idle for longer
HEARTBEAT_SECONDS = 15
# the client's delay before it reconnects, in milliseconds
RETRY = b"retry: 1000\n\n"
HEARTBEAT = b": heartbeat\n\n"

# for the OpenAPI document
EventsOperation = operation(headers={"Last-Event-ID": "The id of the last event that the client has received."})
RESPONSES = {
    200: ResponseSpec(
        str,
        description="Events `progress` and `done`, each with an `id` and the job as JSON in `data`",
        media_type=MEDIA_TYPE,  # pyright: ignore[reportArgumentType]  # its enum does not have this one
        generate_examples=False,
    ),
    204: ResponseSpec(None, description="The client has received `done`: it should not reconnect"),
    **problem_responses("invalid-request", "not-found", "unavailable"),
}


@dataclass(frozen=True, slots=True)
class EventSource(Generic[J]):
    """How a stream of events reads a job, and represents it in `progress` (`summary`) and in `done` (`full`)."""

    get: Callable[[Connection, UUID], Awaitable[J | None]]
    # changes whenever the job does
    event_id: Callable[[J], str]
    summary: Callable[[J], msgspec.Struct]
    full: Callable[[J], Awaitable[msgspec.Struct]]


def follow(request: AnyRequest, source: EventSource[J], job: J, pool: Pool, stopping: asyncio.Event) -> ASGIResponse:
    """The stream of the job's events.

    An event has the whole state and not a change, so a client that reconnects has missed nothing. `done` is not sent twice,
    because a browser reconnects after the end of every stream until it gets a 204.
    """
    if job.is_final and request.headers.get("last-event-id") == source.event_id(job):
        return ASGIResponse(status_code=204)
    return BlockStream(
        _events(source, job, pool, stopping),
        held=AsyncExitStack(),
        media_type=MEDIA_TYPE,
        # the last one disables nginx's buffering
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        status_code=200,
    )


async def _events(source: EventSource[J], job: J, pool: Pool, stopping: asyncio.Event) -> AsyncIterator[bytes]:
    """Ends after `done`, when the job is deleted, and when the process stops."""
    yield RETRY
    sent_id, sent_at = "", time.monotonic()
    async for current in _poll(source, job, pool, stopping):
        id = source.event_id(current)
        if current.is_final:
            yield _event("done", id, await source.full(current))
            return
        if id != sent_id:
            yield _event("progress", id, source.summary(current))
            sent_id, sent_at = id, time.monotonic()
        elif time.monotonic() - sent_at >= HEARTBEAT_SECONDS:
            yield HEARTBEAT
            sent_at = time.monotonic()


async def _poll(source: EventSource[J], job: J, pool: Pool, stopping: asyncio.Event) -> AsyncIterator[J]:
    """The job, read again every POLL_SECONDS. No connection is held in between; while the database is down, the poll goes on."""
    current: J | None = job
    while current is not None:
        yield current
        try:
            await asyncio.wait_for(stopping.wait(), POLL_SECONDS)
            return
        except TimeoutError:
            pass
        try:
            async with pool.connection() as conn:
                current = await source.get(conn, job.id)
        except UNAVAILABLE as error:
            throttle.warning(log, "event stream waits for the database", error=type(error).__name__)


def _event(name: str, id: str, view: msgspec.Struct) -> bytes:
    return b"event: %s\nid: %s\ndata: %s\n\n" % (name.encode(), id.encode(), msgspec.json.encode(view))
