"""HTTP/1.1 as the server speaks it, with bounds on what a client may send, and on how long it may take.

uvicorn's own protocol holds a head of any size, waits for it for ever, and lets a client that has had its answer keep the
connection for as long as it sends a byte now and then. Here every wait for a client ends, and nothing that is kept of what
it sent grows without end. A client that breaks a bound is answered with a problem document where HTTP still allows one, that
is before its answer has begun; else the connection is broken.
"""

import asyncio
import socket
from typing import Any, cast
from uuid import uuid4

import httptools
import structlog
from litestar.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.http.problems import MEDIA_TYPE, Problem
from db.settings import Settings

log = structlog.get_logger(__name__)

# requests that wait behind the one that is being answered
PIPELINED_MAX = 16
# a refused client that still sends is listened to for so long: to close at once would take its answer away from it
LINGER_SECONDS = 2
# after the listener has closed: how long a new connection has for its request to arrive, and an idle one
FIRST_REQUEST_SECONDS = 1.0
NEXT_REQUEST_SECONDS = 0.1


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    # until the connection is lost
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
        # what the parser was given since a head was complete or a piece of a body came: it holds it, or nobody needs it
        self._idle_bytes = 0
        self._is_moving = False
        self._in_head = False
        self._in_body = False
        # of the body, since the last look at how fast it comes, and whether it was ours to read on
        self._body_bytes = 0
        self._is_ours = False
        self._is_refused = False
        self._running: RequestResponseCycle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    # ── the connection ────────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        _limit_unacknowledged(transport, self.settings.stall_seconds)
        if len(self.connections) > self.settings.connections_max:
            self._refuse(_too_many(self.settings.connections_max))
            # one that lingers is still a connection
            transport.close()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        # uvicorn tells the last request alone, and the one that is being answered may be an earlier one
        for cycle in (self._running, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # in place of uvicorn's, for which any byte is a reason to go on waiting
        if self._is_refused:
            return
        self._is_moving = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # answered as if it had not been asked for; what follows cannot be told from another protocol
            self._is_refused = True
            self.cycle.keep_alive = False
        except httptools.HttpParserError as error:
            raised = error.__context__
            self._refuse(raised if isinstance(raised, Problem) else _NOT_HTTP)
        else:
            self._idle_bytes = 0 if self._is_moving else self._idle_bytes + len(data)
            if self._idle_bytes > self.settings.head_max_bytes:
                self._refuse(_head_too_large(self.settings))

    def shutdown(self) -> None:
        """Called when the listener has closed: ends the connection behind its request, also one that is only arriving."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif not self._in_head:
            # what the client has sent already is read before that, and answered
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                FIRST_REQUEST_SECONDS if self.cycle is None else NEXT_REQUEST_SECONDS, self.timeout_keep_alive_handler
            )

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.settings.stall_seconds, self._abort, "takes no answer")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_timer = _cancelled(self._write_timer)

    # ── the parser ────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._in_head = True
        if self._head_timer is None:
            self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            # a trailer: nobody asks for it, and the request is under way with the headers that it had
            return
        super().on_header(name, value)
        if len(self.headers) > self.settings.headers_max:
            raise _head_too_large(self.settings)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.settings.head_max_bytes:
            raise _head_too_large(self.settings)
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise _NOT_HTTP
        if len(self.pipeline) >= PIPELINED_MAX:
            raise Problem("invalid-request", f"More than {PIPELINED_MAX} requests wait for their answer.")
        super().on_headers_complete()
        self.cycle.transport = cast("asyncio.Transport", _Answering(self))
        self._in_head, self._in_body, self._is_moving = False, True, True
        self._head_timer = _cancelled(self._head_timer)
        self._expect_body()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._is_moving = True
        self._body_bytes += len(body)
        self._is_ours |= self.flow.read_paused

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body, self._is_moving = False, True
        self._body_timer = _cancelled(self._body_timer)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    # ── what comes too late ───────────────────────────────────────────────────────────────────────────────────────────

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.settings.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._in_head:
            self._refuse(_too_late(f"The head of the request was not complete after {self.settings.head_seconds:g} s."))
        else:
            # it never said a word, so it does not wait for one
            self.transport.close()

    def _expect_body(self) -> None:
        self._body_bytes, self._is_ours = 0, False
        self._body_timer = _cancelled(self._body_timer)
        self._body_timer = self.loop.call_later(self.settings.stall_seconds, self._look_at_body)

    def _look_at_body(self) -> None:
        """A body has to come at some speed; as long as we do not read it, or wait for another request, it need not."""
        seconds, rate = self.settings.stall_seconds, self.settings.body_rate_min
        is_ours = self._is_ours or self.flow.read_paused or self.cycle.waiting_for_100_continue
        if is_ours or self._body_bytes >= seconds * rate:
            self._expect_body()
        elif self._in_body:
            self._refuse(_too_late(f"Of the body came less than {rate} bytes a second, for {seconds:g} s."))

    # ── ending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _refuse(self, problem: Problem) -> None:
        """Answers, and listens no more."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        answering = self._running if self._running and not self._running.response_complete else None
        if answering and (answering.response_started or answering is not self.cycle or self._in_head):
            # what was written now would be taken for a part of another answer
            self._abort(problem.detail)
            return
        request_id = uuid4().hex
        log.info("request refused", status=problem.status, reason=problem.detail, refusal_id=request_id)
        if answering:
            # whoever reads the body is told that the client has left
            answering.disconnected = True
            answering.message_event.set()
        self.transport.write(_answer(problem, request_id))
        self._linger()

    def close(self) -> None:
        """Ends the connection behind an answer: at once, or later when the client may still be sending."""
        if self._in_body:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Says that no more will come, and listens to what nobody needs, lest the client lose its answer by a reset."""
        self._is_refused = True
        self._cancel_timers()
        self.flow.resume_reading()
        self.transport.write_eof()
        self._write_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _abort(self, reason: str) -> None:
        log.info("connection aborted", reason=reason)
        self.transport.abort()

    def _cancel_timers(self) -> None:
        self._unset_keepalive_if_required()
        self._head_timer = _cancelled(self._head_timer)
        self._body_timer = _cancelled(self._body_timer)
        self._write_timer = _cancelled(self._write_timer)


class _Answering:
    """The connection as the answer to one request sees it: when that ends it, its client is not cut short."""

    def __init__(self, protocol: BoundedHttp) -> None:
        self.close = protocol.close
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing


_NOT_HTTP = Problem("invalid-request", "This is not a request of HTTP/1.1.")


def _head_too_large(settings: Settings) -> Problem:
    return Problem(
        "head-too-large",
        f"The request line and the headers may have {settings.head_max_bytes} bytes, in {settings.headers_max} headers.",
        limit_bytes=settings.head_max_bytes,
        limit_headers=settings.headers_max,
    )


def _too_late(detail: str) -> Problem:
    return Problem("request-timeout", detail)


def _too_many(connections: int) -> Problem:
    return Problem("unavailable", f"There are {connections} connections already, which is as many as there may be.")


def _answer(problem: Problem, request_id: str) -> bytes:
    """The whole answer. Of the request nothing is sure, so its address is left out."""
    body = problem.body(cast("Scope", {"path": "", "state": {"request_id": request_id}}))
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "X-Request-Id": request_id,
        "Connection": "close",
        **problem.headers,
    }
    lines = [f"{name.lower()}: {value}\r\n" for name, value in headers.items()]
    return b"".join([STATUS_LINE[problem.status], *(line.encode() for line in lines), b"\r\n", body])


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _limit_unacknowledged(transport: asyncio.Transport, seconds: float) -> None:
    """Lets the system break a connection whose client takes nothing more, also one that we have closed (Linux alone)."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000)
        )
