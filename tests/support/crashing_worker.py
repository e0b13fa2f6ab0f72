"""`python -m tests.faulty_worker`: the worker pool, one of whose workers comes to grief once, at a named point.

FAULT_POINT and FAULT_NUMBER say where: at the how-manieth time that a worker reaches the point; FAULT_KIND says how. The file
FAULT_FILE appears when it happens, and keeps it from happening again.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from db.connections.pool import Connection
from db.queue import failpoints
from db.queue.failpoints import Point
from workers.__main__ import main


class Fault:
    """One fault, of the first worker that reaches the failpoint often enough."""

    def __init__(self, point: str, number: int, kind: str, file: Path) -> None:
        self.point = point
        self.number = number
        self.happen = getattr(self, f"_{kind}")
        self.file = file
        self.times = 0

    async def __call__(self, point: Point, conn: Connection) -> None:
        if point != self.point:
            return
        self.times += 1
        if self.times == self.number and not self.file.exists():
            # what is written and renamed is there as a whole or not at all
            draft = self.file.with_suffix(".draft")
            draft.write_text(str(os.getpid()))
            draft.rename(self.file)
            await self.happen(conn)

    async def _exit(self, _: Connection) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def _raise(self, _: Connection) -> None:
        raise RuntimeError("a fault was installed")

    async def _stop(self, _: Connection) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    async def _drop(self, conn: Connection) -> None:
        with socket.socket(fileno=os.dup(conn.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    async def _wait(self, _: Connection) -> None:
        """Until the test has removed the file, when it has done to the connection what it wanted to."""
        while self.file.exists():  # noqa: ASYNC110  # the test is another process
            await asyncio.sleep(0.01)


def install(environ: Mapping[str, str]) -> None:
    point, number, kind = (environ[f"FAULT_{name}"] for name in ("POINT", "NUMBER", "KIND"))
    failpoints.install(Fault(point, int(number), kind, Path(environ["FAULT_FILE"])))


if __name__ == "__main__":
    install(os.environ)
    sys.exit(main())
