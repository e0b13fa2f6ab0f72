"""Background exports: created, written by a worker, downloaded; crashes, cancel, delete, retention."""

import asyncio
import base64
import gzip
import hashlib
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

import db.jobs
from db import queue
from db.exports import completion, jobs, retention
from db.jobs import JobFilter
from db.settings import Settings
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.exports import (
    EXPORTS,
    SEVERAL,
    STREAM,
    completed,
    create,
    many_articles,
    order,
    resume,
    stall,
    write,
)
from tests.support.sse import Events
from workers import exports as work
from workers import maintenance
from workers.worker import Worker

if sys.version_info >= (3, 14):
    from compression.zstd import decompress as unzstd
else:
    from backports.zstd import decompress as unzstd


def of(service) -> Settings:
    """The settings of a service's processes, for a worker in the test itself."""
    return Settings(export_dir=service.environment["EXPORT_DIR"])


def names(settings: Settings) -> list[str]:
    folder = Path(settings.export_dir)
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("format", ["csv", "ndjson", "json"])
async def test_from_the_order_to_the_file(service, conn, format):
    """The file has the bytes of the stream, and the job has its size, records and digest."""
    await many_articles(conn, 100)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        ordered = await client.post(EXPORTS, json={"resource": "articles", "format": format})
        assert ordered.status_code == 202
        assert ordered.headers["retry-after"] == "1"
        assert ordered.headers["location"] == f"{EXPORTS}/{ordered.json()['id']}"
        assert ordered.json()["status"] in ("pending", "processing")

        job = await completed(client, ordered.headers["location"])
        file = await client.get(job["download_url"])
        stream = await client.get(STREAM.format("articles"), params={"format": format})
    digest = hashlib.sha256(file.content)
    assert file.status_code == 200
    assert file.content == stream.content
    assert file.headers["content-type"] == stream.headers["content-type"] == job["file"]["content_type"]
    assert file.headers["content-length"] == str(len(file.content)) == str(job["file"]["bytes"])
    assert file.headers["etag"] == f'"{digest.hexdigest()}"'
    assert file.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert file.headers["content-disposition"].startswith('attachment; filename="articles-2')
    assert job["file"]["sha256"] == digest.hexdigest()
    assert job["total_records"] == job["exported_records"] == job["file"]["records"] == 100
    assert (job["progress"]["percent"], job["progress"]["eta_seconds"]) == (100.0, None)
    assert job["snapshot_at"] < job["finished_at"]


@pytest.mark.parametrize(
    ("compression", "ending", "unpack"), [("gzip", "gz", gzip.decompress), ("zstd", "zst", unzstd)]
)
async def test_a_packed_file(service, conn, compression, ending, unpack):
    """A compressed file has the media type, the size and the digest of the compressed bytes."""
    await many_articles(conn, 100)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        ordered = await client.post(EXPORTS, json={"resource": "articles", "format": "csv", "compression": compression})
        job = await completed(client, ordered.headers["location"])
        file = await client.get(job["download_url"])
        stream = await client.get(STREAM.format("articles"), params={"format": "csv"})
    assert job["compression"] == compression
    assert unpack(file.content) == stream.content
    assert len(file.content) < len(stream.content) / 10
    assert "content-encoding" not in file.headers
    assert file.headers["content-type"] == job["file"]["content_type"] == f"application/{compression}"
    assert file.headers["content-disposition"].endswith(f'.csv.{ending}"')
    assert (job["file"]["bytes"], job["file"]["records"]) == (len(file.content), 100)
    assert job["file"]["sha256"] == hashlib.sha256(file.content).hexdigest()


