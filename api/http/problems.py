"""Error responses: RFC 9457 problem documents, built from one table of problem types."""

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

from db.errors import OUTDATED, READ_ONLY, UNAVAILABLE, UnsupportedDatabase, sqlstate
from monitoring import throttle

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

Slug = Literal[
    "invalid-request",
    "digest-mismatch",
    "unauthorized",
    "forbidden",
    "cross-origin",
    "source-not-allowed",
    "not-found",
    "method-not-allowed",
    "not-acceptable",
    "request-timeout",
    "idempotency-in-progress",
    "already-final",
    "not-final",
    "nothing-to-retry",
    "not-committable",
    "dry-run",
    "not-undoable",
    "undo-running",
    "not-undone",
    "nothing-to-repair",
    "already-repaired",
    "source-changed",
    "export-not-ready",
    "export-expired",
    "watermark-expired",
    "payload-too-large",
    "unsupported-format",
    "range-not-satisfiable",
    "misdirected-request",
    "idempotency-key-reused",
    "too-many-requests",
    "head-too-large",
    "internal-error",
    "unavailable",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """A problem type: its status, its title, and the headers of every response of this type."""

    status: int
    title: str
    headers: Mapping[str, str] = field(default_factory=dict)


KINDS: dict[Slug, Kind] = {
    "invalid-request": Kind(400, "The request is not valid"),
    "digest-mismatch": Kind(400, "The content does not match its digest"),
    "unauthorized": Kind(401, "A valid API key is required", {"WWW-Authenticate": "Bearer"}),
    "cross-origin": Kind(403, "Request from another origin"),
    "forbidden": Kind(403, "The API key does not allow this"),
    "source-not-allowed": Kind(403, "The source is not allowed"),
    "not-found": Kind(404, "Not found"),
    "method-not-allowed": Kind(405, "The method is not allowed here"),
    "not-acceptable": Kind(406, "No acceptable format"),
    "request-timeout": Kind(408, "Request timeout"),
    "idempotency-in-progress": Kind(409, "A request with this idempotency key is in progress", {"Retry-After": "1"}),
    "already-final": Kind(409, "The job is final"),
    "not-final": Kind(409, "The job is not final", {"Retry-After": "1"}),
    "nothing-to-retry": Kind(409, "The import has no records to retry"),
    "not-committable": Kind(409, "The import is not a completed dry run"),
    "dry-run": Kind(409, "The import is a dry run"),
    "not-undoable": Kind(409, "The import cannot be undone"),
    "undo-running": Kind(409, "The import is being undone", {"Retry-After": "1"}),
    "not-undone": Kind(409, "The import was not undone"),
    "nothing-to-repair": Kind(409, "The import has no refused records"),
    "already-repaired": Kind(409, "Another import has these records"),
    "source-changed": Kind(409, "The source has changed"),
    "export-not-ready": Kind(409, "The export is not ready", {"Retry-After": "1"}),
    "export-expired": Kind(410, "The export has expired"),
    "watermark-expired": Kind(410, "The watermark is not usable any more"),
    "payload-too-large": Kind(413, "The payload is too large"),
    "unsupported-format": Kind(415, "The format is not supported"),
    "range-not-satisfiable": Kind(416, "The range is not satisfiable"),
    "misdirected-request": Kind(421, "Unknown host name"),
    "idempotency-key-reused": Kind(422, "The idempotency key belongs to another request"),
    "too-many-requests": Kind(429, "Too many requests", {"Retry-After": "1"}),
    "head-too-large": Kind(431, "The request head is too large"),
    "internal-error": Kind(500, "Internal error"),
    "unavailable": Kind(503, "The service is not available", {"Retry-After": "5"}),
}

# the problem types of the framework's exceptions, by status
_SLUG_BY_STATUS: dict[int, Slug] = {
    401: "unauthorized",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    413: "payload-too-large",
    415: "unsupported-format",
    429: "too-many-requests",
    503: "unavailable",
}

# bounds on a problem document, because its texts quote what the client sent
DETAIL_MAX_CHARACTERS = 2000
FAULTS_MAX = 50
NAME_MAX_CHARACTERS = 100
MESSAGE_MAX_CHARACTERS = 500

# nginx's status for a client that closed the connection before the response; only in the log and the metrics
CLIENT_DISCONNECTED = 499


class Fault(msgspec.Struct, frozen=True):
    """One error of a request. `field` is the name of the parameter or header; None means the request as a whole."""

    field: str | None
    code: str
    message: str

    def truncated(self) -> "Fault":
        """A copy with bounded texts: the names are the client's and may have any length."""
        return Fault(
            self.field and _truncate(self.field, NAME_MAX_CHARACTERS),
            self.code,
            _truncate(self.message, MESSAGE_MAX_CHARACTERS),
        )


class ProblemDocument(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A problem document (RFC 9457). Some types have further members, documented where they are raised."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: Sequence[Fault] = ()


class Problem(Exception):
    """Raised while a request is handled; the response is a problem document.

    `slug` selects status, title and the headers of the type; `headers` are added to them, `extra` are further members.
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
        self.detail = _truncate(detail, DETAIL_MAX_CHARACTERS)
        self.errors = [fault.truncated() for fault in errors[:FAULTS_MAX]]
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


def _truncate(text: str, characters_max: int) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def request_id(scope: Scope) -> str:
    """The request id, set by `api.http.middleware`."""
    return scope["state"].get("request_id", "")


def invalid(field: str | None, message: str, code: str = "invalid_value") -> Problem:
    """A problem `invalid-request` with one error; the detail is the field's name followed by the message."""
    return invalid_request([Fault(field, code, message)])


def invalid_request(faults: Sequence[Fault]) -> Problem:
    """A problem `invalid-request` with these errors."""
    detail = "; ".join(f"{fault.field} {fault.message}" if fault.field else fault.message for fault in faults)
    return Problem("invalid-request", detail, errors=faults)


def limit_reached(limit: str, maximum: int, of_what: str, *, retry_seconds: int) -> Problem:
    """A problem `too-many-requests`: the setting `limit`, which is the `maximum`, is reached."""
    return Problem(
        "too-many-requests",
        f"The limit {limit} is reached: {maximum} {of_what}. Repeat the request after Retry-After.",
        headers={"Retry-After": str(retry_seconds)},
        limit=limit,
        maximum=maximum,
    )


def problem_responses(*slugs: Slug) -> dict[int, ResponseSpec]:
    """Documents the problem types that a handler can return, for its `responses=`."""
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


def _respond(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    if request.scope["state"].get("client_left") and isinstance(error, InternalServerException):
        # raised by the framework when the client disconnects while its body is read: no response can be sent
        return Response(b"", status_code=CLIENT_DISCONNECTED, media_type=MediaType.TEXT)
    problem = _problem(error)
    return Response(
        problem.body(request.scope), status_code=problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def _problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, UNAVAILABLE):
        throttle.warning(log, "database unavailable", error=type(error).__name__, sqlstate=sqlstate(error))
        reason = "is read-only" if isinstance(error, READ_ONLY) else "is not available"
        return Problem("unavailable", f"The database {reason}. Try again in a few seconds.")
    if isinstance(error, UnsupportedDatabase):
        throttle.warning(log, "database not supported", error=str(error))
        return Problem("unavailable", "The service does not work with its database as it is configured; see /ready.")
    if isinstance(error, OUTDATED):
        throttle.warning(log, "database schema outdated", error=type(error).__name__, sqlstate=sqlstate(error))
        return Problem("unavailable", "The database schema is not up to date yet. Try again in a few seconds.")
    if isinstance(error, HTTPException) and error.status_code < 500:
        return _from_framework(error)
    log.error("request failed", exc_info=error)
    return Problem("internal-error", "An unexpected error occurred. The log has the details under this request id.")


def _from_framework(error: HTTPException) -> Problem:
    slug = _SLUG_BY_STATUS.get(error.status_code, "invalid-request")
    details = {
        "not-found": "No such route.",
        "method-not-allowed": "This route does not support the method; see the header Allow.",
        "payload-too-large": "The request body is larger than this route accepts.",
    }
    faults = [
        Fault(item.get("key"), "invalid_value", str(item.get("message", "")))
        for item in (error.extra if isinstance(error.extra, list) else [])
        if isinstance(item, dict)
    ]
    return Problem(slug, details.get(slug, error.detail), errors=faults, headers=error.headers)


HANDLERS: ExceptionHandlersMap = {Exception: _respond}
