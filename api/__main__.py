"""The API process: `python -m api`."""

import math
import signal
import socket
import sys
from asyncio import Event
from types import FrameType

import uvicorn
from litestar import Litestar

from db import embedded, settings
from db.settings import Settings, SettingsError
from monitoring import logging, processes


def main() -> None:
    try:
        config = settings.load()
    except SettingsError as error:
        sys.exit(_complain(str(error)))
    logging.setup(config, process="api")
    processes.join(config.metrics_path)
    # only now: the metrics that it imports look for the folder that was just joined
    from api import app

    # uvicorn stops on a signal and then raises it again for whoever was there before: a stop that was asked for is no failure
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: sys.exit(0))
    try:
        application = app.create(config)
    except embedded.NotRunning as error:
        sys.exit(_complain(str(error)))
    Server(application, config).run()


class Server(uvicorn.Server):
    """uvicorn, which sets the event `draining` as soon as it is told to stop."""

    def __init__(self, app: Litestar, config: Settings) -> None:
        self.draining: Event = app.state.draining
        super().__init__(
            uvicorn.Config(
                app,
                host=config.http_host,
                port=config.http_port,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(config.stop_seconds),
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.draining.set()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # for stops without a signal
        self.draining.set()
        await super().shutdown(sockets)


def _complain(reason: str) -> int:
    print(f"api: {reason}", file=sys.stderr)  # noqa: T201  # nothing else is set up yet
    return 2


if __name__ == "__main__":
    main()