async def test_an_order_that_is_not_written_yet(service, conn):
    """A pending export has an ETag for polling, and no file."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        ordered = await client.post(EXPORTS, json={"resource": "comments"})
        location = ordered.headers["location"]
        job = await client.get(location)
        assert job.json() == ordered.json()
        assert job.headers["retry-after"] == "1"
        shown = {name: job.json()[name] for name in ("status", "format", "progress", "file", "download_url")}
        assert shown == {
            "status": "pending",
            "format": "ndjson",
            "progress": {"percent": 0.0, "records_per_second": None, "eta_seconds": None},
            "file": None,
            "download_url": None,
        }
        assert (await client.get(location, headers={"If-None-Match": job.headers["etag"]})).status_code == 304
        early = await client.get(f"{location}/download")
        assert (early.status_code, early.json()["type"]) == (409, "/problems/export-not-ready")
        for unknown in (uuid4(), "nothing"):
            assert (await client.get(f"{EXPORTS}/{unknown}")).status_code == 404
            assert (await client.get(f"{EXPORTS}/{unknown}/download")).status_code == 404


async def test_ranges(service, conn):
    """An interrupted download can be resumed if the file is the same; a range outside of the file is refused."""
    await many_articles(conn, 100)
    started = await service(run=["api"])
    job = await write(conn, of(started))
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:

        async def get(**headers):
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.get(f"{EXPORTS}/{job.id}/download", headers=names)

        whole = await get()
        size, etag = len(whole.content), whole.headers["etag"]
        assert whole.headers["accept-ranges"] == "bytes"

        async def part(asked, **headers):
            answer = await get(Range=f"bytes={asked}", **headers)
            return answer.status_code, answer.headers.get("content-range"), answer.content

        assert await part("0-9") == (206, f"bytes 0-9/{size}", whole.content[:10])
        assert await part("100-") == (206, f"bytes 100-{size - 1}/{size}", whole.content[100:])
        assert await part("-5") == (206, f"bytes {size - 5}-{size - 1}/{size}", whole.content[-5:])
        assert await part(f"0-{size * 2}") == (206, f"bytes 0-{size - 1}/{size}", whole.content)
        assert await part("7-", if_range=etag) == (206, f"bytes 7-{size - 1}/{size}", whole.content[7:])
        assert await part("7-", if_range='"another"') == (200, None, whole.content)
        for not_one_range in ("0-1,5-6", "9-3", "x-y", "-", "-0"):
            assert await part(not_one_range) == (200, None, whole.content)
        for beyond in (f"{size}-",):
            status, told, _ = await part(beyond)
            assert (status, told) == (416, f"bytes */{size}")
        assert (await get(If_None_Match=etag)).status_code == 304
        assert (await get(If_None_Match='"another"')).status_code == 200


async def test_a_file_that_is_not_as_it_was_written_is_not_given(service, conn):
    """A file whose size is not the recorded one is not served."""
    await many_articles(conn, 100)
    started = await service(run=["api"])
    settings = of(started)
    job = await write(conn, settings)
    os.truncate(Path(settings.export_dir) / str(job.file_name), 100)
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get(f"{EXPORTS}/{job.id}/download")).status_code == 404


async def test_one_key_one_export(service, conn):
    """A repeated request with the same key, bare or quoted, returns its job; another request with this key is refused."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:

        async def post(key, **body):
            headers = {} if key is None else {"Idempotency-Key": key}
            response = await client.post(EXPORTS, json=body, headers=headers)
            return response.status_code, response.json().get("id"), response.headers.get("idempotent-replayed")

        status, id, replayed = await post("k", resource="users")
        assert (status, replayed) == (202, None)
        assert await post('"k"', resource="users", format="ndjson", filters={}, fields=None) == (200, id, "true")
        assert await post(None, resource="users", **token("k")) == (200, id, "true")
        assert await post("k", resource="users", format="csv") == (422, None, None)
        assert (await post("k", resource="users", **token("other")))[0] == 400
        assert (await post("k" * 255, resource="users"))[0] == 202
        assert (await post("k" * 256, resource="users"))[0] == 400
        assert (await post("", resource="users"))[0] == 400

        racing = await asyncio.gather(*(post("race", resource="comments") for _ in range(8)))
    assert sorted(status for status, _, _ in racing) == [200] * 7 + [202]
    assert len({id for _, id, _ in racing}) == 1


async def test_the_second_of_two_orders_waits_for_the_first(conn, other):
    """Of two transactions with one token the second waits, and creates no job once the first has committed."""
    async with conn.transaction():
        assert await jobs.create(conn, order(key="k"))
        second = asyncio.create_task(create_or_not(other))

        async def is_blocked():
            cursor = await conn.execute(
                "SELECT cardinality(pg_blocking_pids(%(pid)s))", {"pid": other.info.backend_pid}
            )
            return await cursor.fetchone() == (1,)

        await eventually(is_blocked)
    assert await second is None


def token(value):
    return {"idempotency_token": value}


async def create_or_not(conn):
    async with conn.transaction():
        return await jobs.create(conn, order(key="k"))


