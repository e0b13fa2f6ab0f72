"""A PostgreSQL server to test with, and databases on it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg.sql import SQL, Identifier

from db import embedded

SETTINGS = {
    # data of tests must survive a crash of a process, but not of the machine
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    # as in the service's own sessions: a test's plain connection would compile statements for up to a second each
    "jit": "off",
}
FAST = {**embedded.TCP, **SETTINGS}
# a file system in memory; a test needs much less than this space
MEMORY = Path("/dev/shm")  # noqa: S108
ROOM_BYTES = 4 << 30


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server whose user may create databases.

    TEST_DATABASE_URL; else what TEST_POSTGRES says, `container` or `container:TAG`; else a server of our own, of the
    binaries in TEST_POSTGRES_BIN if that is set.
    """
    kind, _, tag = os.environ.get("TEST_POSTGRES", "").partition(":")
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
    elif kind == "container":
        # imported only here, because nothing else needs a container engine
        from docker.errors import DockerException
        from testcontainers.community.postgres import PostgresContainer

        try:
            # a container has 64 MB of shared memory by default, which parallel queries exceed
            container = PostgresContainer(f"postgres:{tag or '18'}", driver=None).with_kwargs(shm_size="512m")
            container.with_command(
                ["postgres", *(part for pair in SETTINGS.items() for part in ("-c", "=".join(pair)))]
            )
            container.start()
        except DockerException as error:
            raise embedded.EmbeddedError(f"TEST_POSTGRES={kind}: {error}") from error
        try:
            yield container.get_connection_url()
        finally:
            container.stop()
    else:
        with open_folder(in_memory=True) as folder:
            url = embedded.start(folder, options=FAST, bin_dir=bin_dir())
            try:
                yield url
            finally:
                embedded.stop(folder)


@contextmanager
def open_folder(*, in_memory: bool = False) -> Iterator[Path]:
    """A scratch folder that other users may enter: if the tests run as root, PostgreSQL runs as another user.

    `in_memory`, if there is enough space and TMPDIR is not set: each test has a database of its own, and writing its files is
    most of the cost.
    """
    with tempfile.TemporaryDirectory(prefix="bulk-test-", dir=_memory() if in_memory else None) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def _memory() -> Path | None:
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return None
    return MEMORY if shutil.disk_usage(MEMORY).free >= ROOM_BYTES else None


def bin_dir() -> Path | None:
    given = os.environ.get("TEST_POSTGRES_BIN")
    return Path(given) if given else None


def create_database(server_url: str, *, template: str = "template1") -> str:
    """Makes a database that is a copy of `template`, and returns its name."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
    return name


def drop_database(server_url: str, name: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


def database_url(server_url: str, name: str) -> str:
    """`server_url` with the database `name`, still a URL."""
    base, question, parameters = server_url.partition("?")
    prefix, host = base.split("://", 1)
    return f"{prefix}://{host.split('/', 1)[0]}/{name}{question}{parameters}"
