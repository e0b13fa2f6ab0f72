"""Time limits of a connection: for the head of a request, for its body, and for the reading of its response.

Of these uvicorn has none: it limits only the time between two requests.
"""

import asyncio
import time
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from api.http import refusals
from api.http.problems import Problem
from db.settings import Settings

# how long a refused client may go on sending: closing at once would reset the connection before it reads the response
LINGER_SECONDS = 2


class Connection(Protocol):
    """What the limits need of a connection: its state, and the two ways to end it."""

    settings: Settings
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    cycle: RequestResponseCycle
    in_head: bool

    def refuse(self, problem: Problem) -> None: ...
    def abort(self, reason: str) -> None: ...


class TimeLimits:
    """The timers of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._settings = connection.settings
        self._call_later = connection.loop.call_later
        # when the wait for a request began, on the clock of `time.monotonic`: the loop's own has whole milliseconds only
        self.waits_since = 0.0
        # of the body, since the last check of its rate; and whether reading was paused by us since then
        self._body_bytes = 0
        self._was_paused = False
        # of the response, at the last check whether the client reads
        self._unwritten_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def is_head_expected(self) -> bool:
        return self._head_timer is not None

    def expect_request(self) -> None:
        """The wait for a request begins. Its head is not expected yet: for an idle connection uvicorn has a time limit."""
        self.waits_since = time.monotonic()

    def expect_head(self) -> None:
        self.expect_request()
        self._head_timer = self._call_later(self._settings.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        seconds = self._settings.head_seconds
        if self._connection.in_head:
            self._connection.refuse(refusals.too_late(f"The head of the request was not complete after {seconds:g} s."))
        else:
            # no byte was received: close without a 408
            self._connection.transport.close()

    def head_complete(self) -> None:
        self._head_timer = _cancelled(self._head_timer)
        self._expect_body()

    def _expect_body(self) -> None:
        self._body_bytes, self._was_paused = 0, False
        self._body_timer = _cancelled(self._body_timer)
        self._body_timer = self._call_later(self._settings.stall_seconds, self._check_body)

    def body_received(self, size: int) -> None:
        self._body_bytes += size
        self._was_paused |= self._connection.flow.read_paused

    def body_complete(self) -> None:
        self._body_timer = _cancelled(self._body_timer)

    def _check_body(self) -> None:
        """Enforces the minimum rate of a body, except while the API itself does not read it or waits for another request."""
        seconds, rate = self._settings.stall_seconds, self._settings.body_rate_min
        is_paused = self._was_paused or self._connection.flow.read_paused
        if is_paused or self._connection.cycle.waiting_for_100_continue or self._body_bytes >= seconds * rate:
            self._expect_body()
        else:
            self._connection.refuse(
                refusals.too_late(f"The body arrived at less than {rate} bytes a second for {seconds:g} s.")
            )

    def expect_reading(self) -> None:
        """The client must read some of the response."""
        self._unwritten_bytes = self._connection.transport.get_write_buffer_size()
        self._write_timer = self._call_later(self._settings.stall_seconds, self._check_reading)

    def response_read(self) -> None:
        self._write_timer = _cancelled(self._write_timer)

    def _check_reading(self) -> None:
        """A client may read slowly, but not stop."""
        if self._connection.transport.get_write_buffer_size() < self._unwritten_bytes:
            self.expect_reading()
        else:
            self._connection.abort("client does not read")

    def linger(self) -> None:
        """Aborts the connection after LINGER_SECONDS; no other limit holds any more."""
        self.cancel()
        self._write_timer = self._call_later(LINGER_SECONDS, self._connection.transport.abort)

    def cancel(self) -> None:
        self._head_timer = _cancelled(self._head_timer)
        self._body_timer = _cancelled(self._body_timer)
        self._write_timer = _cancelled(self._write_timer)


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
