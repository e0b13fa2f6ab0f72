"""Migrations while processes of the previous version run, and processes that start before the migrations."""

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest

from db import migrate
from tests.support import api_client
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.exports import create
from tests.support.factories import queued, rows, users
from tests.support.migrations import start_migrator
from tests.support.service import running_service
from tests.support.workers import ended

# What a later version may do to the tables that are in use: expand them.
FUTURE = {
    "9001.future": """
        ALTER TABLE users ADD nickname text;
        ALTER TABLE chunks ADD priority integer NOT NULL DEFAULT 0;
        ALTER TABLE chunks DROP CONSTRAINT chunks_state_check;
        ALTER TABLE chunks ADD CONSTRAINT chunks_state_check
            CHECK (state IN ('pending', 'running', 'done', 'failed', 'cancelled', 'paused')) NOT VALID;
    """,
    "9002.validate": "ALTER TABLE chunks VALIDATE CONSTRAINT chunks_state_check;",
    "9003.index": """-- transactional: false
        DROP INDEX CONCURRENTLY IF EXISTS users_nickname;
        CREATE INDEX CONCURRENTLY users_nickname ON users (nickname);
    """,
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """The migrations of this version, to which a test may add."""
    return Path(shutil.copytree(migrate.FOLDER, tmp_path / "migrations"))


@pytest.fixture
def hasty(monkeypatch):
    """Shorter waits, in the same proportions."""
    monkeypatch.setattr(migrate, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.5)


def write(folder: Path, migrations: dict[str, str]) -> None:
    for name, statements in migrations.items():
        (folder / f"{name}.sql").write_text(statements)


async def test_imports_go_on_while_the_schema_grows(service, conn, database_url, folder, hasty):
    """Workers of the old version work on through the migrations of the next: no attempt fails, and no worker ends."""
    write(folder, FUTURE)
    processes = (await service(run=["workers"], worker_pool_size=2, poll_seconds=0.2)).workers
    await eventually(lambda: len(processes.children()) == 2)
    workers = processes.children()
    migrating: asyncio.Task | None = None
    first = 1
    # the first begins before the migrations do; the last one of all, below, after them
    while migrating is None or not migrating.done():
        id = await queued(conn, users(100, first=first), sizes=[1] * 100)
        first += 100
        await eventually(lambda job=id: rows(conn, HAS_BEGUN, id=job))
        migrating = migrating or asyncio.create_task(asyncio.to_thread(migrate.up, database_url, folder=folder))
        assert (await ended(conn, id)).created == 100
    assert await migrating == sorted(FUTURE)
    id = await queued(conn, users(100, first=first), sizes=[1] * 100)
    assert (await ended(conn, id)).created == 100
    assert await rows(conn, "SELECT DISTINCT attempt, crashes, last_error FROM chunks") == [(1, 0, None)]
    assert processes.children() == workers


HAS_BEGUN = "SELECT id FROM chunks WHERE job_id = %(id)s AND state <> 'pending' LIMIT 1"


async def test_the_old_names_still_work(conn):
    """A value that a process of the previous version writes under an old name is read under the new one, and vice versa."""
    id = await queued(conn, users(3), sizes=[1] * 3)
    old = "UPDATE chunks SET accident = %s, not_before = %s, counted_with = %s WHERE seq = 1"
    new = "UPDATE chunks SET last_error = %s, retry_at = %s, counted_in_seq = %s WHERE seq = 2"
    both = """
        SELECT accident, not_before, counted_with, last_error, retry_at, counted_in_seq
        FROM chunks
        WHERE seq <= 2
        ORDER BY seq
    """
    for values in ("disk full", datetime(2030, 1, 1, tzinfo=UTC), 7), (None, None, None):
        await conn.execute(old, values)
        await conn.execute(new, values)
        assert await rows(conn, both) == [values * 2] * 2
    assert await rows(conn, "SELECT import_line(%(id)s, 2), import_record_line(%(id)s, 2)", id=id) == [(2, 2)]
    assert await rows(conn, "SELECT import_names(%(id)s, 1, 'none'), import_sent_id(%(id)s, 1, 'none')", id=id) == [
        (False, False)
    ]


async def test_the_old_name_of_export_progress_still_works(conn):
    """The statement with which a worker of the previous version reports the progress of an export still works."""
    export = await create(conn, "users")
    statement = """
        INSERT INTO export_tallies AS tally (export_id, lease, total_records, records)
        VALUES (%(id)s, 1, 10, %(records)s)
        ON CONFLICT (export_id) DO UPDATE SET records = excluded.records
        WHERE tally.lease <= excluded.lease
    """
    for records in (1, 2):
        await conn.execute(statement, {"id": export, "records": records})
    assert await rows(conn, "SELECT lease, records FROM export_progress_reports") == [(1, 2)]


async def test_a_migration_that_waits_does_not_block_others(service, conn, other, database_url, folder, hasty, capfd):
    """While a migration waits for the lock of a long transaction, an import runs to its end; then the migration is applied."""
    write(folder, {"9001.future": FUTURE["9001.future"]})
    await service(run=["workers"], worker_pool_size=2, poll_seconds=0.2)
    async with other.transaction():
        await other.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await other.execute("SELECT count(*) FROM chunks")
        migrating = asyncio.create_task(asyncio.to_thread(migrate.up, database_url, folder=folder))
        waiting = "SELECT pid FROM pg_locks WHERE relation = 'chunks'::regclass AND NOT granted AND mode = 'AccessExclusiveLock'"
        await eventually(lambda: rows(conn, waiting))
        id = await queued(conn, users(100), sizes=[1] * 100)
        assert (await ended(conn, id)).created == 100
        assert not migrating.done()
    assert await migrating == ["9001.future"]
    assert capfd.readouterr().err.count("9001.future: waiting for a lock") == 1


async def test_a_lock_that_is_never_released_ends_the_wait(other, database_url, folder, hasty, monkeypatch):
    """After its tries the migration fails, names the transaction that blocks it, and has changed nothing."""
    monkeypatch.setattr(migrate, "TRIES_MAX", 2)
    write(folder, {"9001.future": "CREATE TABLE first (id int); ALTER TABLE users ADD nickname text;"})
    async with other.transaction():
        await other.execute("LOCK TABLE users IN ACCESS SHARE MODE")
        message = r"^9001\.future: could not acquire a lock in 2 tries of 0\.3 s; .* of process \d+ \(other\) since"
        with pytest.raises(migrate.MigrateError, match=message):
            await asyncio.to_thread(migrate.up, database_url, folder=folder)
        assert await rows(other, "SELECT to_regclass('first')") == [(None,)]
    assert migrate.pending(database_url, folder=folder) == ["9001.future"]


async def test_a_migration_is_atomic_in_a_crash(conn, database_url, folder):
    """A migrator that is killed before its entry in yoyo's table has changed nothing, and the next one succeeds."""
    write(folder, {"9001.future": FUTURE["9001.future"]})
    async with await psycopg.AsyncConnection.connect(database_url) as holder:
        await holder.execute("LOCK TABLE _yoyo_migration IN SHARE MODE")
        migrator = start_migrator(database_url, folder)
        noting = "SELECT pid FROM pg_locks WHERE relation = '_yoyo_migration'::regclass AND NOT granted"
        await eventually(lambda: rows(conn, noting))
        migrator.kill()
        migrator.wait(PATIENCE_SECONDS)
    assert await asyncio.to_thread(migrate.up, database_url, folder=folder) == ["9001.future"]


@pytest.mark.parametrize("applied", [0, 5, -1])
async def test_processes_that_start_too_early_wait(empty_database_url, tmp_path, applied):
    """On no schema, an old one, and one that lacks the newest migration only, workers claim nothing and the API is not ready.

    Both report why. An upload is refused and stores nothing, so that a client that repeats it imports it once. Both continue by
    themselves when the migrations are applied.
    """
    names = sorted(path.stem for path in migrate.FOLDER.glob("*.sql") if not path.stem.endswith(".rollback"))
    old = tmp_path / "old"
    old.mkdir()
    for name in names[:applied]:
        shutil.copy(migrate.FOLDER / f"{name}.sql", old)
    await asyncio.to_thread(migrate.up, empty_database_url, folder=old)
    async with (
        running_service(tmp_path, empty_database_url, worker_pool_size=2, poll_seconds=0.2) as running,
        httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_SECONDS) as client,
    ):
        assert running.workers
        missing = f"not applied: {', '.join(names[applied:])}"
        await eventually(lambda: running.workers.output.count(f"MigrationsMissing: {missing}") == 2)
        workers = running.workers.children()
        await eventually(lambda: is_missing(client, missing))
        posted = await post(client)
        assert (posted.status_code, posted.headers["retry-after"]) == (503, "5")
        await asyncio.to_thread(migrate.up, empty_database_url)
        async with await psycopg.AsyncConnection.connect(empty_database_url) as conn:
            assert await rows(conn, "SELECT id FROM import_jobs") == []
        await eventually(lambda: is_ready(client))
        posted = await post(client)
        await eventually(lambda: is_completed(client, posted.headers["location"]))
        assert running.workers.children() == workers


async def is_missing(client: httpx.AsyncClient, migrations: str) -> bool:
    answer = await client.get("/ready")
    return (answer.status_code, answer.json()["checks"]["migrations"].get("detail")) == (503, migrations)


async def post(client: httpx.AsyncClient) -> httpx.Response:
    file = USERS_HEADER + user_row(1)
    return await client.post(
        api_client.PATH, content=file, params={"resource": "users"}, headers={"Content-Type": "text/csv"}
    )


async def is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/ready")).status_code == 200


async def is_completed(client: httpx.AsyncClient, address: str) -> bool:
    return (await client.get(address)).json()["status"] == "completed"