async def test_what_is_not_supported_is_refused(service):
    """Unsupported parameters and values are named in a 400, never ignored."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:

        async def wrong(**body):
            response = await client.post(EXPORTS, json=body)
            assert response.status_code == 400
            return [error["field"] for error in response.json()["errors"]]

        assert await wrong(resource="users", filters={"roles": "admin"}) == ["filters.roles"]
        assert await wrong(resource="users", fields=["ids"]) == ["fields"]
        assert await wrong(resource="users", compression="lzma") == ["compression"]
        assert await wrong(resource="users", limit=1) == ["limit"]
        assert await wrong(resource="import_jobs") == ["resource"]
        assert await wrong(format="xml") == ["resource", "format"]
        assert (await client.post(EXPORTS, json=["users"])).status_code == 400
        assert (
            await client.post(EXPORTS, content=b"{", headers={"Content-Type": "application/json"})
        ).status_code == 400
        assert (await client.post(EXPORTS, data={"resource": "users"})).status_code == 415
        packed = gzip.compress(b'{"resource": "users"}')
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        encoded = await client.post(EXPORTS, content=packed, headers=headers)
        assert (encoded.status_code, encoded.headers["accept-encoding"]) == (415, "identity")


async def test_the_list(service, conn):
    """Newest first, by pages; the link leads to the next one."""
    ids = [str(await create(conn, resource=resource)) for resource in ("users", "comments", "users")]
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:

        async def listed(path):
            page = await client.get(path)
            return [job["id"] for job in page.json()["exports"]], page

        newest, page = await listed(f"{EXPORTS}?limit=2")
        assert newest == [ids[2], ids[1]]
        oldest, last = await listed(page.links["next"]["url"])
        assert oldest == [ids[0]]
        assert last.json()["next_cursor"] is None
        assert "next" not in last.links
        assert (await listed(f"{EXPORTS}?resource=comments&status=pending"))[0] == [ids[1]]
        assert (await listed(f"{EXPORTS}?status=completed"))[0] == []
        for wrong in (
            "limit=101",
            "cursor=x",
            "status=uploading",
            "page=2",
            "created_after=x",
            "name=x",
            "dry_run=true",
        ):
            assert (await client.get(f"{EXPORTS}?{wrong}")).status_code == 400


async def test_the_list_by_time_and_its_counts(service, conn):
    """`created_after` is inclusive, `created_before` exclusive; `counts` ignores the status and the page that are asked for."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    ids = [str(await create(conn, resource=resource)) for resource in ("users", "comments", "users")]
    for hour, id in enumerate(ids):
        created_at = noon + timedelta(hours=hour)
        await conn.execute("UPDATE export_jobs SET created_at = %(at)s WHERE id = %(id)s", {"id": id, "at": created_at})
    assert await db.jobs.cancel(conn, "export", UUID(ids[0]))
    await completion.finish(conn, UUID(ids[0]))
    one = (noon + timedelta(hours=1)).isoformat()
    none = {"pending": 0, "processing": 0, "completed": 0, "failed": 0, "cancelled": 0, "expired": 0}
    async with httpx.AsyncClient(base_url=(await service(run=["api"])).url, timeout=PATIENCE_SECONDS) as client:
        for query, found, counts in (
            ({"created_after": one}, ids[:0:-1], None),
            ({"created_before": one}, ids[:1], None),
            ({"created_before": "0001-01-01T00:00:00+23:59"}, [], None),
            ({"counts": "true", "status": "pending", "limit": "1"}, ids[2:], {"pending": 2, "cancelled": 1}),
            ({"counts": "true", "resource": "comments"}, ids[1:2], {"pending": 1}),
        ):
            page = (await client.get(EXPORTS, params=query)).json()
            assert [job["id"] for job in page["exports"]] == found
            expected = counts and {"total": sum(counts.values()), "status": none | counts}
            assert page.get("counts") == expected


async def test_what_an_export_waits_for(service, conn):
    """The sentence of the view export_progress while the job is not final, then null; lists do not have it."""
    id = await create(conn)
    async with httpx.AsyncClient(base_url=(await service(run=["api"])).url, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get(f"{EXPORTS}/{id}")).json()["waiting_for"] == "no worker is connected"
        assert "waiting_for" not in (await client.get(EXPORTS)).json()["exports"][0]
        assert (await client.post(f"{EXPORTS}/{id}/cancel")).json()["waiting_for"] is None


