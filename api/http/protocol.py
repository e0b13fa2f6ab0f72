"""HTTP/1.1 for uvicorn, with limits on what a client may send and on how long it may take.

uvicorn's own protocol accepts a request head of any size, waits for it without a limit, and keeps a connection open as long as a
byte arrives now and then. Here every wait for a client has a time limit (`time_limits`) and every buffer a size limit. A client
that exceeds a limit gets a problem document as long as its response has not begun; otherwise its connection is closed.

Three differences from uvicorn in what HTTP means: an `Upgrade` is ignored, and the request is processed with its body; HTTP/1.0
clients get responses that end with the connection instead of chunks; trailers are dropped.
"""

import asyncio
from typing import Any, cast
from uuid import uuid4

import httptools
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.http import connection, refusals
from api.http.http_1_0 import close_delimited
from api.http.problems import Problem
from api.http.time_limits import TimeLimits
from db.settings import Settings
from monitoring import throttle

log = structlog.get_logger(__name__)

# requests that wait behind the one that is being answered
PIPELINED_MAX = 16
# after the listener has closed: how long a new connection has for its request to arrive, and an idle one
FIRST_REQUEST_SECONDS = 1.0
NEXT_REQUEST_SECONDS = 0.1
# connections beyond CONNECTIONS_MAX that are accepted for these paths only, so that probes get through
PROBE_CONNECTIONS = 16
PROBES = frozenset({b"/live", b"/ready", b"/health", b"/metrics"})


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    # None after the connection is lost
    parser: Any

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.settings: Settings = cast("Any", config.app).state.settings
        # bytes fed to the parser since the last complete head or piece of a body, which it may be buffering
        self._unparsed_bytes = 0
        self._has_progressed = False
        self.in_head = False
        self._in_body = False
        # the parser stops behind a head with `Upgrade`, which it reports as a whole message
        self._is_upgrade = False
        self._is_refused = False
        self._is_for_probes = False
        self._running: RequestResponseCycle | None = None
        self.limits = TimeLimits(self)

    # ── the connection ────────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        connection.limit_unacknowledged(transport, self.settings.stall_seconds)
        connection.limit_unsent(transport)
        excess = len(self.connections) - self.settings.connections_max
        if excess > 0 and not self._evict_oldest():
            self._is_for_probes = True
            if excess > PROBE_CONNECTIONS:
                self.refuse(refusals.too_many(self.settings.connections_max))
                # not `_linger`: a lingering connection still counts
                transport.close()
                return
        self.limits.expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        # uvicorn informs the newest request only, and the one that is being answered may be an earlier one
        for cycle in (self._running, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # replaces uvicorn's, which restarts the keep-alive time with every byte
        if self._is_refused:
            return
        self._has_progressed = False
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            raised = error.__context__
            self.refuse(raised if isinstance(raised, Problem) else refusals.NOT_HTTP)
        else:
            self._unparsed_bytes = 0 if self._has_progressed else self._unparsed_bytes + len(data)
            if self._unparsed_bytes > self.settings.head_max_bytes:
                self.refuse(refusals.head_too_large(self.settings))

    def _feed(self, data: bytes) -> None:
        """Parses `data`. Behind a head with `Upgrade` the parser stops: it gets that head again without it, then the rest."""
        rest: bytes | None = data
        while rest:
            try:
                self.parser.feed_data(rest)
                rest = None
            except httptools.HttpParserUpgrade as stop:
                if not self._is_upgrade:
                    # CONNECT: there is no tunnel, and what follows the head is not HTTP
                    self._is_refused = True
                    self.cycle.keep_alive = False
                    return
                rest = rest[stop.args[0] :]
                self._is_upgrade = False
                head = self._head_without_upgrade()
                # a new one, because behind a head with `Connection: close` the parser reads nothing more
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [
            self.parser.get_method() + b" " + self.url + b" HTTP/" + version,
            *(name + b": " + value for name, value in self.headers if name != b"upgrade"),
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def shutdown(self) -> None:
        """Called when the listener has closed: ends the connection behind its request, also one that is only arriving."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif not self.in_head:
            # what the client has sent already is read before that, and answered
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                FIRST_REQUEST_SECONDS if self.cycle is None else NEXT_REQUEST_SECONDS, self.timeout_keep_alive_handler
            )

    def pause_writing(self) -> None:
        super().pause_writing()
        self.limits.expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.limits.response_read()

    # ── the parser ────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self.in_head = True
        if not self.limits.is_head_expected:
            self.limits.expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:
            # a trailer: the request was started with the headers before its body
            return
        super().on_header(name, value)
        if len(self.headers) > self.settings.headers_max:
            raise refusals.head_too_large(self.settings)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.settings.head_max_bytes:
            raise refusals.head_too_large(self.settings)
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise refusals.NOT_HTTP
        if len(self.pipeline) >= PIPELINED_MAX:
            raise Problem("invalid-request", f"More than {PIPELINED_MAX} requests wait for their response.")
        if self._is_for_probes and self.url.partition(b"?")[0] not in PROBES:
            raise refusals.too_many(self.settings.connections_max)
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._is_upgrade = True
            return
        # RFC 9110 10.1.1: an expectation of HTTP/1.0 is ignored
        self.expect_100_continue &= version == "1.1"
        super().on_headers_complete()
        self.cycle.keep_alive &= not self._is_for_probes
        self.cycle.transport = cast("asyncio.Transport", _ResponseTransport(self, self.cycle))
        self.in_head, self._in_body, self._has_progressed = False, True, True
        self.limits.head_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._has_progressed = True
        self.limits.body_received(len(body))

    def on_message_complete(self) -> None:
        if self._is_upgrade:
            return
        super().on_message_complete()
        self._in_body, self._has_progressed = False, True
        self.limits.body_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.limits.is_head_expected:
            self.limits.expect_request()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, close_delimited(cycle, app) if cycle.scope["http_version"] == "1.0" else app)

    # ── too many connections ──────────────────────────────────────────────────────────────────────────────────────────

    def _evict_oldest(self) -> bool:
        """Closes the connection that has waited longest without a complete request; False when all are being answered."""
        waiting = [one for one in cast("set[BoundedHttp]", self.connections) if one is not self and one._is_waiting]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda one: one.limits.waits_since)
        throttle.warning(log, "connection closed for a new one", connections_max=self.settings.connections_max)
        oldest._is_refused = True
        oldest._cancel_timers()
        oldest.transport.abort()
        return True

    @property
    def _is_waiting(self) -> bool:
        is_answering = self._running is not None and not self._running.response_complete
        has_timer = self.limits.is_head_expected or self.timeout_keep_alive_task is not None
        return has_timer and not is_answering and not self._is_refused

    # ── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def refuse(self, problem: Problem) -> None:
        """Sends the problem document and ignores everything that follows."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        current = self._running if self._running and not self._running.response_complete else None
        if current and (current.response_started or current is not self.cycle or self.in_head):
            # written now, the problem would become part of another response
            self.abort(problem.detail)
            return
        if self._in_body and self.cycle.response_complete:
            # the rest of a request that has its response: a second one would be taken for that of the next request
            self._linger()
            return
        request_id = uuid4().hex
        log.info("request refused", status=problem.status, reason=problem.detail, refusal_id=request_id)
        if current:
            # the handler that reads the body gets a disconnect
            current.disconnected = True
            current.message_event.set()
        self.transport.write(refusals.response(problem, request_id))
        self._linger()

    def close(self, *, is_complete: bool) -> None:
        """Ends the connection behind a response: at once, or later when the client may still be sending."""
        if not is_complete and self._running and self._running.scope["http_version"] == "1.0":
            # the end of the connection would mark the response as whole
            connection.reset(self.transport)
        elif self._in_body:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Sends the end of the response, then reads and discards for a while so that a reset does not overtake it."""
        self._is_refused = True
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.transport.write_eof()
        self.limits.linger()

    def abort(self, reason: str) -> None:
        log.info("connection aborted", reason=reason)
        connection.reset(self.transport)

    def _cancel_timers(self) -> None:
        self._unset_keepalive_if_required()
        self.limits.cancel()


class _ResponseTransport:
    """The transport as one request sees it. Its `close` lets the client finish sending."""

    def __init__(self, protocol: BoundedHttp, cycle: RequestResponseCycle) -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self._protocol = protocol
        self._cycle = cycle

    def close(self) -> None:
        self._protocol.close(is_complete=self._cycle.response_complete)
