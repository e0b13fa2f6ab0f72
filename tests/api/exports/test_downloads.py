"""The files of exports: the bytes of the stream, compressed or not, whole or in ranges."""

import base64
import gzip
import hashlib
import os
from pathlib import Path

import httpx
import pytest

from db.compression import zstd
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.export_files import settings_of
from tests.support.exports import EXPORTS, STREAM, completed, many_articles, write


@pytest.mark.parametrize("format", ["csv", "ndjson", "json"])
async def test_from_the_request_to_the_file(service, conn, format):
    """The file has the bytes of the stream, and the job has its size, records and digest."""
    await many_articles(conn, 100)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        accepted = await client.post(EXPORTS, json={"resource": "articles", "format": format})
        assert accepted.status_code == 202
        assert accepted.headers["retry-after"] == "1"
        assert accepted.headers["location"] == f"{EXPORTS}/{accepted.json()['id']}"
        assert accepted.json()["status"] in ("pending", "processing")

        job = await completed(client, accepted.headers["location"])
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
    ("compression", "ending", "unpack"), [("gzip", "gz", gzip.decompress), ("zstd", "zst", zstd.decompress)]
)
async def test_a_compressed_file(service, conn, compression, ending, unpack):
    """A compressed file has the media type, the size and the digest of the compressed bytes."""
    await many_articles(conn, 100)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        accepted = await client.post(
            EXPORTS, json={"resource": "articles", "format": "csv", "compression": compression}
        )
        job = await completed(client, accepted.headers["location"])
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


async def test_ranges(service, conn):
    """An interrupted download can be resumed if the file is the same; a range outside of the file is refused."""
    await many_articles(conn, 100)
    started = await service(run=["api"])
    job = await write(conn, settings_of(started))
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:

        async def get(**headers):
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.get(f"{EXPORTS}/{job.id}/download", headers=names)

        whole = await get()
        size, etag = len(whole.content), whole.headers["etag"]
        assert whole.headers["accept-ranges"] == "bytes"

        async def part(range, **headers):
            answer = await get(Range=f"bytes={range}", **headers)
            return answer.status_code, answer.headers.get("content-range"), answer.content

        assert await part("0-9") == (206, f"bytes 0-9/{size}", whole.content[:10])
        assert await part("100-") == (206, f"bytes 100-{size - 1}/{size}", whole.content[100:])
        assert await part("-5") == (206, f"bytes {size - 5}-{size - 1}/{size}", whole.content[-5:])
        assert await part(f"0-{size * 2}") == (206, f"bytes 0-{size - 1}/{size}", whole.content)
        assert await part("7-", if_range=etag) == (206, f"bytes 7-{size - 1}/{size}", whole.content[7:])
        assert await part("7-", if_range='"another"') == (200, None, whole.content)
        for not_one_range in ("0-1,5-6", "9-3", "x-y", "-", "-0"):
            assert await part(not_one_range) == (200, None, whole.content)
        status, content_range, _ = await part(f"{size}-")
        assert (status, content_range) == (416, f"bytes */{size}")
        assert (await get(If_None_Match=etag)).status_code == 304
        assert (await get(If_None_Match='"another"')).status_code == 200


async def test_a_file_of_another_size_is_not_served(service, conn):
    """A file whose size is not the recorded one is not served."""
    await many_articles(conn, 100)
    started = await service(run=["api"])
    settings = settings_of(started)
    job = await write(conn, settings)
    os.truncate(Path(settings.export_dir) / str(job.file_name), 100)
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get(f"{EXPORTS}/{job.id}/download")).status_code == 404