async def test_a_worker_killed_half_way(service, conn):
    """The unfinished file of a killed worker cannot be downloaded; another worker takes over the export and completes it."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    started = await service(worker_pool_size=2, claim_grace_seconds=0.5)
    settings = of(started)
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
    assert names(settings) == [f"articles-{job['id']}-2.ndjson"]


def is_begun(part: Path) -> bool:
    return part.exists() and part.stat().st_size > 0


async def test_a_lost_claim_leaves_no_file(conn, other, tmp_path):
    """A worker whose session ends during an export removes its file; the worker that takes over is not affected."""
    await many_articles(conn, SEVERAL)
    await stall(other)
    settings = Settings(export_dir=str(tmp_path))
    id = await create(conn)
    claim = await queue.claim(conn, worker="first")
    assert claim is not None
    first = asyncio.create_task(work.perform(conn, claim, settings=settings))
    await eventually(lambda: any(map(is_begun, tmp_path.iterdir())))
    await other.execute("SELECT pg_terminate_backend(%(pid)s)", {"pid": conn.info.backend_pid})
    with pytest.raises(psycopg.OperationalError):
        await first
    assert names(settings) == []

    await resume(other)
    again = await queue.reclaim(other, worker="second", grace_seconds=0, attempts_max=12, crashes_max=4)
    assert again is not None
    done = await work.perform(other, again, settings=settings)
    assert done is not None
    assert done.records == SEVERAL
    end = await completion.finish(other, id)
    assert end is not None
    assert (end.status, end.bytes) == ("completed", done.bytes)
    assert names(settings) == [f"articles-{id}-2.ndjson"]
    assert await completion.finish(other, id) is None


async def test_a_claim_that_was_taken_over_writes_nothing(conn, tmp_path):
    """A worker that continues after its export was reclaimed loses its claim before it has created a file."""
    settings = Settings(export_dir=str(tmp_path))
    await create(conn)
    stale = await queue.claim(conn, worker="first")
    assert stale is not None
    await queue.reclaim(conn, worker="second", grace_seconds=0, attempts_max=12, crashes_max=4)
    with pytest.raises(queue.ClaimLost):
        await work.perform(conn, stale, settings=settings)
    assert names(settings) == []


async def test_the_sweep_takes_only_what_is_lost(conn, tmp_path):
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
    assert names(settings) == sorted(kept)
    assert await maintenance.remove_partial_files(conn, settings) == 0


async def test_a_job_whose_worker_died_after_its_commit_is_found(conn, tmp_path):
    """Maintenance finishes a job whose chunk is done, exactly once."""
    id = await create(conn)
    claim = await queue.claim(conn, worker="first")
    assert claim is not None
    assert await completion.unfinished(conn) == []
    await work.perform(conn, claim, settings=Settings(export_dir=str(tmp_path)))
    assert await completion.unfinished(conn) == [id]
    await completion.finish(conn, id)
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


async def test_progress_is_seen(service, conn):
    """A client sees the progress and the exact total, although the worker's transaction is open."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        location = (await client.post(EXPORTS, json={"resource": "articles"})).headers["location"]

        async def half_way():
            job = (await client.get(location)).json()
            return job if job["progress"]["percent"] else None

        job = await eventually(half_way)
        assert (job["status"], job["total_records"], job["file"]) == ("processing", 400, None)
        # what waits to become a whole block is not counted yet
        assert 180 < job["exported_records"] <= 200
        assert job["progress"]["percent"] == round(job["exported_records"] / 4, 2)
        assert job["progress"]["records_per_second"] > 0
        assert job["progress"]["eta_seconds"] > 0
        await resume(conn)
        assert (await completed(client, location))["exported_records"] == 400


