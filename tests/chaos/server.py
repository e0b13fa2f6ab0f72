"""A PostgreSQL server of the suite's own, which can be crashed and restarted at the same address."""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from db import embedded
from tests.support.eventually import eventually
from tests.support.postgres import bin_dir


class Server:
    """`url` is the same after a restart. Start it from the main thread: the server ends when that thread ends."""

    def __init__(self, data_path: Path, *, options: Mapping[str, str]) -> None:
        self.data_path = data_path
        self.options = {**embedded.TCP, **options}
        self.port = 0
        self.url = ""

    def start(self) -> None:
        """Returns when the server has recovered and accepts connections."""
        self.url = embedded.start(self.data_path, port=self.port, options=self.options, bin_dir=bin_dir())
        self.port = int(str(conninfo_to_dict(self.url)["port"]))

    async def crash(self) -> None:
        """Does what `pg_ctl stop -m immediate` does, which root may not call: no checkpoint, no notice to clients."""
        os.kill(self.pid, signal.SIGQUIT)
        await eventually(lambda: not self.is_running)

    async def away(self, seconds: float) -> None:
        """Crashes the server, waits, and starts it again, also when the wait is interrupted."""
        await self.crash()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.start()

    @property
    def pid(self) -> int:
        """The pid of the postmaster."""
        return int((self.data_path / "postgres" / "postmaster.pid").read_text().split()[0])

    @property
    def is_running(self) -> bool:
        try:
            embedded.url(self.data_path)
        except embedded.NotRunning:
            return False
        return True


@contextmanager
def running(folder: Path, *, options: Mapping[str, str]) -> Iterator[Server]:
    """A server in `folder`, removed at the end. `options` are PostgreSQL's settings."""
    server = Server(folder / "server", options=options)
    server.start()
    try:
        yield server
    finally:
        with suppress(embedded.NotRunning):
            embedded.stop(server.data_path)
