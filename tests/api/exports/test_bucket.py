"""Exports to a bucket of an S3-compatible server: a file is stored completely or not at all, and downloaded from there."""

import asyncio
import hashlib
import re

import httpx
import psycopg
import pytest

from db import queue
from db.exports import jobs
from db.exports.storage.bucket import BLOCK_BYTES, PART_BYTES
from db.jobs import JobFilter
from db.settings import Settings
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.exports import EXPORTS, SEVERAL, STREAM, completed, create, many_articles, resume, stall, write
from workers import exports, maintenance
from workers.worker import Worker


def settings(bucket, **more) -> Settings:
    return Settings(export_dir=bucket.settings["export_dir"], **more)


async def test_a_client_is_sent_to_the_bucket(service, conn, bucket):
    """A download is a redirect to the complete file, with its name and media type; the bucket serves ranges."""
    # more than two parts, so that it is an upload of several
    await many_articles(conn, 2 * PART_BYTES // 20_000 + 100)
    url = (await service(worker_pool_size=1, **bucket.settings)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        accepted = await client.post(EXPORTS, json={"resource": "articles", "format": "csv"})
        job = await completed(client, accepted.headers["location"])
        stream = await client.get(STREAM.format("articles"), params={"format": "csv"})
        sent = await client.get(job["download_url"])
        assert (sent.status_code, sent.content) == (307, b"")
        assert sent.headers["cache-control"] == "no-store"
        file = await client.get(job["download_url"], follow_redirects=True)
        part = await client.get(job["download_url"], headers={"Range": "bytes=10-19"}, follow_redirects=True)
        unchanged = await client.get(job["download_url"], headers={"If-None-Match": f'"{job["file"]["sha256"]}"'})
    assert str(file.url).startswith(f"{bucket.endpoint}/{bucket.name}/some/exports/articles-{job['id']}-1.csv?X-Amz-")
    assert file.content == stream.content
    assert hashlib.sha256(file.content).hexdigest() == job["file"]["sha256"]
    assert file.headers["content-type"] == job["file"]["content_type"] == "text/csv; charset=utf-8"
    assert re.fullmatch(r'attachment; filename="articles-\d{8}T\d{6}Z\.csv"', file.headers["content-disposition"])
    assert (part.status_code, part.content) == (206, file.content[10:20])
    assert unchanged.status_code == 304
    assert bucket.uploads() == []


async def test_a_file_is_streamed_through(service, conn, bucket):
    """With EXPORT_DOWNLOAD=through the API serves the file like one in a folder."""
    await many_articles(conn, 2 * BLOCK_BYTES // 20_000 + 10)
    started = await service(run=["api"], export_download="through", **bucket.settings)
    job = await write(conn, settings(bucket))
    async with httpx.AsyncClient(base_url=f"{started.url}{EXPORTS}/{job.id}", timeout=PATIENCE_SECONDS) as client:
        whole = await client.get("/download")
        assert whole.status_code == 200
        assert hashlib.sha256(whole.content).digest() == job.file_sha256
        assert whole.headers["content-length"] == str(job.file_bytes)
        part = await client.get("/download", headers={"Range": "bytes=7-4194310", "If-Range": whole.headers["etag"]})
        assert (part.status_code, part.content) == (206, whole.content[7:4194311])
        assert part.headers["content-range"] == f"bytes 7-4194310/{job.file_bytes}"


@pytest.mark.parametrize("download", ["redirect", "through"])
async def test_a_file_of_another_size_is_not_served(service, conn, bucket, download):
    """An object that was deleted or replaced is neither served nor redirected to."""
    started = await service(run=["api"], export_download=download, **bucket.settings)
    await many_articles(conn, 1)
    job = await write(conn, settings(bucket))
    key = f"some/exports/{job.file_name}"
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"short")
        assert (await client.get(f"{EXPORTS}/{job.id}/download")).status_code == 404
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
        assert (await client.get(f"{EXPORTS}/{job.id}/download")).status_code == 404


async def test_a_lost_claim_leaves_nothing(conn, other, bucket):
    """A worker whose session ends during an export aborts its upload, and another worker completes the export."""
    await many_articles(conn, SEVERAL)
    await stall(other)
    id = await create(conn)
    claim = await queue.claim(conn, worker="first")
    assert claim is not None
    first = asyncio.create_task(exports.perform(conn, claim, settings=settings(bucket)))
    await eventually(bucket.uploads)
    await other.execute("SELECT pg_terminate_backend(%(pid)s)", {"pid": conn.info.backend_pid})
    with pytest.raises(psycopg.OperationalError):
        await first
    assert (bucket.names(), bucket.uploads()) == ([], [])

    await resume(other)
    again = await queue.reclaim(other, worker="second", grace_seconds=0, attempts_max=12, crashes_max=4)
    assert again is not None
    done = await exports.perform(other, again, settings=settings(bucket))
    assert done is not None
    assert done.records == SEVERAL
    assert (bucket.names(), bucket.uploads()) == ([f"some/exports/articles-{id}-2.ndjson"], [])


async def test_a_cancelled_export_leaves_nothing(service, conn, bucket):
    """The upload of a cancelled export is aborted."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(worker_pool_size=1, **bucket.settings)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        links = (await client.post(EXPORTS, json={"resource": "articles"})).json()["links"]
        await eventually(bucket.uploads)
        await client.post(links["cancel"])

        async def is_cancelled():
            return (await client.get(links["self"])).json()["status"] == "cancelled"

        await eventually(is_cancelled)
    assert (bucket.names(), bucket.uploads()) == ([], [])


async def test_a_worker_that_stops_during_an_export(conn, other, bucket):
    """A worker that is stopped gives its export back and aborts its upload."""
    await many_articles(conn, SEVERAL)
    await stall(other)
    await create(conn)
    stopping = asyncio.Event()
    worker = Worker(settings(bucket, stop_seconds=0.2), name="w", stopping=stopping)
    working = asyncio.create_task(worker.run_once(conn))
    await eventually(bucket.uploads)
    stopping.set()
    await working
    assert (bucket.names(), bucket.uploads()) == ([], [])
    assert await (await conn.execute("SELECT state, attempt FROM chunks")).fetchone() == ("pending", 0)


async def test_nothing_to_export(conn, bucket):
    """A file without a byte is a file too."""
    async with conn.transaction():
        await create(conn, "comments")
    await Worker(settings(bucket), name="w", stopping=asyncio.Event()).run_once(conn)
    [job] = await jobs.newest(conn, JobFilter(status="completed"), before=None, limit=1)
    assert bucket.names() == [f"some/exports/{job.file_name}"]
    assert bucket.client.head_object(Bucket=bucket.name, Key=bucket.names()[0])["ContentLength"] == 0


async def test_files_of_deleted_and_expired_exports_are_removed(service, conn, bucket):
    """The file of an export is removed from the bucket by DELETE, and after its retention time."""
    started = await service(run=["api"], **bucket.settings)
    deleted, expired = [await write(conn, settings(bucket)) for _ in range(2)]
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        assert (await client.delete(f"{EXPORTS}/{deleted.id}")).status_code == 204
        assert bucket.names() == [f"some/exports/{expired.file_name}"]
        assert await maintenance.expire_files(conn, settings(bucket, export_retention_seconds=1e-6)) == 1
        assert (await client.get(f"{EXPORTS}/{expired.id}/download")).status_code == 410
    assert bucket.names() == []


async def test_readiness(service, bucket):
    """The service is ready if its bucket exists, and not if it does not exist or the server does not respond."""

    async def becomes(status, **changed):
        started = await service(run=["api"], **(bucket.settings | changed))
        async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:

            async def has_become():
                return (await client.get("/ready")).json()["checks"]["storage"]["status"] == status

            await eventually(has_become)

    await becomes("ok")
    await becomes("failed", export_dir="s3://another-bucket/x")
    async with await asyncio.start_server(_never_answer, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        await becomes("failed", aws_endpoint_url=f"http://127.0.0.1:{port}")


async def _never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_a_missing_bucket(conn, bucket):
    """If the bucket does not exist the worker gives the export back with the reason, and can do other work."""
    await many_articles(conn, 1)
    await create(conn)
    nowhere = Settings(export_dir="s3://another-bucket/x")
    await Worker(nowhere, name="w", stopping=asyncio.Event()).run_once(conn)
    cursor = await conn.execute("SELECT state, attempt, last_error FROM chunks")
    [state, attempt, last_error] = await cursor.fetchone() or ()
    assert (state, attempt) == ("pending", 1)
    assert "404" in last_error
