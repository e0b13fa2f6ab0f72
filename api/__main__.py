"""The API process: `python -m api`."""

import signal
import socket
import sys
from asyncio import Event
from types import FrameType

import structlog
import uvicorn
from litestar import Litestar

from api.http.protocol import BoundedHttp
from db import embedded, settings
from db.settings import Settings, SettingsError
from monitoring import logging, multiprocess
from monitoring.supervisor import Supervisor

log = structlog.get_logger("api")


def main() -> None:
    try:
        config = settings.load()
    except SettingsError as error:
        sys.exit(_complain(str(error)))
    logging.setup(config, process="api")
    multiprocess.join(config.metrics_path)
    # only now: the metrics that it imports look for the folder that was just joined
    from api import app

    # uvicorn stops on a signal and then raises it again for whoever was there before: a stop that was asked for is no failure
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: sys.exit(0))
    # unless it is ignored, as under nohup; uvicorn does not know it
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        application = app.create(config)
    except embedded.NotRunning as error:
        sys.exit(_complain(str(error)))
    Server(application, config).run()


class Server(uvicorn.Server):
    """uvicorn, which sets the event `draining` as soon as it is told to stop, and ends at once when it is told so again."""

    def __init__(self, app: Litestar, config: Settings) -> None:
        self.draining: Event = app.state.draining
        self.supervisor = Supervisor(config.supervisor_pid)
        super().__init__(
            uvicorn.Config(
                app,
                host=config.http_host,
                port=config.http_port,
                loop="uvloop",
                http=BoundedHttp,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=config.keep_alive_seconds,  # pyright: ignore[reportArgumentType]  # it takes fractions
                # the rest is for what those that were cut off have to clear away
                timeout_graceful_shutdown=config.stop_seconds * 0.75,  # pyright: ignore[reportArgumentType]  # likewise
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # uvicorn would still wait for what is clearing up; what that leaves is swept as after any crash
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.draining.set()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        # ten times a second
        if counter % 10 == 0 and self.supervisor.is_gone():
            log.warning("supervisor is gone, stopping")
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # for stops without a signal
        self.draining.set()
        await super().shutdown(sockets)


def _complain(reason: str) -> int:
    print(f"api: {reason}", file=sys.stderr)  # noqa: T201  # nothing else is set up yet
    return 2


if __name__ == "__main__":
    main()
