"""Exports are cancelled and deleted."""

import asyncio
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest

import db.jobs
from db import queue
from db.exports import completion
from db.settings import Settings
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.export_files import file_names, is_begun, settings_of
from tests.support.exports import EXPORTS, SEVERAL, completed, create, many_articles, resume, stall, write
from workers import exports


async def test_a_running_export_is_cancelled(service, conn):
    """A worker that waits for the database notices the cancellation, leaves no file, and can write the next export."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    started = await service(worker_pool_size=1)
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        job = (await client.post(EXPORTS, json={"resource": "articles"})).json()
        self = job["links"]["self"]
        await eventually(lambda: any(map(is_begun, Path(settings_of(started).export_dir).glob(".*.part"))))
        cancelled = await client.post(f"{self}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (202, "processing")
        assert cancelled.headers["retry-after"] == "1"

        async def final():
            return (await client.get(self)).json()["status"] == "cancelled"

        await eventually(final)
        assert file_names(settings_of(started)) == []
        assert (await client.get(f"{self}/download")).status_code == 409
        again = await client.post(f"{self}/cancel")
        assert (again.status_code, again.json()["type"]) == (409, "/problems/already-final")
        await completed(client, (await client.post(EXPORTS, json={"resource": "users"})).headers["location"])


async def test_an_export_that_was_not_begun_is_cancelled(service, conn):
    """A pending export is cancelled immediately and never started; also without workers, or if the API dies meanwhile."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        job = (await client.post(EXPORTS, json={"resource": "users"})).json()
        cancelled = await client.post(job["links"]["cancel"])
        assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
        assert (await client.post(f"{EXPORTS}/{uuid4()}/cancel")).status_code == 404
    assert await queue.claim(conn, worker="w") is None

    id = await create(conn)
    assert await db.jobs.cancel(conn, "export", id)
    assert await queue.claim(conn, worker="w") is None
    assert await completion.unfinished(conn) == [id]
    end = await completion.finish(conn, id, endpoints=())
    assert end is not None
    assert end.status == "cancelled"


async def test_a_cancel_at_the_last_moment(conn, other, tmp_path):
    """A cancellation between the last check and the commit is effective: the work is rolled back and its file removed."""
    await many_articles(conn, 10)
    settings = Settings(export_dir=str(tmp_path))
    id = await create(conn)
    claim = await queue.claim(conn, worker="w")
    assert claim is not None
    await stall(other)
    working = asyncio.create_task(exports.perform(conn, claim, settings=settings))
    await eventually(lambda: list(tmp_path.glob(".*.part")))
    assert await db.jobs.cancel(other, "export", id)
    await resume(other)
    with pytest.raises(psycopg.errors.SerializationFailure):
        await working
    assert file_names(settings) == []
    assert await exports.perform(conn, claim, settings=settings) is None
    end = await completion.finish(conn, id, endpoints=())
    assert end is not None
    assert end.status == "cancelled"


async def test_delete(service, conn):
    """A final export is deleted with its file, and its key can be used again; one that is not final is not deleted."""
    started = await service(run=["api"])
    settings = settings_of(started)
    job = await write(conn, settings)
    waiting = await create(conn)
    assert len(file_names(settings)) == 1
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        assert (await client.delete(f"{EXPORTS}/{job.id}")).status_code == 204
        assert (await client.get(f"{EXPORTS}/{job.id}")).status_code == 404
        assert (await client.delete(f"{EXPORTS}/{job.id}")).status_code == 404
        refused = await client.delete(f"{EXPORTS}/{waiting}")
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/not-final")
    assert file_names(settings) == []
    assert await (await conn.execute("SELECT count(*) FROM chunks")).fetchone() == (1,)
