"""Errors as clients see them: RFC 9457 problem documents, all made here, from one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import structlog
from litestar import Request, Response
from litestar.enums import MediaType
from litestar.exceptions import HTTPException, InternalServerException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap, Scope

from db.errors import OUTDATED, READ_ONLY, UNAVAILABLE, sqlstate
from monitoring import throttle

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

Slug = Literal[
    "invalid-request",
    "digest-mismatch",
    "unauthorized",
    "not-found",
    "method-not-allowed",
    "not-acceptable",
    "request-timeout",
    "idempotency-in-progress",
    "already-final",
    "not-final",
    "nothing-to-retry",
    "not-committable",
    "export-not-ready",
    "export-expired",
    "payload-too-large",
    "unsupported-format",
    "range-not-satisfiable",
    "idempotency-key-reused",
    "too-many-requests",
    "head-too-large",
    "internal-error",
    "unavailable",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: its status, its title, and the headers that belong to it whenever it occurs."""

    status: int
    title: str
    headers: Mapping[str, str] = field(default_factory=dict)


KINDS: dict[Slug, Kind] = {
    "invalid-request": Kind(400, "The request is not valid"),
    "digest-mismatch": Kind(400, "The content does not match its digest"),
    "unauthorized": Kind(401, "A valid API key is needed", {"WWW-Authenticate": "Bearer"}),
    "not-found": Kind(404, "Not found"),
    "method-not-allowed": Kind(405, "The method is not allowed here"),
    "not-acceptable": Kind(406, "No acceptable format"),
    "request-timeout": Kind(408, "The request came too slowly"),
    "idempotency-in-progress": Kind(409, "A request with this idempotency key is under way", {"Retry-After": "1"}),
    "already-final": Kind(409, "The job is final"),
    "not-final": Kind(409, "The job is not final", {"Retry-After": "1"}),
    "nothing-to-retry": Kind(409, "The import has no record left to be done again"),
    "not-committable": Kind(409, "The import is not a completed dry run"),
    "export-not-ready": Kind(409, "The export is not ready", {"Retry-After": "1"}),
    "export-expired": Kind(410, "The export has expired"),
    "payload-too-large": Kind(413, "The payload is too large"),
    "unsupported-format": Kind(415, "The format is not supported"),
    "range-not-satisfiable": Kind(416, "The range is not satisfiable"),
    "idempotency-key-reused": Kind(422, "The idempotency key belongs to another request"),
    "too-many-requests": Kind(429, "Too many requests", {"Retry-After": "1"}),
    "head-too-large": Kind(431, "The head of the request is too large"),
    "internal-error": Kind(500, "Internal error"),
    "unavailable": Kind(503, "The service is not available", {"Retry-After": "5"}),
}

# what the framework raises, by its status
_OF_STATUS: dict[int, Slug] = {
    401: "unauthorized",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    413: "payload-too-large",
    415: "unsupported-format",
    429: "too-many-requests",
    503: "unavailable",
}

# an answer tells so much, however much was wrong: what a client sent must not come back to it many times over
DETAIL_MAX_CHARACTERS = 2000
FAULTS_MAX = 50
NAME_MAX_CHARACTERS = 100

# What nginx calls a client that left before its answer. Nobody receives it; it stands in the log and in the metrics.
CLIENT_LEFT = 499


class Fault(msgspec.Struct, frozen=True):
    """One of several things that are wrong with a request. `field` is the parameter's name; None: the whole request."""

    field: str | None
    code: str
    message: str

    def cut(self) -> "Fault":
        """The same in a length that a client may be sent: names are its own, and may be of any length."""
        return Fault(self.field and _cut(self.field, NAME_MAX_CHARACTERS), self.code, _cut(self.message, 500))


class ProblemDocument(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A problem, as RFC 9457 has it. Some kinds have further members, told where they are raised."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: Sequence[Fault] = ()


class Problem(Exception):
    """Raised anywhere under a request, answered as a problem document.

    `slug` decides status, title and standing headers; `headers` are added to them, `extra` are further members.
    """

    def __init__(
        self,
        slug: Slug,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.slug: Slug = slug
        self.detail = _cut(detail, DETAIL_MAX_CHARACTERS)
        self.errors = [fault.cut() for fault in errors[:FAULTS_MAX]]
        self.headers = {**KINDS[slug].headers, **(headers or {})}
        self.extra = extra

    @property
    def status(self) -> int:
        return KINDS[self.slug].status

    def body(self, scope: Scope) -> bytes:
        """The document for the request of `scope`."""
        document = ProblemDocument(
            type=f"/problems/{self.slug}",
            title=KINDS[self.slug].title,
            status=self.status,
            detail=self.detail,
            instance=scope["path"],
            request_id=request_id(scope),
            errors=tuple(self.errors),
        )
        return msgspec.json.encode({**msgspec.to_builtins(document), **self.extra})


def _cut(text: str, characters_max: int) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def request_id(scope: Scope) -> str:
    """The id that `api.middleware` gave to the request of `scope`."""
    return scope["state"].get("request_id", "")


def responses(*slugs: Slug) -> dict[int, ResponseSpec]:
    """For a handler's `responses=`: the problems that it may answer, for the OpenAPI document."""
    titles: dict[int, list[str]] = {}
    for slug in slugs:
        titles.setdefault(KINDS[slug].status, []).append(f"{KINDS[slug].title} (`{slug}`)")
    return {
        status: ResponseSpec(
            data_container=ProblemDocument,
            description="; ".join(of_status),
            media_type=MEDIA_TYPE,  # pyright: ignore[reportArgumentType]  # its enum does not know this one
            generate_examples=False,
        )
        for status, of_status in titles.items()
    }


def _answer(request: Request, error: Exception) -> Response:
    if request.scope["state"].get("client_left") and isinstance(error, InternalServerException):
        # so the framework tells that the client left while its body was read: nobody is there to be answered
        return Response(b"", status_code=CLIENT_LEFT, media_type=MediaType.TEXT)
    problem = _problem(error)
    return Response(
        problem.body(request.scope), status_code=problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def _problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, UNAVAILABLE):
        throttle.warning(log, "database_unavailable", error=type(error).__name__, sqlstate=sqlstate(error))
        does_not = "take any writes" if isinstance(error, READ_ONLY) else "answer"
        return Problem("unavailable", f"The database does not {does_not} at present; try again in a few seconds.")
    if isinstance(error, OUTDATED):
        log.warning("database_outdated", error=type(error).__name__, sqlstate=sqlstate(error))
        return Problem("unavailable", "The database has not been upgraded yet; try again in a few seconds.")
    if isinstance(error, HTTPException) and error.status_code < 500:
        return _of_framework(error)
    log.error("request_failed", exc_info=error)
    return Problem("internal-error", "Something went wrong here. The request id will help to find it in the log.")


def _of_framework(error: HTTPException) -> Problem:
    slug = _OF_STATUS.get(error.status_code, "invalid-request")
    details = {
        "not-found": "There is nothing at this address.",
        "method-not-allowed": "This address does not know the method; see the header Allow.",
        "payload-too-large": "The body is larger than this address takes.",
    }
    faults = [
        Fault(item.get("key"), "invalid_value", str(item.get("message", "")))
        for item in (error.extra if isinstance(error.extra, list) else [])
        if isinstance(item, dict)
    ]
    return Problem(slug, details.get(slug, error.detail), errors=faults, headers=error.headers)


HANDLERS: ExceptionHandlersMap = {Exception: _answer}
