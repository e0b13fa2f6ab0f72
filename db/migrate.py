"""Applies and rolls back the migrations in `db/migrations` with yoyo; `python -m db.migrate up|down`.

`NAME.sql` is applied and `NAME.rollback.sql` rolls it back, in the order of their names. A migration and its entry in yoyo's
table are one transaction. The lock that excludes other migrators belongs to a transaction too, so that all of this works through
a pooler in transaction mode.
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
from psycopg import Connection, IsolationLevel
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.exceptions import BadMigration
from yoyo.migrations import Migration, MigrationList, default_migration_table

from db import health, settings
from db.connections import pool
from db.errors import RETRYABLE

FOLDER = Path(__file__).with_name("migrations")
CONNECT_SECONDS = 30
# how often a longer wait is reported again
REMIND_SECONDS = 60
LOCK_SECONDS = 600
NAME = "migrate"
# the key of the advisory lock: any number that no other program uses
LOCK = 7_310_655_121
# A migration that waits for a lock on a table blocks all later statements on that table. So it waits briefly, pauses and tries
# again, for some minutes in all, which is longer than most exports hold their table.
WAIT_SECONDS = 2.0
PAUSE_SECONDS = 3.0
TRIES_MAX = 60


class MigrateError(Exception):
    """The schema could not be changed or read; the message gives the reason in one line."""


def up(database_url: str, *, folder: Path = FOLDER) -> list[str]:
    """Applies the pending migrations and returns their ids. Raises `MigrateError`."""
    with _migrating(database_url) as backend:
        pending = backend.to_apply(_read(folder))
        for migration in pending:
            _move(backend, migration, "apply")
        return [migration.id for migration in pending]


def down(database_url: str, *, folder: Path = FOLDER) -> list[str]:
    """Rolls back the last applied migration and returns its id, if there is one. Raises `MigrateError`."""
    with _migrating(database_url) as backend:
        last = backend.to_rollback(_read(folder))[:1]
        for migration in last:
            _move(backend, migration, "rollback")
        return [migration.id for migration in last]


def pending(database_url: str, *, folder: Path = FOLDER) -> list[str]:
    """The ids of the pending migrations. Raises `MigrateError`."""
    with _migrating(database_url) as backend:
        return [migration.id for migration in backend.to_apply(_read(folder))]


def _move(backend: PostgresqlPsycopgBackend, migration: Migration, direction: Literal["apply", "rollback"]) -> None:
    """Applies or rolls back one migration; retries it when a lock is not free within WAIT_SECONDS."""
    with _explained(migration.id):
        migration.load()
        if not migration.use_transactions:
            # no lock timeout: CREATE INDEX CONCURRENTLY waits for all older transactions, and blocks nothing meanwhile
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
                        f"{migration.id}: could not acquire a lock in {TRIES_MAX} tries of {WAIT_SECONDS:g} s; "
                        f"the oldest open transaction is {_oldest_transaction(backend.connection)}"
                    ) from None
            else:
                return
            time.sleep(PAUSE_SECONDS)


def _move_whole(
    backend: PostgresqlPsycopgBackend, migration: Migration, direction: Literal["apply", "rollback"]
) -> None:
    """Applies or rolls back in one transaction with yoyo's entry, so that a crash leaves both or neither."""
    with backend.transaction():
        _limit(backend.connection, lock_timeout=f"{WAIT_SECONDS * 1000:.0f}", statement_timeout="0")
        migration.process_steps(backend, direction)
        backend.log_migration(migration, direction)
        mark = {"apply": backend.mark_one, "rollback": backend.unmark_one}[direction]
        mark(migration, log=False)


@contextmanager
def _migrating(database_url: str) -> Iterator[PostgresqlPsycopgBackend]:
    """yoyo's backend, with other migrators excluded."""
    with (
        _connect(database_url, CONNECT_SECONDS) as conn,
        _explained("the database cannot be migrated"),
    ):
        _require_usable(conn)
        with _alone(conn), _backend(database_url) as backend:
            # yoyo's lock is a row that a killed migrator leaves behind; our own lock excludes other migrators
            backend.break_lock()
            with backend.lock():
                yield backend


def _require_usable(conn: Connection) -> None:
    if fault := health.encoding_fault(conn.info.parameter_status("server_encoding")):
        raise MigrateError(fault)
    if conn.execute("SHOW transaction_read_only").fetchone() == ("on",):
        raise MigrateError(
            "the database does not accept writes: the server is a standby or default_transaction_read_only is on"
        )


