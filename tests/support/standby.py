"""A PostgreSQL server and its standby, which a test may stop and promote."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from db import embedded
from db.connections.pool import Connection
from db.embedded import binaries
from tests.support import postgres
from tests.support.eventually import PATIENCE_SECONDS, eventually


@dataclass(frozen=True)
class Server:
    """A running server; `url` is that of its own database."""

    folder: Path
    url: str
    options: Mapping[str, str]

    async def crash(self) -> None:
        """Ends it without a checkpoint and without notice to its clients."""
        os.kill(int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        await eventually(lambda: not self._is_running())

    def restart(self) -> None:
        """Starts it again at the same address."""
        assert embedded.start(self.folder, options=self.options, bin_dir=postgres.bin_dir()) == self.url

    def _is_running(self) -> bool:
        try:
            embedded.url(self.folder)
        except embedded.NotRunning:
            return False
        return True


@contextmanager
def started(options: Mapping[str, str]) -> Iterator[tuple[Server, Server]]:
    """The primary and the standby, which has all that the primary has by now."""
    with postgres.open_folder(in_memory=True) as first, postgres.open_folder(in_memory=True) as second:
        bin_dir = postgres.bin_dir() or binaries.find()
        primary = embedded.start(first, options=options, bin_dir=bin_dir)
        try:
            identity = binaries.identity(bin_dir, second)
            data = second / "postgres"
            data.mkdir(mode=0o700)
            password = second / "postgres.password"
            password.write_bytes((first / "postgres.password").read_bytes())
            if user := identity.popen.get("user"):
                os.chown(data, user, identity.popen["group"])
            subprocess.run(
                [*identity.prefix, bin_dir / "pg_basebackup", "-D", data, "-d", primary, "-R", "--checkpoint=fast"],
                check=True,
                timeout=PATIENCE_SECONDS,
                **identity.popen,
            )
            standby = embedded.start(second, options=options, bin_dir=bin_dir)
            yield Server(first, primary, options), Server(second, standby, options)
        finally:
            for folder in (second, first):
                with suppress(embedded.NotRunning):
                    embedded.stop(folder)


async def replayed(primary: Connection, standby: Connection) -> None:
    """Waits until the standby has all that the primary has now."""
    [position] = await (await primary.execute("SELECT pg_current_wal_flush_lsn()")).fetchone() or ()

    async def is_there():
        cursor = await standby.execute(
            "SELECT pg_last_wal_replay_lsn() >= %(position)s::pg_lsn", {"position": str(position)}
        )
        return await cursor.fetchone() == (True,)

    await eventually(is_there)
