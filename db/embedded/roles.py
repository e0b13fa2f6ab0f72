"""The roles of the embedded server: the superuser, and the service's role, which owns the database and has no other rights."""

import secrets
from pathlib import Path

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier, Literal

from db.embedded import access
from db.embedded.access import NAME, SUPERUSER

# exists while a data folder of an earlier version is changed
_HELPER = "bulk_upgrade"

# The objects of the database's own schemas. A sequence of a table's column has the table's owner.
_ALTER_OWNERS = """
    WITH own_schema AS (
        SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    )
    SELECT format('ALTER SCHEMA %%I OWNER TO %%I', nspname, %(name)s::text)
    FROM own_schema
    WHERE nspname <> 'public'
    UNION ALL
    SELECT format(
        'ALTER %%s %%s OWNER TO %%I',
        CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
        pg_class.oid::regclass,
        %(name)s::text
    )
    FROM pg_class
    JOIN own_schema ON own_schema.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm', 'S')
        AND NOT EXISTS (
            SELECT 1
            FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype IN ('a', 'i') AND relkind = 'S'
        )
    UNION ALL
    SELECT format('ALTER ROUTINE %%s OWNER TO %%I', pg_proc.oid::regprocedure, %(name)s::text)
    FROM pg_proc
    JOIN own_schema ON own_schema.oid = pronamespace
"""


def create(data_path: Path, port: int, *, with_tcp: bool) -> None:
    """Creates the service's role and database if they do not exist; with TCP, sets a password for the superuser."""
    try:
        conn = _connect(data_path, port, SUPERUSER)
    except psycopg.OperationalError:
        _demote(data_path, port)
        conn = _connect(data_path, port, SUPERUSER)
    with conn:
        if conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
            return
        conn.execute(SQL("DROP ROLE IF EXISTS {}").format(Identifier(_HELPER)))
        if not _has_role(conn, NAME):
            _create_service_role(conn)
        if not _has_database(conn):
            conn.execute(SQL("CREATE DATABASE {} OWNER {}").format(Identifier(NAME), Identifier(NAME)))
        if with_tcp:
            conn.execute(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(SUPERUSER), Literal(_password(data_path))))


def _demote(data_path: Path, port: int) -> None:
    """Takes the superuser's rights from the service's role in a data folder of an earlier version.

    There the service's role is the superuser that initdb created, which cannot become an ordinary role. So it is renamed, and a
    new role gets its former name and the objects in the database. Another superuser does it, because a session cannot rename
    its own role. After a crash the next start repeats it: all changes but that role are one transaction.
    """
    with _connect(data_path, port, NAME) as conn:
        if not _has_role(conn, _HELPER):
            conn.execute(SQL("CREATE ROLE {} LOGIN SUPERUSER").format(Identifier(_HELPER)))
        has_database = _has_database(conn)
    with _connect(data_path, port, _HELPER, NAME if has_database else "postgres") as conn, conn.transaction():
        name = Identifier(NAME)
        conn.execute(SQL("ALTER ROLE {} RENAME TO {}").format(name, Identifier(SUPERUSER)))
        _create_service_role(conn)
        if has_database:
            conn.execute(SQL("ALTER DATABASE {} OWNER TO {}").format(name, name))
            for (statement,) in conn.execute(_ALTER_OWNERS, {"name": NAME}).fetchall():
                conn.execute(statement)


def _connect(data_path: Path, port: int, user: str, database: str = "postgres") -> Connection[TupleRow]:
    return psycopg.connect(access.socket_url(data_path, port, user=user, database=database), autocommit=True)


def _create_service_role(conn: Connection[TupleRow]) -> None:
    # pg_monitor, so that views and metrics see the sessions of other roles
    conn.execute(SQL("CREATE ROLE {} LOGIN IN ROLE pg_monitor").format(Identifier(NAME)))


def _has_role(conn: Connection[TupleRow], name: str) -> bool:
    return conn.execute("SELECT FROM pg_roles WHERE rolname = %(name)s", {"name": name}).fetchone() is not None


def _has_database(conn: Connection[TupleRow]) -> bool:
    return conn.execute("SELECT FROM pg_database WHERE datname = %(name)s", {"name": NAME}).fetchone() is not None


def _password(data_path: Path) -> str:
    path = data_path / "postgres.password"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()
