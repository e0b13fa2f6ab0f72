"""Watermarks of incremental exports on a server that crashes, is restored, and has run for many transactions."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from db import embedded, migrate
from db.connections.pool import Connection
from db.embedded import binaries
from db.exports import watermarks
from db.exports.watermarks import Expired, Watermark
from tests.support import postgres
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.exports import STREAM
from tests.support.factories import rows, stored_user
from tests.support.increments import Copy
from tests.support.service import running_service

# a recovery that finds no archive, and then begins a new timeline
OPTIONS = postgres.FAST | {"restore_command": "false"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder of a server of the test's own, which is running."""
    with postgres.open_folder(in_memory=True) as folder:
        migrate.up(start(folder))
        yield folder
        embedded.stop(folder)


def start(folder: Path) -> str:
    return embedded.start(folder, options=OPTIONS, bin_dir=postgres.bin_dir() or binaries.find())


def set_epoch(folder: Path, epoch: int) -> None:
    """Makes a stopped server continue as if it had run for `epoch` times 2^32 transactions."""
    bin_dir = postgres.bin_dir() or binaries.find()
    identity = binaries.identity(bin_dir, folder)
    command = [*identity.prefix, bin_dir / "pg_resetwal", f"--epoch={epoch}", "-D", folder / "postgres"]
    subprocess.run(command, check=True, timeout=PATIENCE_SECONDS, **identity.popen)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        yield conn


async def test_what_a_client_has_received_survives_a_crash(folder, tmp_path):
    """A stream is sent when all that it contains is on disk, though the commits of imports do not wait for that."""
    url = start(folder)
    async with (
        connected(url) as conn,
        running_service(tmp_path, url, run=["api"]) as service,
        httpx.AsyncClient(base_url=service.url, timeout=PATIENCE_SECONDS) as client,
    ):
        [(writer,)] = await rows(conn, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
        os.kill(writer, signal.SIGSTOP)
        try:
            await conn.execute("SET synchronous_commit = off")
            await stored_user(conn, 1)
            [(written, flushed)] = await rows(
                conn,
                "SELECT pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()",
            )
            assert not flushed
            assert "user1@" in (await client.get(STREAM.format("users"))).text
            assert await rows(conn, "SELECT pg_current_wal_flush_lsn() >= %(written)s::pg_lsn", written=written) == [
                (True,)
            ]
        finally:
            os.kill(writer, signal.SIGCONT)


async def test_a_restored_server(folder):
    """After a recovery to a new timeline, as by a failover or a restore, an earlier watermark is refused."""
    async with connected(start(folder)) as conn:
        before = (await watermarks.begin(conn, None)).watermark
    embedded.stop(folder)
    (folder / "postgres" / "recovery.signal").touch(mode=0o644)
    async with connected(start(folder)) as conn:

        async def is_primary() -> bool:
            return await rows(conn, "SELECT NOT pg_is_in_recovery()") == [(True,)]

        # connections are accepted before the end of the recovery
        await eventually(is_primary)
        with pytest.raises(Expired):
            await watermarks.begin(conn, before)


async def test_more_transactions_than_a_row_can_number(folder):
    """Watermarks continue beyond 2^32 transactions; one that is as many behind is refused."""
    async with connected(start(folder)) as conn:
        old = (await watermarks.begin(conn, None)).watermark
    embedded.stop(folder)
    set_epoch(folder, 3)
    async with connected(start(folder)) as conn:
        copy = Copy("users")
        for number in range(3):
            id = await stored_user(conn, number)
            assert str(id) in await copy.export(conn)
            await copy.settle(conn)
        watermark = Watermark.parse(copy.watermark or "")
        assert watermark.transaction > 3 << 32
        with pytest.raises(Expired):
            await watermarks.begin(conn, Watermark(history=watermark.history, transaction=old.transaction))
