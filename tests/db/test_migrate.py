"""Migrations are applied and rolled back, with concurrent migrators and after crashes."""

import asyncio
import re
from pathlib import Path

import psycopg
import pytest

from db import migrate
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.migrations import start_migrator

SCHEMA = {
    "columns": """
        SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE '%yoyo%'
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text NOT LIKE '%yoyo%'
    """,
    "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename NOT LIKE '%yoyo%'",
    "tables": """
        SELECT relname, relkind, reloptions::text FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE '%yoyo%'
    """,
    "functions": "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "triggers": "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'",
    "types": """
        SELECT typname, typtype::text FROM pg_type
        WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd') AND typname NOT LIKE '%yoyo%'
    """,
}


def schema(url: str) -> dict[str, list]:
    with psycopg.connect(url) as conn:
        return {kind: sorted(conn.execute(query).fetchall(), key=repr) for kind, query in SCHEMA.items()}


def ids(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.sql") if not path.name.endswith(".rollback.sql"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two migrations: a table, and an index that is built outside of a transaction."""
    (tmp_path / "0001.things.sql").write_text("CREATE TABLE things (id int);\nCREATE TABLE more_things (id int);\n")
    (tmp_path / "0001.things.rollback.sql").write_text("DROP TABLE more_things;\nDROP TABLE things;\n")
    (tmp_path / "0002.index.sql").write_text(
        "-- transactional: false\nCREATE INDEX CONCURRENTLY things_id ON things (id);\n"
    )
    (tmp_path / "0002.index.rollback.sql").write_text("-- transactional: false\nDROP INDEX CONCURRENTLY things_id;\n")
    return tmp_path


def test_each_migration_depends_on_the_one_before():
    """The numbers are consecutive and the order is one line, so that every database has gone through the same states."""
    known = ids(migrate.FOLDER)
    assert [id[:5] for id in known] == [f"{number:04}." for number in range(1, len(known) + 1)]
    depends = [
        re.findall(r"^-- depends: (.+)$", (migrate.FOLDER / f"{id}.sql").read_text(), re.MULTILINE) for id in known
    ]
    assert depends == [[], *([earlier] for earlier in known[:-1])]


def test_up_down_up_gives_the_same_schema(empty_database_url):
    """Every rollback undoes all that its migration did, and nothing else."""
    known = ids(migrate.FOLDER)
    empty = schema(empty_database_url)
    assert migrate.up(empty_database_url) == known
    whole = schema(empty_database_url)
    assert whole != empty
    assert [migrate.down(empty_database_url) for _ in known] == [[name] for name in reversed(known)]
    assert schema(empty_database_url) == empty
    assert migrate.down(empty_database_url) == []
    assert migrate.pending(empty_database_url) == known
    migrate.up(empty_database_url)
    assert schema(empty_database_url) == whole
    assert migrate.pending(empty_database_url) == []


async def test_two_migrators_at_once_do_it_once(empty_database_url, folder):
    """Of two processes that start together each migration is applied by one, and neither fails."""
    both = await asyncio.gather(
        *(asyncio.to_thread(migrate.up, empty_database_url, folder=folder) for _ in range(2)),
    )
    assert sorted(both) == [[], ["0001.things", "0002.index"]]


async def test_a_migrator_waits_for_the_other(empty_database_url, folder):
    """While another one migrates nothing is changed, and the wait blocks no CREATE INDEX CONCURRENTLY."""
    with psycopg.connect(empty_database_url, autocommit=True) as first:
        first.execute("SELECT pg_advisory_lock(%s)", [migrate.LOCK])
        first.execute("CREATE TABLE other_things (id int)")
        second = asyncio.create_task(asyncio.to_thread(migrate.up, empty_database_url, folder=folder))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'migrate' AND datname = current_database()"
        await eventually(lambda: first.execute(waiting).fetchone())
        first.execute("CREATE INDEX CONCURRENTLY other_things_id ON other_things (id)")
        assert first.execute("SELECT to_regclass('things')").fetchone() == (None,)
    assert await second == ["0001.things", "0002.index"]


async def test_a_killed_migrator_blocks_no_other(empty_database_url, folder):
    """After a kill -9 yoyo's own lock remains; the next migrator ignores it."""
    (folder / "0003.slow.sql").write_text("SELECT pg_sleep(60);\n")
    killed = start_migrator(empty_database_url, folder)
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        sleeping = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        await eventually(lambda: conn.execute(sleeping).fetchone())
        killed.kill()
        killed.wait(PATIENCE_SECONDS)
        assert conn.execute("SELECT count(*) FROM yoyo_lock").fetchone() == (1,)
    (folder / "0003.slow.sql").write_text("SELECT 1;\n")
    assert migrate.up(empty_database_url, folder=folder) == ["0003.slow"]


def test_a_migration_that_fails_changes_nothing(empty_database_url, folder):
    """It is named in the error, rolled back as a whole, and pending still; those before it stay."""
    (folder / "0003.broken.sql").write_text("CREATE TABLE half (id int);\nSELECT nothing;\n")
    with pytest.raises(migrate.MigrateError, match=r'^0003\.broken: column "nothing" does not exist'):
        migrate.up(empty_database_url, folder=folder)
    assert migrate.pending(empty_database_url, folder=folder) == ["0003.broken"]
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute("SELECT to_regclass('half'), to_regclass('things')::text").fetchone() == (None, "things")


def test_an_unreachable_database_is_one_clear_line(monkeypatch):
    """After a bounded wait the error says where the connection failed and why."""
    monkeypatch.setattr(migrate, "CONNECT_SECONDS", 0)
    with pytest.raises(migrate.MigrateError, match=r'^no connection to the database.*"127\.0\.0\.1", port 1 failed'):
        migrate.up("postgresql://127.0.0.1:1/x")
    with pytest.raises(migrate.MigrateError) as error:
        migrate.up("mysql://user:secret@127.0.0.1/x")
    assert str(error.value) == "DATABASE_URL: not a URL of PostgreSQL"
