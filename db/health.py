"""The state of the database for probes and metrics. Counts rows of unfinished jobs only; finished ones are in the counters."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.errors import FeatureNotSupported, ProtocolViolation, UndefinedFunction, UndefinedTable
from psycopg.rows import class_row

from db.connections.pool import Connection
from db.errors import READ_ONLY, MigrationsMissing, UnsupportedDatabase
from db.resources import RESOURCES
from db.webhooks import deliveries
from db.webhooks.deliveries import Waiting
from db.webhooks.endpoints import Endpoint

MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """`jobs` by kind and status, `chunks` by state, `records_left` of imports by resource; final ones are not counted.

    `oldest_seconds` is the time since the oldest pending chunk became claimable; 0 when there is none. `webhooks` has the
    deliveries to each endpoint.
    """

    jobs: dict[tuple[str, str], int] = field(default_factory=dict)
    chunks: dict[str, int] = field(default_factory=dict)
    oldest_seconds: float = 0.0
    records_left: dict[str, int] = field(default_factory=dict)
    webhooks: list[Waiting] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ServerNumbers:
    """The database's sessions, and the server's counters since its start.

    `oldest_transaction_seconds` is the age of the oldest open transaction in this database: vacuum cannot remove rows that died
    after it began. `dead_queue_rows` is their number in the queue's table.
    """

    sessions: int
    worker_sessions: int
    lock_waits: int
    oldest_transaction_seconds: float
    deadlocks: int
    dead_queue_rows: int
    wal_bytes: int


async def queue_numbers(conn: Connection, *, endpoints: Sequence[Endpoint]) -> QueueNumbers:
    """The state of the queue. Every count uses a partial index, so that finished jobs cost nothing."""
    jobs = {("import", status): 0 for status in ("uploading", "pending", "processing")}
    jobs |= {("export", status): 0 for status in ("pending", "processing")}
    cursor = await conn.execute(
        """
        SELECT 'import', status, count(*) FROM import_jobs WHERE status = 'uploading' GROUP BY status
        UNION ALL
        SELECT 'import', status, count(*) FROM import_jobs WHERE status IN ('pending', 'processing') GROUP BY status
        UNION ALL
        SELECT 'export', status, count(*) FROM export_jobs WHERE status IN ('pending', 'processing') GROUP BY status
        """
    )
    jobs |= {(kind, status): count async for kind, status, count in cursor}
    chunks = {"pending": 0, "running": 0}
    records_left = dict.fromkeys(RESOURCES, 0)
    cursor = await conn.execute(
        """
        SELECT state, resource, sum(live.chunks)::bigint, sum(live.records)::bigint
        FROM (
            SELECT state, import_id, count(*) AS chunks, sum(records) AS records
            FROM chunks
            WHERE state = 'pending'
            GROUP BY state, import_id
            UNION ALL
            SELECT state, import_id, count(*), sum(records)
            FROM chunks
            WHERE state = 'running'
            GROUP BY state, import_id
        ) AS live
        -- looked up one by one: a join would read all finished jobs
        LEFT JOIN LATERAL (SELECT resource FROM import_jobs WHERE id = live.import_id LIMIT 1) AS job ON true
        GROUP BY state, resource
        """
    )
    async for state, resource, count, records in cursor:
        chunks[state] += count
        if resource in records_left:
            records_left[resource] += records
    webhooks = await deliveries.waiting(conn, endpoints) if endpoints else []
    return QueueNumbers(jobs, chunks, await _oldest_seconds(conn), records_left, webhooks)


async def _oldest_seconds(conn: Connection) -> float:
    """Chunks of one job become claimable together: an import's when it is sealed, an export's when it is created."""
    cursor = await conn.execute(
        """
        SELECT coalesce(extract(epoch FROM clock_timestamp() - min(waiting.since)), 0)::float8
        FROM (
            SELECT id, sealed_at FROM import_jobs WHERE status IN ('pending', 'processing')
            UNION ALL
            SELECT id, created_at FROM export_jobs WHERE status IN ('pending', 'processing')
        ) AS waiting (job_id, since)
        WHERE EXISTS (SELECT 1 FROM chunks WHERE chunks.job_id = waiting.job_id AND chunks.state = 'pending')
        """
    )
    (seconds,) = await cursor.fetchone() or (0.0,)
    return max(0.0, seconds)


async def server_numbers(conn: Connection) -> ServerNumbers | None:
    """The server's counters, which it holds in memory; None for a server that is compatible with PostgreSQL but lacks them."""
    cursor = conn.cursor(row_factory=class_row(ServerNumbers))
    try:
        await cursor.execute(
            """
            SELECT
                count(*) AS sessions,
                count(*) FILTER (WHERE application_name LIKE 'bulk worker%') AS worker_sessions,
                count(*) FILTER (WHERE wait_event_type = 'Lock') AS lock_waits,
                greatest(0, extract(
                    epoch FROM clock_timestamp() - min(xact_start) FILTER (WHERE pid <> pg_backend_pid())
                ))::float8 AS oldest_transaction_seconds,
                (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()) AS deadlocks,
                pg_stat_get_dead_tuples('chunks'::regclass) AS dead_queue_rows,
                -- not a log sequence number of ours where the server is a standby
                (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - '0/0')::bigint
                    AS wal_bytes
            FROM pg_stat_activity
            WHERE datname = current_database()
            """
        )
    except (FeatureNotSupported, UndefinedFunction, UndefinedTable):
        return None
    return await cursor.fetchone()


