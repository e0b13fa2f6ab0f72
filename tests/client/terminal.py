"""A command on a pseudo-terminal."""

import asyncio
import fcntl
import os
import pty
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from tests.client.conftest import Bulk
from tests.support.eventually import eventually

ROWS, COLUMNS = 24, 100
CTRL_C = b"\x03"


class Terminal:
    """The output of one command, as bytes."""

    def __init__(self, master: int) -> None:
        self._master = master
        self.output = b""
        os.set_blocking(master, False)

    def read(self) -> bytes:
        """All output so far."""
        try:
            while block := os.read(self._master, 65536):
                self.output += block
        except OSError:
            # there is no output to read yet, or the command has closed the terminal
            pass
        return self.output

    def write(self, keys: bytes) -> None:
        os.write(self._master, keys)

    async def shows(self, text: str) -> None:
        await eventually(lambda: text.encode() in self.read())


@contextmanager
def _pair() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


@contextmanager
def opened() -> Iterator[tuple[Terminal, int]]:
    """A terminal, and the file descriptor of it for a command."""
    with _pair() as (master, slave):
        yield Terminal(master), slave


async def start(bulk: Bulk, slave: int, *words: str, **variables: str) -> asyncio.subprocess.Process:
    """Starts a command with this as its controlling terminal, so that Ctrl-C reaches it."""
    command = Bulk(bulk.environment | variables)
    return await command.start(
        *words,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
