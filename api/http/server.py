"""The HTTP server of one API process: uvicorn with its own listening sockets and a shutdown in three phases.

1. Drain, for DRAIN_SECONDS: `/ready` is 503, everything else is served as before, each response closes its connection.
2. Close the listener: connections in its accept backlog are accepted first, because the kernel resets the others.
3. Finish, for STOP_SECONDS: requests in flight are completed; what takes longer is cancelled.

A second signal ends the process at once, unless it is one of several: then their parent kills them.
"""

import asyncio
import errno
import signal
import socket
import time
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from types import FrameType

import structlog
import uvicorn
from litestar import Litestar

from api.http.protocol import BoundedHttp
from db.settings import Settings
from monitoring.supervisor import Supervisor

log = structlog.get_logger("api")

BACKLOG_CONNECTIONS = 2048


class AddressInUse(Exception):
    """Another process listens on the address; the message names it and the setting."""


def listen(settings: Settings) -> list[socket.socket]:
    """Listening sockets for HTTP_HOST and HTTP_PORT: one for each address that the name stands for.

    Raises `AddressInUse`, or `OSError` when the host is unknown or not one of this machine.
    """
    host, port = settings.http_host, settings.http_port
    addresses = dict.fromkeys(
        (family, address[0]) for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            listener = socket.create_server((address, port), family=family, backlog=BACKLOG_CONNECTIONS)
            sockets.append(listener)
            # HTTP_PORT=0: the kernel chooses one, for all addresses
            port = listener.getsockname()[1]
    except OSError as error:
        for listener in sockets:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            occupant = "another copy of this service" if _is_this_service(host, port) else "another process"
            raise AddressInUse(f"HTTP_PORT: {host}:{port} is in use by {occupant}") from None
        raise
    return sockets


def _is_this_service(host: str, port: int) -> bool:
    connection = HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/live")
        answer = connection.getresponse()
        return answer.status == HTTPStatus.OK and answer.getheader("X-Request-Id") is not None
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


class Server(uvicorn.Server):
    """Serves `app` on `listeners` until a signal, or until the supervisor is gone.

    One of several processes that share the listeners has the id of its `parent`, which is its supervisor.
    """

    def __init__(
        self, app: Litestar, settings: Settings, listeners: list[socket.socket], *, parent: int | None = None
    ) -> None:
        self.settings = settings
        self.listeners = listeners
        self.parent = parent
        self.draining: asyncio.Event = app.state.draining
        self.stopping: asyncio.Event = app.state.stopping
        self.supervisor = Supervisor(parent or settings.supervisor_pid)
        # when the drain phase ends, by the monotonic clock; None before the first signal
        self.drained_at: float | None = None
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=BoundedHttp,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=settings.keep_alive_seconds,  # pyright: ignore[reportArgumentType]  # it takes fractions
                # the rest is for the cleanup of what was cancelled
                timeout_graceful_shutdown=settings.stop_seconds * 0.75,  # pyright: ignore[reportArgumentType]  # likewise
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        # duplicates, because uvicorn closes those that it is given: the accept backlog lives until `_accept_backlog`
        await super().serve([listener.dup() for listener in sockets or self.listeners])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in self.listeners:
            host, port = listener.getsockname()[:2]
            log.info("listening", url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's
        if self.drained_at is not None:
            if self.parent is not None:
                return
            # uploads that are not cleaned up now are swept later, as after a crash
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.drained_at = time.monotonic() + self.settings.drain_seconds
        self.draining.set()
        self.should_exit |= self.settings.drain_seconds == 0

    async def on_tick(self, counter: int) -> bool:
        # ten times a second
        if counter % 10 == 0 and self.supervisor.is_gone():
            log.warning("supervisor is gone, stopping")
            self.should_exit = True
        if self.drained_at is not None and time.monotonic() >= self.drained_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping", connections=len(self.server_state.connections))
        self.draining.set()
        self.stopping.set()
        for server in self.servers:
            server.close()
        await self._accept_backlog()
        await super().shutdown(sockets)
        log.info("stopped")

    async def _accept_backlog(self) -> None:
        """Accepts the connections that are waiting, and closes the listener as soon as there is none."""
        loop = asyncio.get_running_loop()
        for listener in self.listeners:
            listener.setblocking(False)
            accepted: list[socket.socket] = []
            try:
                while True:
                    accepted.append(listener.accept()[0])
            except OSError:
                listener.close()
            for connection in accepted:
                connection.setblocking(False)
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> BoundedHttp:
        return BoundedHttp(self.config, self.server_state, self.lifespan.state)
