"""What each real client uploads arrives byte by byte, and what it reads back is whole."""

import hashlib
import json
import os

import httpx
import pytest
import pytest_asyncio

from tests.clients.clients import CLIENTS, IN_SUITE
from tests.support import api_client
from tests.support.api_client import PATH, USERS_HEADER
from tests.support.eventually import eventually

NAMES = list(CLIENTS) if os.environ.get("CLIENTS") == "all" else list(IN_SUITE)
FILE_BYTES = 5_000_000
RECORDS = 40_000


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Users with names that fill 5 MB."""
    path = tmp_path_factory.mktemp("file") / "users.csv"
    name = "ä" * ((FILE_BYTES // RECORDS - 40) // 2)
    rows = [f"user{n}@example.org,{name},reader,true\n".encode() for n in range(RECORDS)]
    path.write_bytes(USERS_HEADER + b"".join(rows))
    assert path.stat().st_size >= FILE_BYTES * 0.9
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(server_url, tmp_path_factory, file):
    """A service whose table has the users of the file, and a finished export of them."""
    folder = tmp_path_factory.mktemp("service")
    async with (
        api_client.service(server_url, folder, worker_pool_size=1) as service,
        api_client.connected(service) as api,
    ):
        posted = await api.post(file.read_bytes(), type="text/csv", params={"resource": "users"})
        assert (await api.finished(posted))["counts"]["created"] == RECORDS
        yield service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def download(service):
    """The URL of a finished export."""
    async with httpx.AsyncClient(base_url=service.url) as client:
        ordered = (await client.post("/api/v1/exports", json={"resource": "users", "format": "csv"})).json()

        async def is_completed() -> bool:
            return (await client.get(ordered["links"]["self"])).json()["status"] == "completed"

        await eventually(is_completed)
    return f"{service.url}/api/v1/exports/{ordered['id']}/download"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NAMES)
async def test_a_client_uploads_and_reads_back(name, service, download, file, tmp_path):
    """Each supported form of upload delivers the whole file, and streams and downloads are read to their end."""
    client = CLIENTS[name]
    for form in client.forms:
        answer = json.loads(await client.upload(form, f"{service.url}{PATH}?resource=users&dry_run=true", file))
        assert answer["total_records"] == RECORDS, form
        assert answer["file"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest(), form
    for url in (f"{service.url}/api/v1/exports/users/stream?format=csv", download):
        saved = tmp_path / "saved"
        await client.save(url, saved)
        expected = httpx.get(url, headers={"Accept-Encoding": "identity"}).content
        assert saved.read_bytes() == expected
        assert expected.count(b"\n") == RECORDS + 1
        saved.unlink()
