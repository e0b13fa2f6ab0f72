"""Jobs have the name of the API key that created them."""

import httpx
import pytest

from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.eventually import eventually
from tests.support.exports import EXPORTS

KEYS = {name: name * 16 for name in ("ada", "bob", "bare")}
API_KEYS = f"ada:admin:{KEYS['ada']},bob:admin:{KEYS['bob']},{KEYS['bare']}"
GOOD = USERS_HEADER + user_row(0)
BAD = USERS_HEADER + b"no address,B,reader,true\n"


@pytest.fixture
async def client(service):
    url = (await service(worker_pool_size=1, api_keys=API_KEYS)).url
    async with httpx.AsyncClient(base_url=url) as client:
        yield client


async def post(client, path: str, key: str, **options) -> httpx.Response:
    answer = await client.post(path, headers={"X-API-Key": KEYS[key]}, **options)
    assert answer.status_code in (200, 202), answer.text
    return answer


async def post_users(client, key: str, file: bytes = GOOD, **params: str) -> dict:
    files = {"file": ("users.csv", file)}
    return (await post(client, PATH, key, files=files, params={"resource": "users"} | params)).json()


async def get(client, path: str) -> dict:
    return (await client.get(path, headers={"X-API-Key": KEYS["bob"]})).json()


async def final(client, job: dict) -> dict:
    async def is_final() -> dict | None:
        now = await get(client, job["links"]["self"])
        return now if now["finished_at"] else None

    return await eventually(is_final)


async def names(client, path: str, what: str) -> list[str | None]:
    return [job["created_by"] for job in (await get(client, path))[what]]


async def test_an_import_has_the_name_of_its_key(client):
    """`created_by` is null for a key without a name. A repeated request with another API key does not change it."""
    first = await post_users(client, "ada", idempotency_token="token")  # noqa: S106
    again = await post_users(client, "bob", idempotency_token="token")  # noqa: S106
    assert (again["id"], again["created_by"]) == (first["id"], "ada")
    assert (await post_users(client, "bare"))["created_by"] is None
    assert (await get(client, first["links"]["self"]))["created_by"] == "ada"
    assert await names(client, PATH, "imports") == [None, "ada"]


async def test_a_child_has_the_name_of_the_key_that_asked_for_it(client):
    """A commit and a retry are those of their own request, not of their parent's."""
    dry_run = await final(client, await post_users(client, "ada", dry_run="true"))
    commit = (await post(client, dry_run["links"]["commit"], "bob")).json()
    assert (commit["parent_id"], commit["created_by"]) == (dry_run["id"], "bob")
    assert (await post(client, dry_run["links"]["commit"], "ada")).json()["created_by"] == "bob"

    refused = await final(client, await post_users(client, "bob", BAD))
    retry = (await post(client, refused["links"]["retry"], "ada")).json()
    assert (retry["parent_id"], retry["created_by"]) == (refused["id"], "ada")
    by_bare = (await post(client, (await final(client, retry))["links"]["retry"], "bare")).json()
    assert by_bare["created_by"] is None


async def test_an_export_has_the_name_of_its_key(client):
    """As for an import: in the response, the job and the list, also when the job is completed."""
    job = (await post(client, EXPORTS, "ada", json={"resource": "users"})).json()
    assert job["created_by"] == "ada"
    assert (await post(client, EXPORTS, "bare", json={"resource": "users"})).json()["created_by"] is None
    assert (await final(client, job))["created_by"] == "ada"
    assert await names(client, EXPORTS, "exports") == [None, "ada"]


async def test_without_keys_there_is_no_name(service):
    """created_by is null in imports and exports."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url) as client:
        imported = await client.post(PATH, files={"file": ("users.csv", GOOD)}, params={"resource": "users"})
        exported = await client.post(EXPORTS, json={"resource": "users"})
        assert (imported.json()["created_by"], exported.json()["created_by"]) == (None, None)
