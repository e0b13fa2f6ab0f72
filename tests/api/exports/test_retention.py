"""After the retention times the files of exports are removed, then their jobs."""

from datetime import datetime, timedelta

import httpx

from db.exports import jobs, retention
from db.jobs import JobFilter
from db.settings import Settings
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.export_files import file_names, settings_of
from tests.support.exports import EXPORTS, create, write
from workers import maintenance


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
    await eventually(lambda: file_names(settings_of(started)) == [])


async def test_old_jobs_are_deleted(conn, tmp_path):
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
    assert file_names(settings) == [young.file_name]
    assert {job.id for job in await jobs.newest(conn, JobFilter(), before=None, limit=9)} == {
        young.id,
        waiting,
    }


async def test_maintenance_continues_when_the_storage_is_available_again(conn, tmp_path):
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
    assert file_names(settings) == []