async def test_a_running_export_is_cancelled(service, conn):
    """A worker that waits for the database notices the cancellation, leaves no file, and can write the next export."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    started = await service(worker_pool_size=1)
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        job = (await client.post(EXPORTS, json={"resource": "articles"})).json()
        self = job["links"]["self"]
        await eventually(lambda: any(map(is_begun, Path(of(started).export_dir).glob(".*.part"))))
        cancelled = await client.post(f"{self}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (202, "processing")
        assert cancelled.headers["retry-after"] == "1"

        async def final():
            return (await client.get(self)).json()["status"] == "cancelled"

        await eventually(final)
        assert names(of(started)) == []
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
    end = await completion.finish(conn, id)
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
    working = asyncio.create_task(work.perform(conn, claim, settings=settings))
    await eventually(lambda: list(tmp_path.glob(".*.part")))
    assert await db.jobs.cancel(other, "export", id)
    await resume(other)
    with pytest.raises(psycopg.errors.SerializationFailure):
        await working
    assert names(settings) == []
    assert await work.perform(conn, claim, settings=settings) is None
    end = await completion.finish(conn, id)
    assert end is not None
    assert end.status == "cancelled"


async def test_delete(service, conn):
    """A final export is deleted with its file, and its key can be used again; one that is not final is not deleted."""
    started = await service(run=["api"])
    settings = of(started)
    job = await write(conn, settings)
    waiting = await create(conn)
    assert len(names(settings)) == 1
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        assert (await client.delete(f"{EXPORTS}/{job.id}")).status_code == 204
        assert (await client.get(f"{EXPORTS}/{job.id}")).status_code == 404
        assert (await client.delete(f"{EXPORTS}/{job.id}")).status_code == 404
        refused = await client.delete(f"{EXPORTS}/{waiting}")
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/not-final")
    assert names(settings) == []
    assert await (await conn.execute("SELECT count(*) FROM chunks")).fetchone() == (1,)


async def test_files_expire(service, conn):
    """After the retention time the file is removed and its download is 410; the job still has its description."""
    started = await service(worker_pool_size=1, export_retention_seconds=0.5, upkeep_seconds=0.1)
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        location = (await client.post(EXPORTS, json={"resource": "users"})).headers["location"]

        async def expired():
            found = (await client.get(location)).json()
            return found if found["status"] == "expired" else None

        job = await eventually(expired)
        download = await client.get(f"{location}/download")
        assert (download.status_code, download.json()["type"]) == (410, "/problems/export-expired")
    assert job["download_url"] is None
    assert job["file"]["records"] == 0
    lifetime = datetime.fromisoformat(job["expires_at"]) - datetime.fromisoformat(job["finished_at"])
    assert lifetime == timedelta(seconds=0.5)
    await eventually(lambda: names(of(started)) == [])


async def test_old_jobs_go(conn, tmp_path):
    """First the file is deleted, then the job with the files of lost workers; newer and unfinished jobs are kept."""
    settings = Settings(export_dir=str(tmp_path), export_retention_seconds=100, job_retention_seconds=1000)
    old, young = await write(conn, settings), await write(conn, settings)
    waiting = await create(conn)

    async def age(seconds):
        query = "UPDATE export_jobs SET finished_at = finished_at - %(seconds)s * interval '1 second' WHERE id = %(id)s"
        await conn.execute(query, {"seconds": seconds, "id": old.id})

    assert await maintenance.expire_files(conn, settings) == 0
    await age(101)
    assert await maintenance.expire_files(conn, settings) == 1
    assert await maintenance.expire_files(conn, settings) == 0
    assert await maintenance.prune_exports(conn, settings) == 0
    (tmp_path / f"articles-{old.id}-1.ndjson").touch()
    await age(900)
    assert await maintenance.prune_exports(conn, settings) == 1
    assert names(settings) == [young.file_name]
    assert {job.id for job in await jobs.newest(conn, JobFilter(), before=None, limit=9)} == {
        young.id,
        waiting,
    }


async def test_upkeep_bears_a_storage_that_is_away(conn, tmp_path):
    """While the storage is unavailable an expired file cannot be downloaded, and it is removed when the storage is back."""
    settings = Settings(export_dir=str(tmp_path / "exports"), export_retention_seconds=1e-6)
    job = await write(conn, settings)
    (tmp_path / "exports").rename(tmp_path / "elsewhere")
    (tmp_path / "exports").touch()
    await maintenance.maintain_exports(conn, settings)
    assert [leftover.id for leftover in await retention.expired(conn)] == [job.id]
    (tmp_path / "exports").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "exports")
    await maintenance.maintain_exports(conn, settings)
    assert await retention.expired(conn) == []
    assert names(settings) == []


async def test_events(service, conn):
    """The stream sends the current state, then `done`; after `done` a client that reconnects gets 204."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        links = (await client.post(EXPORTS, json={"resource": "articles"})).json()["links"]
        seen = []
        async with client.stream("GET", links["events"]) as response:
            assert response.headers["content-type"] == "text/event-stream"
            events = Events(response)
            while event := await events.next():
                seen.append(event)
                if event["data"]["progress"]["percent"]:
                    await resume(conn)
        again = await client.get(links["events"], headers={"Last-Event-ID": seen[-1]["id"]})
        final = (await client.get(links["self"])).json()
    assert [event["event"] for event in seen] == ["progress"] * (len(seen) - 1) + ["done"]
    assert seen[-1]["data"] == final
    assert final["status"] == "completed"
    assert any(0 < event["data"]["progress"]["percent"] < 100 for event in seen if event["data"]["exported_records"])
    assert again.status_code == 204
