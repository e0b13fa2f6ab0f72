"""The schema's steps in `db/migrations`, applied and rolled back by yoyo; `python -m db.migrate up|down`.

`NAME.sql` goes up and `NAME.rollback.sql` down, in the order of their names. A migration and the note that it was applied are
one transaction, and so is the lock that keeps other migrators out: nothing here leans on a session, which a pooler may change.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.exceptions import BadMigration
from yoyo.migrations import Migration, MigrationList, default_migration_table

from db import settings
from db.connections import pool
from db.embedded import EmbeddedError
from db.errors import RETRYABLE

FOLDER = Path(__file__).with_name("migrations")
CONNECT_SECONDS = 30
# who waits longer says so now and then
REMIND_SECONDS = 60
LOCK_SECONDS = 600
NAME = "migrate"
# any number will do, as long as nobody else locks it
LOCK = 7_310_655_121
# A step that waits for a table makes all who come after it wait too. So it waits for a moment only, lets them pass, and tries
# again; all in all for some minutes, which is longer than most exports hold their table.
WAIT_SECONDS = 2.0
PAUSE_SECONDS = 3.0
TRIES_MAX = 60


class MigrateError(Exception):
    """The schema could not be changed or looked at; the message says why in one line."""


def up(database_url: str, *, folder: Path = FOLDER) -> list[str]:
    """Applies what is pending, and returns the ids of what it applied. Raises `MigrateError`."""
    with _migrating(database_url) as backend:
        pending = backend.to_apply(_read(folder))
        for migration in pending:
            _move(backend, migration, "apply")
        return [migration.id for migration in pending]


def down(database_url: str, *, folder: Path = FOLDER) -> list[str]:
    """Rolls back the last one that is applied, and returns its id, or nothing. Raises `MigrateError`."""
    with _migrating(database_url) as backend:
        last = backend.to_rollback(_read(folder))[:1]
        for migration in last:
            _move(backend, migration, "rollback")
        return [migration.id for migration in last]


def pending(database_url: str, *, folder: Path = FOLDER) -> list[str]:
    """The ids of what `up` would apply. Raises `MigrateError`."""
    with _migrating(database_url) as backend:
        return [migration.id for migration in backend.to_apply(_read(folder))]


def _move(backend: PostgresqlPsycopgBackend, migration: Migration, direction: Literal["apply", "rollback"]) -> None:
    """Applies or rolls back one migration; again, if it got in the way of others, who must not wait for it."""
    with _explained(migration.id):
        migration.load()
        if not migration.use_transactions:
            # Without a limit on its waits, since CREATE INDEX CONCURRENTLY waits for all old transactions, and stops nobody.
            {"apply": backend.apply_one, "rollback": backend.rollback_one}[direction](migration)
            return
        for tries in range(1, TRIES_MAX + 1):
            try:
                _move_whole(backend, migration, direction)
            except RETRYABLE:
                if tries == 1:
                    sys.stderr.write(f"{migration.id}: waiting for a lock\n")
                if tries == TRIES_MAX:
                    raise MigrateError(
                        f"{migration.id}: a lock that it needs was not free in {TRIES_MAX} tries of {WAIT_SECONDS:g} s; "
                        f"the oldest open transaction is that {_oldest_transaction(backend.connection)}"
                    ) from None
            else:
                return
            time.sleep(PAUSE_SECONDS)


def _move_whole(
    backend: PostgresqlPsycopgBackend, migration: Migration, direction: Literal["apply", "rollback"]
) -> None:
    """In one transaction with the note of it, so that a crash leaves both or neither."""
    with backend.transaction():
        _limit(backend.connection, lock_timeout=f"{WAIT_SECONDS * 1000:.0f}", statement_timeout="0")
        migration.process_steps(backend, direction)
        backend.log_migration(migration, direction)
        mark = {"apply": backend.mark_one, "rollback": backend.unmark_one}[direction]
        mark(migration, log=False)


@contextmanager
def _migrating(database_url: str) -> Iterator[PostgresqlPsycopgBackend]:
    """yoyo, while nobody else migrates."""
    with (
        _connect(database_url, CONNECT_SECONDS) as conn,
        _explained("the database cannot be migrated"),
        _alone(conn),
    ):
        # as parameters: yoyo's own reading of URLs knows no list of hosts; nothing prepared, which a pooler would lose
        parameters = conninfo_to_dict(database_url) | {"application_name": NAME, "prepare_threshold": None}
        uri = DatabaseURI("postgresql", None, None, None, None, parameters.pop("dbname", None), parameters)
        with PostgresqlPsycopgBackend(uri, default_migration_table) as backend:
            backend.init_database()
            # yoyo's lock is a row that a killed migrator leaves behind; ours, held by now, is gone with its transaction
            backend.break_lock()
            with backend.lock():
                yield backend


def _connect(database_url: str, wait_seconds: float) -> Connection:
    """A connection in autocommit, to a database that may still be starting."""
    deadline = time.monotonic() + wait_seconds
    told, told_at = "", 0.0
    while True:
        try:
            return psycopg.connect(
                database_url, autocommit=True, application_name=NAME, connect_timeout=5, prepare_threshold=None
            )
        except psycopg.ProgrammingError:
            # libpq's own message would show the password
            raise MigrateError("DATABASE_URL: not a URL of PostgreSQL") from None
        except psycopg.OperationalError as error:
            reason = str(error).splitlines()[0]
            if time.monotonic() > deadline:
                raise MigrateError(f"no connection to the database after {wait_seconds:g} s: {reason}") from None
            if reason != told or time.monotonic() - told_at > REMIND_SECONDS:
                sys.stderr.write(f"waiting for the database: {reason}\n")
                told, told_at = reason, time.monotonic()
            time.sleep(0.5)


@contextmanager
def _alone(conn: Connection) -> Iterator[None]:
    """Keeps other migrators out, by an open transaction."""
    # Polled, each time in a transaction of its own: CREATE INDEX CONCURRENTLY waits for every transaction that it sees with a
    # snapshot, as a statement has that waits. Without a parameter, as the protocol for those keeps the snapshot afterwards.
    attempt = SQL("SELECT pg_try_advisory_xact_lock({})").format(LOCK)
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        with conn.transaction():
            # this one rests while the work is done on another connection
            _limit(conn, idle_in_transaction_session_timeout="0")
            if conn.execute(attempt).fetchone() == (True,):
                yield
                return
        time.sleep(0.1)
    raise MigrateError(f"somebody else has been migrating this database for {LOCK_SECONDS} s")


def _limit(conn: Connection, **different: str) -> None:
    """Gives the transaction the limits of the service's sessions, but for those that are `different`: it may last."""
    limits = {**pool.SESSION, "transaction_timeout": "0", **different}
    conn.execute(
        """
        SELECT set_config(name, wanted.setting, true)
        FROM unnest(%(names)s::text[], %(settings)s::text[]) AS wanted (name, setting)
        JOIN pg_settings USING (name)
        """,
        {"names": list(limits), "settings": list(limits.values())},
    )


def _oldest_transaction(conn: Connection) -> str:
    row = conn.execute(
        """
        SELECT format('of process %%s, %%s, since %%s', pid, coalesce(nullif(application_name, ''), 'unnamed'), xact_start)
        FROM pg_stat_activity
        WHERE datname = current_database() AND xact_start IS NOT NULL AND application_name <> %(name)s
        ORDER BY xact_start
        LIMIT 1
        """,
        {"name": NAME},
    ).fetchone()
    return "of nobody by now" if row is None else row[0]


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
    parser.add_argument("--wait", action="store_true", help="wait for a database that is away, however long")
    arguments = parser.parse_args()
    try:
        move = {"up": up, "down": down}[arguments.direction]
        database_url = pool.conninfo(settings.load())
        if arguments.wait:
            _connect(database_url, math.inf).close()
        moved = move(database_url)
    except (MigrateError, EmbeddedError, settings.SettingsError) as error:
        sys.exit(str(error))
    for migration_id in moved:
        sys.stdout.write(f"{'applied' if arguments.direction == 'up' else 'rolled back'} {migration_id}\n")


if __name__ == "__main__":
    main()
