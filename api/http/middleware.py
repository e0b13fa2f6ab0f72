"""What every request gets, whatever becomes of it: an id, its numbers, and a line in the log.

Plain ASGI, around the whole application, because the framework's own middleware does not see addresses that it does not
know, and because nothing here may hold a body.
"""

import asyncio
import re
import time
from typing import cast
from uuid import uuid4

import structlog
from litestar.datastructures import Headers, MutableScopeHeaders
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from api.http.problems import CLIENT_DISCONNECTED
from db.errors import UNAVAILABLE
from monitoring import metrics

log = structlog.get_logger("access")

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# asked every few seconds by machines: counted, not logged
_UNLOGGED = frozenset({"/live", "/ready", "/health", "/metrics"})


class Observed:
    """The application `app`, observed. Once `draining` is set, answers say that their connection is of no more use."""

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
            await self.app(scope, exchange.receive, exchange.send)
        except (Exception, asyncio.CancelledError) as error:
            # the framework wraps what comes after the beginning of an answer
            cause = error.__cause__ or error
            if not exchange.is_half_sent or not isinstance(cause, (*UNAVAILABLE, asyncio.CancelledError)):
                raise
            # no fault that a traceback would help to find; of an answer without its end the server closes the connection
            log.warning("response aborted", route=scope.get("path_template"), error=type(cause).__name__)
        finally:
            metrics.http_requests_in_progress.dec()
            exchange.finish()


class _Exchange:
    """One request and its answer, as they pass by."""

    def __init__(self, scope: HTTPScope, receive: Receive, send: Send, draining: asyncio.Event) -> None:
        self.scope = scope
        self._draining = draining
        self._receive = receive
        self._send = send
        self.started = time.perf_counter()
        self.status: int | None = None
        self.received_bytes = 0
        self.sent_bytes = 0
        self.complete = False
        given = Headers.from_scope(scope).get("x-request-id", "")
        self.request_id = given if _SANE_ID.fullmatch(given) else uuid4().hex
        scope["state"]["request_id"] = self.request_id
        # requests of one connection run in the same context: what an earlier one bound must not stand in our lines
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=self.request_id)

    @property
    def is_half_sent(self) -> bool:
        return self.status is not None and not self.complete

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received_bytes += len(message.get("body", b""))
        elif message["type"] == "http.disconnect" and not self.complete:
            self.scope["state"]["client_left"] = True
        return message  # pyright: ignore[reportReturnType]  # its union has one type too few

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableScopeHeaders(message)
            headers["X-Request-Id"] = self.request_id
            if self._draining.is_set():
                headers["Connection"] = "close"
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        await self._send(message)

    def finish(self) -> None:
        left = bool(self.scope["state"].get("client_left"))
        status = self.status or (CLIENT_DISCONNECTED if left else 500)
        method = self.scope["method"] if self.scope["method"] in _METHODS else "OTHER"
        route = self.scope.get("path_template", "unmatched")
        seconds = time.perf_counter() - self.started
        metrics.request_finished(method, route, status, seconds)
        if route not in _UNLOGGED:
            log.info(
                "request",
                method=method,
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 1),
                bytes=self.sent_bytes,
                received_bytes=self.received_bytes,
                complete=self.complete,
            )
