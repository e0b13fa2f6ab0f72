"""Retention: old imports are deleted in small steps, and nothing else."""

from datetime import datetime, timedelta

import httpx
import pytest
from psycopg.sql import SQL, Identifier

from db import audit
from db.imports import jobs, retention, uploads
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.factories import claim, perform, queued, rows, run, user, users

DAY_SECONDS = 24 * 3600


async def age(conn, id, days: float) -> None:
    """Makes a final import older."""
    await conn.execute(
        "UPDATE import_jobs SET finished_at = finished_at - %(days)s * interval '1 day' WHERE id = %(id)s",
        {"id": id, "days": days},
    )


async def prune(conn):
    return await retention.prune(conn, retention_seconds=DAY_SECONDS)


async def left(conn, id) -> list[int]:
    """The number of rows of an import in each of the other tables."""
    [counts] = await rows(
        conn,
        """
        SELECT (SELECT count(*) FROM import_errors WHERE import_id = %(id)s),
            (SELECT count(*) FROM import_deferred WHERE import_id = %(id)s),
            (SELECT count(*) FROM import_payloads WHERE import_id = %(id)s),
            (SELECT count(*) FROM chunks WHERE import_id = %(id)s)
        """,
        id=id,
    )
    return list(counts)


async def test_old_imports_go_and_their_records_stay(conn):
    """An import that is older than the retention time is deleted with its other rows; its stored records are kept."""
    old = await queued(conn, [user(1), user(2, role="?"), user(3)], sizes=[2, 1])
    await run(conn, old)
    young = await queued(conn, [user(4), user(5, role="?")])
    await run(conn, young)
    await age(conn, old, 1.01)
    await age(conn, young, 0.99)
    assert await prune(conn) == retention.Pruned(jobs=1, rows=1 + 2 + 2)
    assert await jobs.get(conn, old) is None
    assert await left(conn, old) == [0, 0, 0, 0]
    assert await left(conn, young) == [1, 0, 1, 1]
    assert await rows(conn, "SELECT email FROM users WHERE import_id = %(id)s", id=old)
    assert await prune(conn) == retention.Pruned(jobs=0, rows=0)


async def test_rows_in_other_partitions_stay(conn):
    """If a table was partitioned by an operator, rows with the same ctid in another partition are not deleted."""
    await conn.execute(
        """
        ALTER TABLE import_errors RENAME TO plain_errors;
        CREATE TABLE import_errors (LIKE plain_errors INCLUDING ALL) PARTITION BY LIST (import_id);
        """
    )
    ids = []
    for n in (1, 2):
        ids.append(await queued(conn, [user(10 * n, role="?"), user(10 * n + 1, role="?")]))
        await conn.execute(
            SQL("CREATE TABLE {} PARTITION OF import_errors FOR VALUES IN ({})").format(
                Identifier(f"part_{n}"), ids[-1]
            )
        )
        await run(conn, ids[-1])
    old, young = ids
    assert await rows(conn, "SELECT DISTINCT ctid FROM import_errors") == [("(0,1)",), ("(0,2)",)]
    await age(conn, old, 1.01)
    await prune(conn)
    assert (await left(conn, old))[0] == 0
    assert (await left(conn, young))[0] == 2


async def test_jobs_that_are_not_final_are_never_removed(conn):
    """Pending, processing and uploading imports are kept, however old they are."""
    await queued(conn, users(2), sizes=[1, 1])
    working = await queued(conn, users(2, first=3), sizes=[1, 1])
    await claim(conn)
    await perform(conn, await claim(conn))
    await uploads.begin(conn)
    await conn.execute(
        """
        UPDATE import_jobs
        SET created_at = '2000-01-01', touched_at = '2000-01-01', started_at = '2000-01-01',
            sealed_at = CASE WHEN sealed_at IS NOT NULL THEN '2000-01-01'::timestamptz END
        """
    )
    assert await prune(conn) == retention.Pruned()
    assert await left(conn, working) == [0, 0, 2, 2]


