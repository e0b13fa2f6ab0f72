"""HTTP requests that are repeated while the service is unreachable."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from api.client import errors

CONNECT_SECONDS = 10.0
# a stream of events has a comment every 15 s, and the response to an upload follows after its last byte was stored
READ_SECONDS = 60.0
BACKOFF_SECONDS_MIN = 0.2
BACKOFF_SECONDS_MAX = 10.0
ERROR_BODY_BYTES_MAX = 1 << 20
RETRIED_STATUSES = frozenset({429, 502, 503, 504})

Content = Callable[[], Iterator[bytes]]


class Transport:
    """Requests to one service with one key. A request is repeated for at most `retry_seconds`.

    Each request of the API may be repeated: an upload and a new export carry an idempotency key, and repeating a retry, commit,
    cancel or delete has no further effect. `on_retry` is called with a message before each pause whose cause is a new one.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        retry_seconds: float,
        on_retry: Callable[[str], None] | None,
    ) -> None:
        self.retry_seconds = retry_seconds
        self.on_retry = on_retry
        # after decompression the length would not show whether a response is complete
        headers = {"Accept-Encoding": "identity", "User-Agent": "bulk-client"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.http = httpx.Client(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        )

    @property
    def url(self) -> str:
        return str(self.http.base_url).rstrip("/")

    def json(self, method: str, path: str, **options: Any) -> tuple[dict[str, Any], httpx.Headers]:
        """The JSON object of the response, and its headers. Raises `ProblemError` or `Disconnected`."""
        with self.stream(method, path, is_read_whole=True, **options) as response:
            return (response.json() if response.content else {}), response.headers

    def pages(self, path: str, params: dict[str, str]) -> Iterator[dict[str, Any]]:
        """The pages of a list."""
        cursor: dict[str, str] = {}
        while True:
            page, _ = self.json("GET", path, params=params | cursor)
            yield page
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        content: Content | None = None,
        is_read_whole: bool = False,
        read_seconds: float = READ_SECONDS,
        retry_seconds: float | None = None,
        **options: Any,
    ) -> Iterator[httpx.Response]:
        """The response to a request; its body is read by the caller, unless `is_read_whole`.

        Repeats the request until the head of the response is received, or with `is_read_whole` its body too. `content` returns
        the body for each attempt. Raises `ProblemError` if the service refuses it and `Disconnected` when the retries end.
        """
        options["timeout"] = httpx.Timeout(read_seconds, connect=CONNECT_SECONDS)
        deadline = time.monotonic() + (self.retry_seconds if retry_seconds is None else retry_seconds)
        attempt = 0
        reported = ""
        while True:
            pause = backoff(attempt)
            try:
                request = self.http.build_request(method, path, content=content() if content else None, **options)
                response = self.http.send(request, stream=True, follow_redirects=method == "GET")
                if response.status_code < 400:
                    if is_read_whole:
                        response.read()
                    break
                failure: errors.BulkError = _refusal(response)
                if not _is_temporary(failure):
                    raise failure
                pause = _retry_after(response) or pause
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise errors.Disconnected(f"{self.url} is not an http or https address") from error
            except httpx.TransportError as error:
                failure = errors.Disconnected(f"{self.url}: {_reason(error)}")
            if time.monotonic() + pause > deadline:
                raise failure
            if self.on_retry and str(failure) != reported:
                reported = str(failure)
                self.on_retry(f"{failure}; trying again")
            attempt += 1
            time.sleep(pause)
        try:
            yield response
        finally:
            response.close()

    def close(self) -> None:
        self.http.close()


def backoff(attempt: int) -> float:
    """Seconds to wait before attempt `attempt` + 2: doubled each time, with jitter."""
    return min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311


def _is_temporary(failure: errors.ProblemError) -> bool:
    return failure.status in RETRIED_STATUSES or failure.type == "idempotency-in-progress"


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _refusal(response: httpx.Response) -> errors.ProblemError:
    """The exception for a response with an error status. Reads its body, as far as that succeeds."""
    body = b""
    try:
        for block in response.iter_raw():
            body += block
            if len(body) > ERROR_BODY_BYTES_MAX:
                break
    except httpx.TransportError:
        body = b""
    finally:
        response.close()
    document: Any = None
    if "json" in response.headers.get("content-type", ""):
        try:
            document = httpx.Response(200, content=body).json()
        except ValueError:
            document = None
    if not isinstance(document, dict):
        document = {"title": response.reason_phrase or "The request was refused", "status": response.status_code}
    return errors.problem(response.status_code, document)


def _reason(error: httpx.TransportError) -> str:
    """A short sentence for a failed connection."""
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError):
        return "connection refused" if "refused" in str(error) else f"no connection ({error})"
    return f"the connection broke ({error})" if str(error) else "the connection broke"
