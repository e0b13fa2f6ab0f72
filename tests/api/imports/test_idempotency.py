"""One idempotency key creates one job: for repeated and for concurrent requests, with the key before or after the file."""

import asyncio

import httpx
import pytest

from tests.support.api_client import USERS_HEADER, user_object, user_row
from tests.support.eventually import eventually

USERS = USERS_HEADER + user_row(1)
TOKEN = {"idempotency_token": "key"}
# some rounds, since two simultaneous requests may miss each other
ROUNDS = 10
SERVICE = {"worker_pool_size": 1}


async def post(api, content=USERS, *, key: str | None = "key", type: str = "text/csv", **params: str) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await api.post(content, type=type, headers=headers, params={"resource": "users", **params})


def is_replay(answer: httpx.Response, job: dict) -> bool:
    assert (answer.status_code == 200) == (answer.headers.get("idempotent-replayed") == "true"), answer.text
    return answer.status_code == 200 and answer.json()["id"] == job["id"]


def is_problem(answer: httpx.Response, status: int, slug: str) -> bool:
    return (answer.status_code, answer.json()["type"]) == (status, f"/problems/{slug}")


class Held:
    """A body whose first part is sent at once, and the rest when it is released."""

    def __init__(self, first: bytes, rest: bytes) -> None:
        self.first = first
        self.rest = rest
        self.release = asyncio.Event()

    async def __aiter__(self):
        yield self.first
        await self.release.wait()
        yield self.rest


async def test_a_repeated_request_returns_the_job(api):
    """A repeated request returns 200 and the current state of the job."""
    first = await post(api)
    assert "idempotent-replayed" not in first.headers
    job = await api.finished(first)
    again = await post(api)
    assert is_replay(again, job)
    assert again.json() == job
    assert "retry-after" not in again.headers
    assert again.headers["location"] == first.headers["location"]
    assert await api.value("SELECT count(*) FROM import_jobs") == 1


async def test_a_key_is_the_same_wherever_it_stands(api):
    """The key can be bare or quoted in the header, in the query, or in a form before or after the file."""
    job = (await post(api)).json()
    file = {"files": {"file": ("users.csv", USERS)}}
    behind = (
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="u.csv"\r\n\r\n' + USERS + b"\r\n"
        b'--edge\r\nContent-Disposition: form-data; name="idempotency_token"\r\n\r\nkey\r\n--edge--\r\n'
    )
    for answer in (
        await post(api, key='"key"'),
        await post(api, key=None, **TOKEN),
        await post(api, **TOKEN),
        await api.post(**file, data={"resource": "users", **TOKEN}),
        await api.post(behind, type="multipart/form-data; boundary=edge", params={"resource": "users"}),
        # a parameter with its default value is the same request
        await post(api, mode="insert", csv_delimiter=","),
    ):
        assert is_replay(answer, job), answer.text
    assert await api.value("SELECT count(*) FROM import_jobs") == 1


async def test_an_object_may_be_repeated(api):
    """A JSON object with records can contain the token as a member."""
    body = b'{"resource": "users", "idempotency_token": "key", "records": [' + user_object(1) + b"]}"
    job = (await api.post(body, type="application/json")).json()
    assert is_replay(await api.post(body, type="application/json"), job)


async def test_a_key_of_another_request(api):
    """The same key with other bytes or parameters is 422, and the first job does not change."""
    job = await api.finished(await post(api))
    for answer in (
        await post(api, USERS + user_row(2)),
        await post(api, USERS_HEADER),
        await post(api, unknown_fields="ignore"),
        await post(api, user_object(1), type="application/x-ndjson"),
        await post(api, b"id,slug,title,body,author_id,status\n", resource="articles"),
    ):
        assert is_problem(answer, 422, "idempotency-key-reused"), answer.text
    assert (await api.get(f"/{job['id']}")).json() == job
    assert await api.value("SELECT count(*) FROM import_jobs") == 1


async def test_while_the_first_is_still_arriving(api):
    """While the first upload is being received, requests with its key are 409 with Retry-After, and do not affect it."""
    held = Held(USERS, user_row(2))
    first = asyncio.create_task(post(api, held))
    await eventually(lambda: api.value("SELECT count(*) FROM import_jobs"))
    for content in (USERS + user_row(2), USERS):
        answer = await post(api, content)
        assert is_problem(answer, 409, "idempotency-in-progress")
        assert answer.headers["retry-after"]
    held.release.set()
    job = (await first).json()
    assert job["total_records"] == 2
    assert is_replay(await post(api, USERS + user_row(2)), job)


async def test_two_at_once(api):
    """Of two identical concurrent uploads one creates the job, and the other gets that job or 409."""
    for number in range(ROUNDS):
        # the key is received before the file, or after it
        for early in (True, False):
            request = twin(f"key-{number}-{early}", early=early)
            answers = await asyncio.gather(api.post(**request), api.post(**request))
            first, second = sorted(answers, key=lambda answer: answer.status_code != 202)
            assert first.status_code == 202, first.text
            assert is_replay(second, first.json()) or is_problem(second, 409, "idempotency-in-progress"), second.text
    assert await api.value("SELECT count(*) FROM import_jobs") == 2 * ROUNDS
    assert await api.value("SELECT count(*) FROM import_jobs WHERE status = 'uploading'") == 0


def twin(key: str, *, early: bool) -> dict:
    """A form with the key before the file or after it."""
    file = b'name="file"; filename="u.csv"\r\n\r\n' + USERS
    token = b'name="idempotency_token"\r\n\r\n' + key.encode()
    parts = [b'name="resource"\r\n\r\nusers', *([token, file] if early else [file, token])]
    body = b"".join(b"--edge\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts)
    return {"content": body + b"--edge--\r\n", "type": "multipart/form-data; boundary=edge"}


async def test_a_failed_upload_frees_its_key(api):
    """A refused request does not use up its key."""
    for content, params in ((b"no,header\n", {}), (USERS, {"mode": "replace"}), (b"\xff\xfeU\0", {})):
        assert is_problem(await post(api, content, **params), 400, "invalid-request")
    assert await api.has_nothing()
    assert (await post(api)).status_code == 202


@pytest.mark.parametrize("key", ["", '""', "k" * 256, '"' + "k" * 256 + '"'])
async def test_invalid_keys(api, key):
    """A key must have 1 to 255 characters."""
    answer = await post(api, key=key)
    assert is_problem(answer, 400, "invalid-request")
    assert [fault["field"] for fault in answer.json()["errors"]] == ["Idempotency-Key"]
    assert await api.has_nothing()


async def test_the_longest_key(api):
    """Quotes and escapes do not count towards the length."""
    job = (await post(api, key="k" * 254 + "\\")).json()
    assert is_replay(await post(api, key='"' + "k" * 254 + '\\\\"'), job)


async def test_two_keys(api):
    """A header and a parameter that differ are 400."""
    answer = await post(api, key="other", **TOKEN)
    assert is_problem(answer, 400, "invalid-request")
    assert [fault["field"] for fault in answer.json()["errors"]] == ["idempotency_token"]
    assert await api.has_nothing()


async def test_without_a_key_every_upload_is_a_job(api):
    """Without a key, identical uploads are separate jobs."""
    ids = {(await post(api, key=None)).json()["id"] for _ in range(2)}
    assert len(ids) == 2
