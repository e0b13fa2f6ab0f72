"""What an operator wants to know of the database. Counts live rows only: finished jobs are told by counters, not by scans."""

from dataclasses import dataclass, field
from pathlib import Path

from db.pool import Connection

MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """`jobs` by kind and status, `chunks` by state; the final ones are not counted.

    `oldest_seconds` is how long ago the oldest chunk that nobody has claimed yet became claimable; 0 when none waits.
    """

    jobs: dict[tuple[str, str], int] = field(default_factory=dict)
    chunks: dict[str, int] = field(default_factory=dict)
    oldest_seconds: float = 0.0


async def queue_numbers(conn: Connection) -> QueueNumbers:
    """The state of the queue now. Every count leans on a partial index, so its cost is the live work, not the history."""
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
    cursor = await conn.execute(
        """
        SELECT
            (SELECT count(*) FROM chunks WHERE state = 'pending'),
            (SELECT count(*) FROM chunks WHERE state = 'running')
        """
    )
    pending, running = await cursor.fetchone() or (0, 0)
    return QueueNumbers(jobs, {"pending": pending, "running": running}, await _oldest_seconds(conn))


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
        WHERE EXISTS (SELECT FROM chunks WHERE chunks.job_id = waiting.job_id AND chunks.state = 'pending')
        """
    )
    (seconds,) = await cursor.fetchone() or (0.0,)
    return max(0.0, seconds)


async def missing_migrations(conn: Connection) -> list[str]:
    """The names of the migrations that this code comes with and this database has not seen, in order."""
    known = sorted(path.stem for path in MIGRATIONS.glob("*.sql") if not path.name.endswith(".rollback.sql"))
    cursor = await conn.execute("SELECT to_regclass('_yoyo_migration')")
    if await cursor.fetchone() == (None,):
        return known
    cursor = await conn.execute("SELECT migration_id FROM _yoyo_migration")
    applied = {name async for (name,) in cursor}
    return [name for name in known if name not in applied]


async def worker_sessions(conn: Connection) -> int:
    """How many sessions of workers, of any machine, this database has now."""
    cursor = await conn.execute(
        """
        SELECT count(*)
        FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'bulk worker%'
        """
    )
    (sessions,) = await cursor.fetchone() or (0,)
    return sessions
