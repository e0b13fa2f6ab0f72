"""`python -m tests.support.crashing_worker`: the worker pool, one of whose workers fails once, at a named failpoint.

FAULT_POINT is the failpoint, FAULT_NUMBER the number of times that a worker reaches it before it fails, FAULT_KIND the kind of
failure. The file FAULT_FILE is created at the failure, and prevents another one.
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
            # a file that is written and then renamed is never visible in part
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
        """Waits until the test removes the file, after it has acted on the connection."""
        while self.file.exists():  # noqa: ASYNC110  # the test is another process
            await asyncio.sleep(0.01)


def install(environ: Mapping[str, str]) -> None:
    point, number, kind = (environ[f"FAULT_{name}"] for name in ("POINT", "NUMBER", "KIND"))
    failpoints.install(Fault(point, int(number), kind, Path(environ["FAULT_FILE"])))


if __name__ == "__main__":
    install(os.environ)
    sys.exit(main())
