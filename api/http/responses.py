"""Responses about jobs, the same for imports and exports: accepted requests, conditional GET, pages with cursors."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Response
from litestar.openapi.datastructures import ResponseSpec

import db.jobs
from api.http.headers import AnyRequest, matches_etag
from api.http.problems import Problem, invalid, problem_responses
from db.connections.pool import Connection, Pool, repeatable
from db.errors import UNAVAILABLE
from db.jobs import Kind
from db.settings import Settings
from db.webhooks import deliveries
from db.webhooks.deliveries import DeliveryState

JSON = "application/json"
# a job that is not final is worth polling after this time
RETRY_AFTER = {"Retry-After": "1"}

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def document_page(page: type[msgspec.Struct]) -> dict[int, ResponseSpec]:
    """The documented responses of a list of jobs."""
    return {
        200: ResponseSpec(page, description="A page", generate_examples=False),
        **problem_responses("invalid-request", "unavailable"),
    }


def document_job(view: type[msgspec.Struct]) -> dict[int, ResponseSpec]:
    """The documented responses of `job`."""
    return {
        200: ResponseSpec(view, description="The job", generate_examples=False),
        304: ResponseSpec(None, description="Not modified"),
        **problem_responses("invalid-request", "not-found", "unavailable"),
    }


def document_cancel(view: type[msgspec.Struct]) -> dict[int, ResponseSpec]:
    """The documented responses of a route that cancels a job."""
    return {
        202: ResponseSpec(view, description="Accepted; the job", generate_examples=False),
        **problem_responses("invalid-request", "not-found", "already-final", "unavailable"),
    }


def document_delete() -> dict[int, ResponseSpec]:
    """The documented responses of a route that deletes a job."""
    return {
        204: ResponseSpec(None, description="Deleted"),
        **problem_responses("invalid-request", "not-found", "not-final", "unavailable"),
    }


class Job(Protocol):
    """What responses and events need of an import or an export."""

    @property
    def id(self) -> UUID: ...
    @property
    def is_final(self) -> bool: ...


class JobView(Protocol):
    """What responses need of the JSON representation of a job."""

    @property
    def links(self) -> dict[str, str]: ...


J = TypeVar("J", bound=Job)


def accepted(
    view: JobView,
    *,
    is_final: bool,
    is_replay: bool = False,
    is_result: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Response[bytes]:
    """The response to a request that created or changed a job: 202 with its Location.

    200 when the job existed already (`is_replay`), or when the client waited for the result and this is it (`is_result`).
    """
    return Response(
        msgspec.json.encode(view),
        status_code=200 if is_replay or is_result else 202,
        headers={
            "Location": view.links["self"],
            **({} if is_final else RETRY_AFTER),
            **({"Idempotent-Replayed": "true"} if is_replay else {}),
            **(headers or {}),
        },
        media_type=JSON,
    )


def job(request: AnyRequest, view: JobView, *, is_final: bool) -> Response[bytes]:
    """The current state of a job with an ETag; 304 if that is the client's. Retry-After while it can still change."""
    body = msgspec.json.encode(view)
    etag = hashlib.sha256(body).hexdigest()[:32]
    headers = {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache", **({} if is_final else RETRY_AFTER)}
    if matches_etag(request, etag):
        return Response(b"", status_code=304, headers=headers, media_type=JSON)
    return Response(body, headers=headers, media_type=JSON)


def page(request: AnyRequest, name: str, items: Sequence[Any], next_cursor: str | None, **more: Any) -> Response[bytes]:
    """A page of a list as `{name: items, "next_cursor": …}`, with a Link header to the next page."""
    headers: dict[str, str] = {}
    if next_cursor is not None:
        query = dict(request.query_params.items()) | {"cursor": next_cursor}
        headers["Link"] = f'<{request.url.path}?{urlencode(query)}>; rel="next"'
    body = msgspec.json.encode({name: items, "next_cursor": next_cursor, **more})
    return Response(body, headers=headers, media_type=JSON)


def jobs(
    request: AnyRequest,
    name: str,
    newest: list[J],
    limit: int,
    view: Callable[[J], Any],
    *,
    counts: msgspec.Struct | None,
) -> Response[bytes]:
    """A page of jobs, with the `counts` if there are any.

    `newest` has up to `limit` + 1 jobs; the last one only shows that there is a next page.
    """
    shown = newest[:limit]
    cursor = str(shown[-1].id) if len(newest) > limit else None
    return page(request, name, [view(job) for job in shown], cursor, **({"counts": counts} if counts else {}))


def id_cursor(cursor: str | None) -> UUID | None:
    """The id of the last job on the previous page. Raises `Problem` 400."""
    if cursor is None:
        return None
    if not _ID.fullmatch(cursor):
        raise invalid_cursor()
    return UUID(cursor)


def invalid_cursor() -> Problem:
    return invalid("cursor", "is not the next_cursor of a page")


async def get_or_404(pool: Pool, get: Callable[[Connection, UUID], Awaitable[J | None]], id: str, kind: Kind) -> J:
    """The job with the id from the path. Raises `Problem` 404."""
    number = job_id(id, kind)
    job = await repeatable(pool, lambda conn: get(conn, number))
    if job is None:
        raise not_found(kind)
    return job


async def waiting_for(pool: Pool, settings: Settings, kind: Kind, job: Job) -> str | None:
    """Why the job is not final yet. None if it is final, and as `reason`."""
    if job.is_final:
        return None
    return await reason(pool, settings, lambda conn: db.jobs.waiting_for(conn, kind, job.id))


async def reason(pool: Pool, settings: Settings, read: Callable[[Connection], Awaitable[str | None]]) -> str | None:
    """The reason for waiting that `read` returns. None behind a pooler, where workers cannot be counted.

    None also while the database is unavailable: the rest of the job is known, and an accepted request is not answered with 503.
    """
    if settings.database_pooler != "none":
        return None
    try:
        return await repeatable(pool, read)
    except UNAVAILABLE:
        return None


async def webhooks(pool: Pool, settings: Settings, kind: Kind, job: Job) -> list[DeliveryState]:
    """The deliveries of the job's end. Empty before it, without WEBHOOKS, and as above while the database is unavailable."""
    if not job.is_final or not settings.webhook_endpoints:
        return []
    try:
        async with pool.connection() as conn:
            return await deliveries.of_job(conn, kind, job.id)
    except UNAVAILABLE:
        return []


def job_id(id: str, kind: Kind) -> UUID:
    """The id from the path. Text that is not an id cannot name a job: raises `Problem` 404."""
    if not _ID.fullmatch(id):
        raise not_found(kind)
    return UUID(id)


def not_found(kind: str, by: str = "id") -> Problem:
    return Problem("not-found", f"No {kind} has this {by}.")


def not_final(kind: Kind, status: str) -> Problem:
    return Problem("not-final", f"The {kind} is {status}. Cancel it first, or wait until it is final.")
