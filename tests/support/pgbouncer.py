"""A PgBouncer for tests, with the settings that db/README.md recommends."""

import os
import pwd
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db import embedded
from db.connections import pool
from db.connections.pgbouncer import PgBouncerConnection
from tests.support import ROOT, postgres, programs
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.service import unused_port


class Bouncer:
    """`url(direct)` is the URL through it to the database of a direct URL."""

    def __init__(self, configuration: Path, port: int) -> None:
        self.configuration = configuration
        self.port = port

    def url(self, direct: str) -> str:
        name = conninfo_to_dict(direct)["dbname"]
        return f"postgresql://bulk@127.0.0.1:{self.port}/{name}"

    async def start(self) -> None:
        self._launch()
        await eventually(self._listens)

    def _launch(self) -> None:
        user = {}
        if os.geteuid() == 0:
            # it refuses to run as root
            nobody = pwd.getpwnam("nobody")
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        with self.configuration.with_name("log").open("ab") as log:
            self.popen = subprocess.Popen(
                [programs.find("pgbouncer") or "", self.configuration],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=embedded.die_with_parent(signal.SIGTERM),
                **user,
            )

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(PATIENCE_SECONDS)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def prepared(server_url: str, **settings: object) -> Iterator[Bouncer]:
    """A PgBouncer that is not started yet, and is killed at the end. `settings` are added to those of db/README.md."""
    port = unused_port()
    with postgres.open_folder() as folder:
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(_configuration(server_url, {"listen_port": port, **settings}))
        bouncer = Bouncer(configuration, port)
        try:
            yield bouncer
        finally:
            if hasattr(bouncer, "popen"):
                bouncer.kill()


async def connected(url: str, name: str) -> PgBouncerConnection:
    """A connection through a PgBouncer, with the session limits of the service."""
    connection = await PgBouncerConnection.connect(url, autocommit=True, application_name=name)
    await pool.configure(connection, statement_seconds=60)
    return connection


def _configuration(server_url: str, settings: Mapping[str, object]) -> str:
    """The sample of db/README.md with other paths, ports and authentication."""
    sample = re.search(r"```ini\n(.*?)```", (ROOT / "db" / "README.md").read_text(), re.DOTALL)
    assert sample
    parser = ConfigParser(interpolation=None)
    parser.read_string(sample[1])
    server = {k: v for k, v in conninfo_to_dict(server_url).items() if k in ("host", "port", "user", "password")}
    del parser["pgbouncer"]["auth_file"]
    given = {"auth_type": "any", "unix_socket_dir": "", "admin_users": "bulk", **settings}
    lines = [f"{name} = {value}" for name, value in {**parser["pgbouncer"], **given}.items()]
    return "\n".join(["[databases]", f"* = {make_conninfo('', **server)}", "[pgbouncer]", *lines, ""])