async def test_an_import_that_is_waited_for_is_kept(conn):
    """An import is kept while another one waits for it."""
    first = await queued(conn, users(1))
    await run(conn, first)
    await age(conn, first, 2)
    then = await queued(conn, users(1, first=2), after_id=first)
    assert await prune(conn) == retention.Pruned()
    await run(conn, then)
    assert (await prune(conn)).jobs == 1
    assert await jobs.get(conn, then) is not None


async def test_a_large_import_is_deleted_in_steps(conn):
    """No statement deletes more than a few rows; the job is deleted last, and the audit skips it meanwhile."""
    chunks = retention.ROWS["import_payloads"] + 1
    id = await queued(conn, [user(n, role="?") for n in range(chunks)], sizes=[1] * chunks)
    await run(conn, id)
    await age(conn, id, 2)
    assert await prune(conn) == retention.Pruned(jobs=0, rows=3 * chunks - 1)
    assert await left(conn, id) == [0, 0, 1, 0]
    assert await audit.violations(conn, import_id=id) != []
    assert await audit.violations(conn, import_id=id, retention_seconds=DAY_SECONDS) == []
    assert await prune(conn) == retention.Pruned(jobs=1, rows=1)


async def test_a_repair_outlives_its_parent(conn):
    """A retry remains when its parent is deleted."""
    ids = []
    for n in range(3):
        ids.append(await queued(conn, [user(n, role="?")]))
        await run(conn, ids[n])
    parent, repair, further = ids
    for id, after in ((parent, repair), (repair, further)):
        await conn.execute(
            "INSERT INTO import_repairs (parent_id, record, import_id, import_record) VALUES (%(id)s, 1, %(after)s, 1)",
            {"id": id, "after": after},
        )
        await conn.execute(
            "UPDATE import_jobs SET parent_id = %(id)s, relation = 'repair' WHERE id = %(after)s",
            {"id": id, "after": after},
        )
    await age(conn, parent, 2)
    assert await prune(conn) == retention.Pruned(jobs=1, rows=1 + 1 + 1 + 1)
    kept = await jobs.get(conn, repair)
    assert kept is not None
    assert (kept.parent_id, kept.relation) == (None, "repair")
    assert await rows(conn, "SELECT parent_id, import_id FROM import_repairs") == [(repair, further)]


@pytest.mark.parametrize("table", ["import_errors", "import_payloads", "chunks"])
async def test_workers_prune_side_by_side(conn, other, table):
    """A worker skips rows that another one is deleting; the job is deleted once these deletions are committed."""
    id = await queued(conn, [user(n, role="?") for n in range(3)], sizes=[1] * 3)
    await run(conn, id)
    await age(conn, id, 2)
    await conn.execute("SET lock_timeout = '1s'")
    async with other.transaction(force_rollback=True):
        one_row = SQL("DELETE FROM {table} WHERE ctid IN (SELECT ctid FROM {table} WHERE import_id = %(id)s LIMIT 1)")
        removed = await other.execute(one_row.format(table=Identifier(table)), {"id": id})
        assert removed.rowcount == 1
        assert await prune(conn) == retention.Pruned(jobs=0, rows=8)
    # the other one was rolled back
    assert await prune(conn) == retention.Pruned(jobs=1, rows=1)


async def test_the_service_prunes(service, conn):
    """After its `expires_at` the job is not found, and its idempotency key can be used again."""
    running = await service(worker_pool_size=1, job_retention_seconds=1.5, upkeep_seconds=0.2)
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "again", "Prefer": "wait=20"}
    record = b'{"email":"a@example.com","name":"A","role":"reader","active":true}'
    async with httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_SECONDS) as client:

        async def post():
            return await client.post("/api/v1/imports?resource=users", content=record, headers=headers)

        first = (await post()).json()
        lifetime = datetime.fromisoformat(first["expires_at"]) - datetime.fromisoformat(first["finished_at"])
        assert lifetime == timedelta(seconds=1.5)

        async def is_gone():
            return (await client.get(first["links"]["self"])).status_code == 404

        await eventually(is_gone)
        second = (await post()).json()
        assert (second["id"] != first["id"], second["counts"]["failed"]) == (True, 1)
