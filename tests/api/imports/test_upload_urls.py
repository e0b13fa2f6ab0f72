"""Presigned URLs, by which a client uploads a file to the bucket."""

import gzip
import re

import httpx
import pytest

from tests.support.api_client import PATH, USERS_HEADER, problem, user_row
from tests.support.eventually import PATIENCE_SECONDS

# without UPLOAD_DIR
SERVICE = {"run": ["api"]}
CSV = USERS_HEADER + user_row(1) + user_row(2)


@pytest.mark.parametrize("parameters", [{}, {"format": "csv", "compression": "gzip"}])
async def test_an_upload_by_a_presigned_url(service, bucket, parameters):
    """A client uploads a file to the URL that the service made, without a key, and imports it."""
    settings = bucket.settings | {"upload_dir": f"s3://{bucket.name}/up/", "upload_url_seconds": 60}
    url = (await service(worker_pool_size=1, **settings)).url
    body = gzip.compress(CSV) if parameters else CSV
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        created, other = [await client.post("/api/v1/uploads", json=parameters) for _ in range(2)]
        assert (created.status_code, created.headers["cache-control"]) == (201, "no-store")
        upload = created.json()
        assert upload["source"] != other.json()["source"]
        assert re.fullmatch(
            rf"s3://{bucket.name}/up/[0-9a-f-]{{36}}{'.csv.gz' if parameters else ''}", upload["source"]
        )
        assert upload["url"].startswith(bucket.endpoint)
        assert "X-Amz-Expires=60&" in upload["url"]
        body_of_import = {"resource": "users", "source": upload["source"]}
        problem(await client.post(PATH, json=body_of_import), 400, "invalid-request")
        async with httpx.AsyncClient() as browser:
            assert (await browser.put(upload["url"], content=body)).status_code == 200
        answer = await client.post(PATH, json=body_of_import, headers={"Prefer": "wait=30"})
    assert (answer.status_code, answer.json()["counts"]["created"]) == (200, 2)
    assert answer.json()["source"]["url"] == upload["source"]


async def test_no_bucket_for_uploads(api):
    """Without UPLOAD_DIR there are no URLs."""
    problem(await api.client.post("/api/v1/uploads", json={}), 403, "source-not-allowed")
    problem(await api.client.post("/api/v1/uploads", json={"format": "xml"}), 400, "invalid-request")
