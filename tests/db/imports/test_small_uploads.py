"""A small import is created by one statement: the same rows as by the transactions of an upload, or none."""

from uuid import UUID

import msgspec
import pytest
from uuid_utils.compat import uuid7

from db.connections.pool import Connection
from db.imports import jobs, small_uploads, uploads
from db.imports.backlog import Backlog
from db.imports.jobs import Import
from db.imports.payload import Chunk
from db.imports.uploads import ImportSpec
from tests.support.factories import import_spec, queued, rows, user

# see tests/README.md
THROUGH_PGBOUNCER = True

CHUNK = Chunk(1, 2, 2, b"one\n\ntwo\n", [0, 5], [0, 2])
TABLES = ("import_jobs", "chunks", "import_payloads")
IDEMPOTENCY_KEY = "key"
UNLIMITED = 10**9


def spec(**parameters: object) -> ImportSpec:
    """All of its columns have a value."""
    usual = {
        "format": "csv",
        "csv_header": b"name\n",
        "csv_columns": ["name", None],
        "columns": {"Name": "name", "Note": None},
        "source": {"url": "s3://bucket/key"},
        "max_errors": 3,
        "max_error_rate": 0.5,
        "file_name": "a.csv",
        "idempotency_token": IDEMPOTENCY_KEY,
        "request_id": "request",
        "traceparent": "trace",
        "created_by": "key",
    }
    return import_spec(CHUNK.data, total_records=2, total_chunks=1, **(usual | parameters))


async def create(
    conn: Connection, spec: ImportSpec, *, jobs_max: int = UNLIMITED, bytes_max: int = UNLIMITED
) -> tuple[Import | None, Backlog]:
    return await small_uploads.create(conn, uuid7(), spec, CHUNK, jobs_max=jobs_max, bytes_max=bytes_max)


async def stored(conn: Connection, id: UUID) -> list[object]:
    """All columns of the import, its chunk and its payload that do not differ from one import to the next."""
    differing = ["id", "import_id", "job_id", "created_at", "sealed_at", "touched_at"]
    found = []
    for table in TABLES:
        key = "id" if table == "import_jobs" else "import_id"
        query = f"SELECT to_jsonb(stored) - %(differing)s::text[] FROM {table} AS stored WHERE {key} = %(id)s"  # noqa: S608
        found += await rows(conn, query, id=id, differing=differing)  # pyright: ignore[reportArgumentType]
    return found


async def test_it_has_the_rows_of_an_upload(conn):
    upload = uuid7()
    async with conn.transaction():
        await uploads.begin_once(conn, upload, token=IDEMPOTENCY_KEY)
        await uploads.store(conn, upload, [CHUNK])
        await uploads.seal(conn, upload, spec(), endpoints=())
    right = await stored(conn, upload)
    assert len(right) == len(TABLES)
    await conn.execute("DELETE FROM import_jobs")
    job, backlog = await create(conn, spec())
    assert job is not None
    assert await stored(conn, job.id) == right
    found = await jobs.get(conn, job.id)
    assert found is not None
    assert msgspec.structs.replace(job, now=found.now) == found
    assert backlog == Backlog(jobs=0, bytes=0)


async def test_nothing_is_stored_for_a_token_that_is_taken(conn):
    first, _ = await create(conn, spec())
    assert first is not None
    assert (await create(conn, spec()))[0] is None
    assert await rows(conn, "SELECT import_id FROM chunks JOIN import_payloads USING (import_id)") == [(first.id,)]
    # without a token each is a new one
    assert (await create(conn, spec(idempotency_token=None)))[0] is not None


async def test_nothing_is_stored_beyond_a_limit(conn):
    """The limits are those of the backlog before it; an upload that is not sealed counts too."""
    await queued(conn, [user(1)])
    async with conn.transaction():
        await uploads.begin(conn)
    [(size,)] = await rows(conn, "SELECT sum(file_bytes)::bigint FROM import_jobs")
    right = Backlog(jobs=2, bytes=size)
    assert await create(conn, spec(), jobs_max=2) == (None, right)
    assert await create(conn, spec(), bytes_max=size) == (None, right)
    assert await rows(conn, "SELECT count(*) FROM import_payloads") == [(1,)]
    job, backlog = await create(conn, spec(), jobs_max=3, bytes_max=size + 1)
    assert job is not None
    assert backlog == right


async def test_nothing_is_stored_after_an_unknown_import(conn):
    with pytest.raises(uploads.AfterUnknown):
        await create(conn, spec(after_id=uuid7()))
    assert [await rows(conn, f"SELECT FROM {table}") for table in TABLES] == [[], [], []]
