"""Applied to every request: a request id, metrics, a log line, a span, default headers, and HEAD.

Plain ASGI, around the whole application: the framework's own middleware does not see requests that match no route.
"""

import asyncio
import re
import time
from http import HTTPStatus
from typing import cast
from uuid import uuid4

import structlog
from litestar.datastructures import Headers, MutableScopeHeaders
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from api.http.problems import CLIENT_DISCONNECTED
from db.errors import UNAVAILABLE
from monitoring import metrics, tracing
from monitoring.tracing import Span

log = structlog.get_logger("access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# called every few seconds by probes and scrapes: counted, neither logged nor traced
_UNLOGGED = frozenset({"/live", "/ready", "/health", "/metrics"})
# defaults: responses with records or job data are not cached, and browsers do not guess another media type
_DEFAULT_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Observed:
    """Wraps `app`. Once `draining` is set, each response closes its connection."""

    def __init__(self, app: ASGIApp, draining: asyncio.Event) -> None:
        self.app = app
        self.draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(cast("HTTPScope", scope), receive, send, self.draining)
        metrics.http_requests_in_progress.inc()
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except (Exception, asyncio.CancelledError) as error:
            # the framework wraps what is raised after the response has begun
            cause = error.__cause__ or error
            if not exchange.is_half_sent or not isinstance(cause, (*UNAVAILABLE, asyncio.CancelledError)):
                raise
            # not a bug, so no traceback; the server closes the connection of an incomplete response
            log.warning("response aborted", route=exchange.route, error=type(cause).__name__)
        finally:
            metrics.http_requests_in_progress.dec()
            exchange.finish()


class _Exchange:
    """One request and its response.

    To the application a HEAD request is a GET request; the server sends the headers only, and the application sees the client
    disconnect as soon as it begins the body.
    """

    def __init__(self, scope: HTTPScope, receive: Receive, send: Send, draining: asyncio.Event) -> None:
        self.method = scope["method"]
        self.scope: HTTPScope = cast("HTTPScope", {**scope, "method": "GET"}) if self.method == "HEAD" else scope
        self._draining = draining
        self._receive = receive
        self._send = send
        self.started = time.perf_counter()
        self.status: int | None = None
        self.received_bytes = 0
        self.sent_bytes = 0
        self.complete = False
        headers = Headers.from_scope(scope)
        # without a read the server has not sent 100 Continue, and the client may leave its body out
        self._is_body_pending = headers.get("expect", "").lower() == "100-continue"
        requested = headers.get("x-request-id", "")
        self.request_id = requested if _REQUEST_ID.fullmatch(requested) else uuid4().hex
        scope["state"]["request_id"] = self.request_id
        scope["state"]["is_head"] = self.method == "HEAD"
        # requests of one connection share a context: clear what an earlier one has bound
        structlog.contextvars.clear_contextvars()
        self.span = self._start_span(headers)
        scope["state"]["span"] = self.span
        structlog.contextvars.bind_contextvars(request_id=self.request_id, **tracing.log_fields(self.span.traceparent))

    def _start_span(self, headers: Headers) -> Span:
        parent = tracing.received(headers.getall("traceparent", []))
        return Span(parent) if self.scope["path"] in _UNLOGGED else tracing.server_span(self.method, parent)

    @property
    def is_half_sent(self) -> bool:
        return self.status is not None and not self.complete

    @property
    def route(self) -> str:
        return self.scope.get("path_template", "unmatched")

    async def receive(self) -> Message:
        self._is_body_pending = False
        message = await self._receive()
        if message["type"] == "http.request":
            self.received_bytes += len(message.get("body", b""))
        elif message["type"] == "http.disconnect" and not self.complete:
            self.scope["state"]["client_left"] = True
        return message  # pyright: ignore[reportReturnType]  # its union has one type too few

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._set_headers(MutableScopeHeaders(message))
        elif message["type"] == "http.response.body":
            if self.method == "HEAD":
                if self.complete:
                    return
                message["body"], message["more_body"] = b"", False
            self.sent_bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        await self._send(message)

    def _set_headers(self, headers: MutableScopeHeaders) -> None:
        headers["X-Request-Id"] = self.request_id
        for name, value in _DEFAULT_HEADERS.items():
            headers.setdefault(name, value)
        if self._draining.is_set() or self._is_body_pending:
            headers["Connection"] = "close"
        allowed = headers.get("Allow", "")
        if "GET" in allowed and "HEAD" not in allowed:
            headers["Allow"] = f"{allowed}, HEAD"

    def finish(self) -> None:
        client_left = bool(self.scope["state"].get("client_left"))
        status = self.status or (CLIENT_DISCONNECTED if client_left else 500)
        method = self.method if self.method in _METHODS else "OTHER"
        seconds = time.perf_counter() - self.started
        metrics.request_finished(method, self.route, status, seconds)
        self._end_span(method, status)
        if self.route not in _UNLOGGED:
            log.info(
                "request",
                method=method,
                route=self.route,
                status=status,
                duration_ms=round(seconds * 1000, 1),
                bytes=self.sent_bytes,
                received_bytes=self.received_bytes,
                complete=self.complete,
            )

    def _end_span(self, method: str, status: int) -> None:
        """The path is that of a route, whose parameters are ids and resources. Other paths and queries may contain anything."""
        has_route = "path_template" in self.scope
        name = "HTTP" if method == "OTHER" else method
        self.span.rename(f"{name} {self.route}" if has_route else name)
        self.span.set(
            {
                "http.request.method": "_OTHER" if method == "OTHER" else method,
                "http.route": self.route if has_route else None,
                "url.path": self.scope["path"] if has_route else None,
                "url.scheme": self.scope["scheme"],
                "http.response.status_code": self.status,
                "http.request.body.size": self.received_bytes,
                "http.response.body.size": self.sent_bytes,
            }
        )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.span.fail(str(status))
        elif not self.complete:
            self.span.fail("incomplete_response")
        self.span.end()
