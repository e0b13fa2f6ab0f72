"""The exceptions of the client. A problem document (RFC 9457) is raised as the class of its status."""

from typing import Any


class BulkError(Exception):
    """The base of all exceptions of the client."""


class Disconnected(BulkError):
    """The service could not be reached, or the connection broke, until the retries ended."""


class IncompleteDownload(BulkError):
    """A download or stream ended early, or its digest is wrong. No file was created."""


class WaitTimeout(BulkError):
    """The job was not final before the timeout. The job continues."""

    def __init__(self, job_id: str, seconds: float) -> None:
        super().__init__(f"{job_id} is not final after {seconds:g} s")
        self.job_id = job_id


class ProblemError(BulkError):
    """The service refused a request.

    `status` is the HTTP status, `type` the last part of the problem's type, such as `invalid-request`, `errors` the single
    errors, if any, each with `field`, `code` and `message`. `document` is the whole problem document.
    """

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        self.status = status
        self.document = document
        self.type = str(document.get("type", "")).rpartition("/")[2]
        self.title = str(document.get("title", f"HTTP status {status}"))
        self.detail = document.get("detail")
        self.errors: list[dict[str, Any]] = document.get("errors") or []
        self.request_id = document.get("request_id")
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        named = [f"{error['field']}: {error['message']}" for error in self.errors if error.get("field")]
        detail = "; ".join(named) or self.detail
        return f"{self.title.rstrip('.')}: {detail}" if detail else self.title


class InvalidRequest(ProblemError):
    """400, 406, 413, 415, 416 or 422: the request or its file is invalid or not supported."""


class Unauthorized(ProblemError):
    """401: the key is missing or wrong."""


class Forbidden(ProblemError):
    """403: the key does not permit this, or the service may not read this source."""


class NotFound(ProblemError):
    """404 or 410: there is no such job, or its file was deleted."""


class Conflict(ProblemError):
    """409: the job's state does not allow it."""


class TooManyRequests(ProblemError):
    """429: a limit was exceeded until the retries ended."""


class Unavailable(ProblemError):
    """502, 503 or 504: the service was unavailable until the retries ended."""


class ServerError(ProblemError):
    """Any other 5xx: an internal error of the service, which its log has under the request id."""


BY_STATUS: dict[int, type[ProblemError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def problem(status: int, document: dict[str, Any]) -> ProblemError:
    """The exception for a refused request."""
    kind = BY_STATUS.get(status, ServerError if status >= 500 else InvalidRequest)
    return kind(status, document)
