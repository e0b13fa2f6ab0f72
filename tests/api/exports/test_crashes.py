"""Exports whose worker dies, loses its claim or cannot write: the next worker completes them, and no partial file remains."""

import asyncio
import hashlib
import os
import signal
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest

from db import queue
from db.exports import completion, jobs
from db.settings import Settings
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.export_files import file_names, is_begun, settings_of
from tests.support.exports import EXPORTS, SEVERAL, completed, create, many_articles, resume, stall
from workers import exports, maintenance
from workers.worker import Worker


async def test_a_worker_killed_half_way(service, conn):
    """The unfinished file of a killed worker cannot be downloaded; another worker takes over the export and completes it."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    started = await service(worker_pool_size=2, claim_grace_seconds=0.5)
    settings = settings_of(started)
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        location = (await client.post(EXPORTS, json={"resource": "articles"})).headers["location"]
        await eventually(lambda: any(is_begun(path) for path in Path(settings.export_dir).glob(".*.part")))
        [(worker,)] = await (await conn.execute("SELECT worker FROM chunks")).fetchall()
        os.kill(int(worker.split(":")[1]), signal.SIGKILL)
        assert (await client.get(f"{location}/download")).status_code == 409
        await resume(conn)

        job = await completed(client, location)
        file = await client.get(job["download_url"])
    assert hashlib.sha256(file.content).hexdigest() == job["file"]["sha256"]
    assert file.content.count(b"\n") == job["file"]["records"] == SEVERAL
    assert await (await conn.execute("SELECT crashes FROM chunks")).fetchone() == (1,)
    assert file_names(settings) == [f"articles-{job['id']}-2.ndjson"]


async def test_a_lost_claim_leaves_no_file(conn, other, tmp_path):
    """A worker whose session ends during an export removes its file; the worker that takes over is not affected."""
    await many_articles(conn, SEVERAL)
    await stall(other)
    settings = Settings(export_dir=str(tmp_path))
    id = await create(conn)
    claim = await queue.claim(conn, worker="first")
    assert claim is not None
    first = asyncio.create_task(exports.perform(conn, claim, settings=settings))
    await eventually(lambda: any(map(is_begun, tmp_path.iterdir())))
    await other.execute("SELECT pg_terminate_backend(%(pid)s)", {"pid": conn.info.backend_pid})
    with pytest.raises(psycopg.OperationalError):
        await first
    assert file_names(settings) == []

    await resume(other)
    again = await queue.reclaim(other, worker="second", grace_seconds=0, attempts_max=12, crashes_max=4)
    assert again is not None
    done = await exports.perform(other, again, settings=settings)
    assert done is not None
    assert done.records == SEVERAL
    end = await completion.finish(other, id, endpoints=())
    assert end is not None
    assert (end.status, end.bytes) == ("completed", done.bytes)
    assert file_names(settings) == [f"articles-{id}-2.ndjson"]
    assert await completion.finish(other, id, endpoints=()) is None


async def test_a_claim_that_was_taken_over_writes_nothing(conn, tmp_path):
    """A worker that continues after its export was reclaimed loses its claim before it has created a file."""
    settings = Settings(export_dir=str(tmp_path))
    await create(conn)
    stale = await queue.claim(conn, worker="first")
    assert stale is not None
    await queue.reclaim(conn, worker="second", grace_seconds=0, attempts_max=12, crashes_max=4)
    with pytest.raises(queue.ClaimLost):
        await exports.perform(conn, stale, settings=settings)
    assert file_names(settings) == []


async def test_only_files_of_lost_claims_are_removed(conn, tmp_path):
    """Unfinished files of lost claims are removed; those of valid claims and of other databases, and complete files, are kept."""
    settings = Settings(export_dir=str(tmp_path))
    id = await create(conn)
    await queue.claim(conn, worker="first")
    await queue.reclaim(conn, worker="second", grace_seconds=0, attempts_max=12, crashes_max=4)
    whole = f"articles-{id}-1.ndjson"
    lost, kept = (
        f".{whole}.part",
        [f".articles-{id}-2.csv.gz.part", f".users-{uuid4()}-1.json.part", whole, ".mine.part"],
    )
    for name in (lost, *kept):
        (tmp_path / name).touch()
    assert await maintenance.remove_partial_files(conn, settings) == 1
    assert file_names(settings) == sorted(kept)
    assert await maintenance.remove_partial_files(conn, settings) == 0


async def test_a_job_whose_worker_died_after_its_commit_is_found(conn, tmp_path):
    """Maintenance finishes a job whose chunk is done, exactly once."""
    id = await create(conn)
    claim = await queue.claim(conn, worker="first")
    assert claim is not None
    assert await completion.unfinished(conn) == []
    await exports.perform(conn, claim, settings=Settings(export_dir=str(tmp_path)))
    assert await completion.unfinished(conn) == [id]
    await completion.finish(conn, id, endpoints=())
    assert await completion.unfinished(conn) == []


async def test_an_export_that_cannot_be_written_fails(conn, tmp_path):
    """After a disk error the chunk is given back; after the last attempt the job fails with the error as its problem."""
    (tmp_path / "file").touch()
    settings = Settings(export_dir=str(tmp_path / "file"), attempts_max=2)
    id = await create(conn)
    worker = Worker(settings, name="w", stopping=asyncio.Event())
    await worker.run_once(conn)
    job = await jobs.get(conn, id)
    assert job is not None
    assert job.status == "processing"
    assert await (await conn.execute("SELECT state, attempt FROM chunks")).fetchone() == ("pending", 1)
    await conn.execute("UPDATE chunks SET retry_at = NULL")
    await worker.run_once(conn)
    job = await jobs.get(conn, id)
    assert job is not None
    assert job.status == "failed"
    assert job.problem is not None
    assert job.problem["type"] == "/problems/export-failed"
    assert "All 2 attempts failed" in job.problem["detail"]
    assert job.problem["detail"].endswith(": NotADirectoryError: Not a directory")
