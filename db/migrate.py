"""The schema's steps in `db/migrations`, applied and rolled back by yoyo; `python -m db.migrate up|down`.

`NAME.sql` goes up and `NAME.rollback.sql` down, in the order of their names.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.exceptions import BadMigration
from yoyo.migrations import MigrationList, default_migration_table

from db import pool, settings
from db.embedded import EmbeddedError

FOLDER = Path(__file__).with_name("migrations")
CONNECT_SECONDS = 30
LOCK_SECONDS = 600
# any number will do, as long as nobody else locks it
LOCK = 7_310_655_121


class MigrateError(Exception):
    """The schema could not be changed or looked at; the message says why in one line."""


def up(database_url: str, *, folder: Path = FOLDER) -> list[str]:
    """Applies what is pending, and returns the ids of what it applied. Raises `MigrateError`."""
    with _migrating(database_url) as backend:
        pending = backend.to_apply(_read(folder))
        for migration in pending:
            with _explained(migration.id):
                backend.apply_one(migration)
        return [migration.id for migration in pending]


def down(database_url: str, *, folder: Path = FOLDER) -> list[str]:
    """Rolls back the last one that is applied, and returns its id, or nothing. Raises `MigrateError`."""
    with _migrating(database_url) as backend:
        last = backend.to_rollback(_read(folder))[:1]
        for migration in last:
            with _explained(migration.id):
                backend.rollback_one(migration)
        return [migration.id for migration in last]


def pending(database_url: str, *, folder: Path = FOLDER) -> list[str]:
    """The ids of what `up` would apply. Raises `MigrateError`."""
    with _migrating(database_url) as backend:
        return [migration.id for migration in backend.to_apply(_read(folder))]


class _Backend(PostgresqlPsycopgBackend):
    def init_connection(self, connection: Connection) -> None:
        super().init_connection(connection)
        # a step that waits for a lock makes all who come after it wait too: better that it fails and is tried again
        connection.execute("SET lock_timeout = '10s'")


@contextmanager
def _migrating(database_url: str) -> Iterator[_Backend]:
    """yoyo, while nobody else migrates."""
    with _connect(database_url) as conn, _explained("the database cannot be migrated"):
        _lock(conn)
        parameters = conninfo_to_dict(database_url)
        # as parameters: yoyo's own reading of URLs knows no list of hosts
        uri = DatabaseURI("postgresql", None, None, None, None, parameters.pop("dbname", None), parameters)
        with _Backend(uri, default_migration_table) as backend:
            backend.init_database()
            # yoyo's lock is a row that a killed migrator leaves behind; ours, held by now, is gone with its session
            backend.break_lock()
            with backend.lock():
                yield backend


def _connect(database_url: str) -> Connection:
    """A connection in autocommit, to a database that may still be starting."""
    deadline = time.monotonic() + CONNECT_SECONDS
    told = False
    while True:
        try:
            return psycopg.connect(database_url, autocommit=True, application_name="migrate", connect_timeout=5)
        except psycopg.ProgrammingError:
            # libpq's own message would show the password
            raise MigrateError("DATABASE_URL: not a URL of PostgreSQL") from None
        except psycopg.OperationalError as error:
            reason = str(error).splitlines()[0]
            if time.monotonic() > deadline:
                raise MigrateError(f"no connection to the database after {CONNECT_SECONDS} s: {reason}") from None
            if not told:
                sys.stderr.write(f"waiting for the database: {reason}\n")
                told = True
            time.sleep(0.5)


def _lock(conn: Connection) -> None:
    # Polled, since a statement that waits holds a snapshot, and CREATE INDEX CONCURRENTLY waits for all snapshots.
    deadline = time.monotonic() + LOCK_SECONDS
    while conn.execute("SELECT pg_try_advisory_lock(%(lock)s)", {"lock": LOCK}).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise MigrateError(f"somebody else has been migrating this database for {LOCK_SECONDS} s")
        time.sleep(0.1)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, BadMigration) as error:
        raise MigrateError(f"{what}: {' '.join(str(error).split())}") from error


def _read(folder: Path) -> MigrationList:
    return read_migrations(str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m db.migrate", description="The schema of DATABASE_URL")
    parser.add_argument(
        "direction", choices=["up", "down"], help="apply all that is pending, or roll back the last one"
    )
    arguments = parser.parse_args()
    try:
        move = {"up": up, "down": down}[arguments.direction]
        moved = move(pool.conninfo(settings.load()))
    except (MigrateError, EmbeddedError, settings.SettingsError) as error:
        sys.exit(str(error))
    for migration_id in moved:
        sys.stdout.write(f"{'applied' if arguments.direction == 'up' else 'rolled back'} {migration_id}\n")


if __name__ == "__main__":
    main()