@contextmanager
def _backend(database_url: str) -> Iterator[PostgresqlPsycopgBackend]:
    # as parameters: yoyo's URLs know no list of hosts; nothing is prepared, because a pooler would lose it
    parameters = conninfo_to_dict(database_url) | {
        "application_name": NAME,
        "client_encoding": "UTF8",
        "prepare_threshold": None,
    }
    uri = DatabaseURI("postgresql", None, None, None, None, parameters.pop("dbname", None), parameters)
    with PostgresqlPsycopgBackend(uri, default_migration_table) as backend:
        backend.init_database()
        yield backend


def _connect(database_url: str, wait_seconds: float) -> Connection:
    """A connection in autocommit. Waits up to `wait_seconds` for a server that is starting or unreachable."""
    deadline = time.monotonic() + wait_seconds
    reported, reported_at = "", 0.0
    while True:
        try:
            return psycopg.connect(
                database_url,
                autocommit=True,
                application_name=NAME,
                client_encoding="UTF8",
                connect_timeout=5,
                prepare_threshold=None,
            )
        except psycopg.ProgrammingError:
            # libpq's own message would show the password
            raise MigrateError("DATABASE_URL: not a URL of PostgreSQL") from None
        except psycopg.OperationalError as error:
            reason = str(error).splitlines()[0]
            if time.monotonic() > deadline:
                raise MigrateError(f"no connection to the database after {wait_seconds:g} s: {reason}") from None
            if reason != reported or time.monotonic() - reported_at > REMIND_SECONDS:
                sys.stderr.write(f"waiting for the database: {reason}\n")
                reported, reported_at = reason, time.monotonic()
            time.sleep(0.5)


@contextmanager
def _alone(conn: Connection) -> Iterator[None]:
    """Excludes other migrators, by an advisory lock that an open transaction holds."""
    # at any other level the transaction keeps its snapshot
    conn.isolation_level = IsolationLevel.READ_COMMITTED
    # Polled, each time in a new transaction: CREATE INDEX CONCURRENTLY waits for every transaction with a snapshot, which a
    # waiting statement has. Without a parameter, because the extended protocol keeps the snapshot after the statement.
    attempt = SQL("SELECT pg_try_advisory_xact_lock({})").format(LOCK)
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        with conn.transaction():
            # this connection is idle while the work is done on another one
            _limit(conn, idle_in_transaction_session_timeout="0")
            if conn.execute(attempt).fetchone() == (True,):
                yield
                return
        time.sleep(0.1)
    raise MigrateError(f"another process has been migrating this database for {LOCK_SECONDS} s")


def _limit(conn: Connection, **different: str) -> None:
    """Sets the time limits of the service's sessions for the transaction, except for its duration and those in `different`."""
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
        SELECT format('of process %%s (%%s) since %%s', pid, coalesce(nullif(application_name, ''), 'unnamed'), xact_start)
        FROM pg_stat_activity
        WHERE datname = current_database() AND xact_start IS NOT NULL AND application_name <> %(name)s
        ORDER BY xact_start
        LIMIT 1
        """,
        {"name": NAME},
    ).fetchone()
    return "of a session that has ended" if row is None else row[0]


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, BadMigration) as error:
        reason = health.pooler_fault(error) or " ".join(str(error).split())
        raise MigrateError(f"{what}: {reason}") from error


def _read(folder: Path) -> MigrationList:
    return read_migrations(str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m db.migrate", description="The schema of DATABASE_URL")
    parser.add_argument(
        "direction", choices=["up", "down"], help="apply the pending migrations, or roll back the last one"
    )
    parser.add_argument("--wait", action="store_true", help="wait for the database without a limit")
    arguments = parser.parse_args()
    try:
        move = {"up": up, "down": down}[arguments.direction]
        database_url = pool.conninfo(settings.load())
        if arguments.wait:
            _connect(database_url, math.inf).close()
        moved = move(database_url)
    except (MigrateError, settings.SettingsError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        # while it waits for the database
        sys.exit(130)
    for migration_id in moved:
        sys.stdout.write(f"{'applied' if arguments.direction == 'up' else 'rolled back'} {migration_id}\n")


if __name__ == "__main__":
    main()
