"""What goes wrong, as exceptions. A problem document (RFC 9457) becomes the class of its status."""

from typing import Any


class BulkError(Exception):
    """The base of all exceptions of the client."""


class Disconnected(BulkError):
    """The service could not be reached, or the connection broke, until the retries ended."""


class IncompleteDownload(BulkError):
    """A download or stream ended before it was whole, or its digest is wrong. No file was left behind."""


class WaitTimeout(BulkError):
    """The job was not final when the time to wait was over. The job goes on."""

    def __init__(self, job_id: str, seconds: float) -> None:
        super().__init__(f"{job_id} is not final after {seconds:g} s")
        self.job_id = job_id


class ProblemError(BulkError):
    """The service refused a request.

    `status` is the HTTP status, `type` the last part of the problem's type, such as `invalid-request`, `errors` the faults
    that the service could name, each with `field`, `code` and `message`. `document` is the whole problem document.
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
    """400, 406, 413, 415, 416 or 422: the request or its file cannot be taken as it is."""


class Unauthorized(ProblemError):
    """401: there is no key, or the key is wrong."""


class Forbidden(ProblemError):
    """403: the key may not do this."""


class NotFound(ProblemError):
    """404 or 410: there is no such job, or its file was removed."""


class Conflict(ProblemError):
    """409: the job's state does not allow it."""


class TooManyRequests(ProblemError):
    """429: a limit was reached, until the retries ended."""


class Unavailable(ProblemError):
    """502, 503 or 504: the service cannot answer now, until the retries ended."""


class ServerError(ProblemError):
    """Any other 5xx: a fault of the service. The request id finds it in its log."""


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