async def require_writable(conn: Connection) -> None:
    """Raises `READ_ONLY` when the server is a standby, or the session is read-only by its settings."""
    cursor = await conn.execute("SHOW transaction_read_only")
    if await cursor.fetchone() == ("on",):
        raise READ_ONLY("the server does not accept writes")


async def require_supported(conn: Connection) -> None:
    """Raises `UnsupportedDatabase` when the service does not work with this database, or with the pooler before it."""
    if fault := encoding_fault(conn.info.parameter_status("server_encoding")):
        raise UnsupportedDatabase(fault)
    # of a single statement: behind PgBouncer it is the default of the role or the database, which a client cannot change
    cursor = await conn.execute("SHOW transaction_isolation")
    (level,) = await cursor.fetchone() or ("unknown",)
    if level not in ("read committed", "read uncommitted"):
        raise UnsupportedDatabase(
            f"the default transaction isolation is {level!r}; behind a pooler it must be 'read committed': "
            "ALTER ROLE … SET default_transaction_isolation = 'read committed'"
        )
    try:
        async with conn.transaction():
            pass
    except ProtocolViolation as error:
        if fault := pooler_fault(error):
            raise UnsupportedDatabase(fault) from None
        raise


def pooler_fault(error: Exception) -> str | None:
    """Why the pooler that answered a transaction with `error` cannot be used; None for any other error."""
    # PgBouncer's own errors share one SQLSTATE
    if "statement pooling mode" not in str(error):
        return None
    return "the pooler is in statement mode, which has no transactions; it must be in transaction or session mode"


def encoding_fault(encoding: str | None) -> str | None:
    """Why a database with this `server_encoding` cannot be used; None when it can."""
    if encoding in ("UTF8", None):
        return None
    return f"the database has the encoding {encoding}; it must be created with ENCODING 'UTF8'"


async def require_schema(conn: Connection) -> None:
    """Raises `MigrationsMissing` when the database is older than this code, which could fail chunks because of that."""
    if missing := await missing_migrations(conn):
        raise MigrationsMissing(f"not applied: {', '.join(missing)}")


async def missing_migrations(conn: Connection) -> list[str]:
    """The names of this code's migrations that are not applied to the database, in order."""
    known = sorted(path.stem for path in MIGRATIONS.glob("*.sql") if not path.name.endswith(".rollback.sql"))
    cursor = await conn.execute("SELECT to_regclass('_yoyo_migration')")
    if await cursor.fetchone() == (None,):
        return known
    cursor = await conn.execute("SELECT migration_id FROM _yoyo_migration")
    applied = {name async for (name,) in cursor}
    return [name for name in known if name not in applied]


async def worker_sessions(conn: Connection) -> int:
    """The number of sessions of workers, of all machines, in this database."""
    cursor = await conn.execute(
        """
        SELECT count(*)
        FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'bulk worker%'
        """
    )
    (sessions,) = await cursor.fetchone() or (0,)
    return sessions
