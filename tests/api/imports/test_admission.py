"""Admission control: uploads beyond a limit are refused before their body is read; slow uploads use few resources."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx

from api import app
from db.settings import Settings
from tests.support import api_client
from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.eventually import eventually, in_time

JOBS_MAX = 6
BYTES_MAX = 800
UPLOADS_MAX = 3
API_POOL_SIZE = Settings().api_pool_size
USERS = USERS_HEADER + user_row(1)

# without workers: queued imports remain in the queue
SERVICE = {"run": ["api"], "queue_jobs_max": JOBS_MAX, "queue_bytes_max": BYTES_MAX, "uploads_max": UPLOADS_MAX}


class Slow:
    """An upload whose head is sent first, and whose body is sent when the test does so."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, block: bytes) -> None:
        self.writer.write(b"%x\r\n%s\r\n" % (len(block), block))
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], dict]:
        """Status, headers and body of the answer."""
        head = (await in_time(self.reader.readuntil(b"\r\n\r\n"))).decode().splitlines()
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await in_time(self.reader.readexactly(int(headers["content-length"])))
        return int(head[0].split()[1]), headers, json.loads(body)

    async def finish(self) -> dict:
        """Ends the body and returns the job."""
        await self.send(b"")
        status, _, job = await self.answer()
        assert status == 202, job
        return job


@asynccontextmanager
async def uploading(url: str, **headers: str):
    """An upload of users of which only the head has been sent."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = {"Host": host, "Content-Type": "text/csv", "Transfer-Encoding": "chunked"} | headers
    writer.write(f"POST {PATH}?resource=users HTTP/1.1\r\n".encode())
    writer.write("".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode() + b"\r\n")
    await writer.drain()
    try:
        yield Slow(reader, writer)
    finally:
        writer.close()


async def refused(api, limit: str, maximum: int) -> dict[str, str]:
    """Asserts that an upload is refused for this limit although no body was sent. Returns the response's headers."""
    async with uploading(api.service.url) as upload:
        status, headers, problem = await upload.answer()
    assert status == 429, problem
    assert headers["content-type"] == "application/problem+json"
    assert (problem["type"], problem["limit"], problem["maximum"]) == ("/problems/too-many-requests", limit, maximum)
    assert limit in problem["detail"]
    assert int(headers["retry-after"]) >= 1
    return headers


async def post(api, **headers: str) -> httpx.Response:
    return await api.post(USERS, type="text/csv", params={"resource": "users"}, headers=headers)


async def jobs(api) -> int:
    return await api.value("SELECT count(*) FROM import_jobs")


async def test_a_full_queue_of_jobs(api):
    """Imports that are not final and unsealed uploads count, final imports do not. A refused upload stores nothing."""
    ids = [(await post(api)).json()["id"] for _ in range(JOBS_MAX - 1)]
    async with uploading(api.service.url) as upload:
        await eventually(lambda: is_jobs(api, JOBS_MAX))
        await refused(api, "queue_jobs_max", JOBS_MAX)
        assert await jobs(api) == JOBS_MAX
        await upload.send(USERS)
        await upload.finish()
    await refused(api, "queue_jobs_max", JOBS_MAX)
    await api.conn.execute(
        "UPDATE import_jobs SET status = 'cancelled', finished_at = clock_timestamp() WHERE id = %(id)s", {"id": ids[0]}
    )
    assert (await post(api)).status_code == 202


async def is_jobs(api, count: int) -> bool:
    return await jobs(api) == count


async def test_a_full_queue_of_bytes(api):
    """The bytes of imports that are not final are limited."""
    large = USERS_HEADER + b"".join(user_row(n) for n in range(30))
    assert len(large) > BYTES_MAX
    answer = await api.post(large, type="text/csv", params={"resource": "users"})
    assert answer.status_code == 202
    await refused(api, "queue_bytes_max", BYTES_MAX)
    await api.conn.execute("DELETE FROM import_jobs")
    assert (await post(api)).status_code == 202


async def test_a_full_queue_returns_the_job_of_a_repeated_request(api):
    """A repeated request returns its job even if the queue is full, because it adds nothing."""
    key = {"Idempotency-Key": "k"}
    first = await post(api, **key)
    for _ in range(JOBS_MAX - 1):
        await post(api)
    await refused(api, "queue_jobs_max", JOBS_MAX)
    again = await post(api, **key)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert (await post(api, **{"Idempotency-Key": "other"})).status_code == 429
    await api.conn.execute("DELETE FROM import_jobs WHERE id <> %(id)s", {"id": first.json()["id"]})
    assert (await post(api, **{"Idempotency-Key": "other"})).status_code == 202


async def test_uploads_at_once(api):
    """The number of concurrent uploads is limited; an upload stops counting however it ends."""
    async with AsyncExitStack() as stack:
        uploads = [await stack.enter_async_context(uploading(api.service.url)) for _ in range(UPLOADS_MAX)]
        await eventually(lambda: is_jobs(api, UPLOADS_MAX))
        await refused(api, "uploads_max", UPLOADS_MAX)
        for upload in uploads:
            await upload.send(USERS_HEADER)
        # one is completed, one is interrupted, one is refused
        await uploads[0].finish()
        uploads[1].writer.close()
        await uploads[2].send(b"not, a, user\n" * 3)
        await eventually(lambda: is_jobs(api, 2))
        assert (await post(api)).status_code == 202
        async with uploading(api.service.url), uploading(api.service.url):
            await eventually(lambda: is_jobs(api, 5))
            await refused(api, "uploads_max", UPLOADS_MAX)


async def test_json_objects_share_a_budget(server_url, tmp_path):
    """All JSON objects that are being received may have JSON_BUFFERS_MAX_BYTES; one more is 429, and accepted later."""
    limits = {"json_body_max_bytes": 40_000, "json_buffers_max_bytes": 60_000}
    async with (
        api_client.service(server_url, tmp_path, run=["api"], **limits) as service,
        api_client.connected(service) as api,
    ):
        whole = json.dumps({"resource": "users", "records": [], "padding": "x" * 30_000}).encode()
        async with uploading(service.url, **{"Content-Type": "application/json"}) as first:
            await first.send(whole[:-1])
            # the first object is buffered once a second one of its size does not fit beside it
            answer = await eventually(lambda: _refused(api, whole))
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["limit"] == "json_buffers_max_bytes"
        small = json.dumps({"resource": "users", "records": []}).encode()
        await eventually(lambda: _taken(api, small))


async def _refused(api, content: bytes) -> httpx.Response | None:
    answer = await api.post(content, type="application/json")
    return answer if answer.status_code == 429 else None


async def _taken(api, content: bytes) -> bool:
    return (await api.post(content, type="application/json")).status_code == 202


BUFFERS = {"upload_buffers_max_bytes": 100_000, "record_max_bytes": 90_000}


async def test_uploads_share_a_budget(server_url, tmp_path):
    """Together uploads hold no more than UPLOAD_BUFFERS_MAX_BYTES: also a silent one stores its chunk before it is full."""
    rows = long_row(200) * 250
    async with (
        api_client.service(server_url, tmp_path, run=["api"], **BUFFERS) as service,
        api_client.connected(service) as api,
        uploading(service.url) as silent,
        AsyncExitStack() as stack,
    ):
        await silent.send(USERS_HEADER + rows)
        await eventually(lambda: is_jobs(api, 1))
        # the silent one holds its rows by the time that the other has begun
        other = await stack.enter_async_context(uploading(service.url))
        await eventually(lambda: is_jobs(api, 2))
        sent = 0

        async def both_have_stored() -> bool:
            nonlocal sent
            # the last record is completed by the next rows
            await other.send((rows[-10:] if sent else USERS_HEADER) + rows[:-10])
            sent += 250
            return await stored_chunks_of(api, 2)

        await eventually(both_have_stored)
        await other.send(rows[-10:])
        for upload, records in ((silent, 250), (other, sent)):
            assert (await upload.finish())["total_records"] == records
        assert await records_in_chunks(api) == sorted([250, sent])


async def test_incomplete_records_beyond_the_budget(server_url, tmp_path):
    """What cannot be stored yet is limited too: the upload with the larger part of it is answered 429."""
    async with (
        api_client.service(server_url, tmp_path, run=["api"], **BUFFERS) as service,
        uploading(service.url) as small,
        uploading(service.url) as large,
    ):
        await small.send(USERS_HEADER + b"a@example.org," + b"x" * 30_000)
        await large.send(USERS_HEADER + b"b@example.org," + b"x" * 80_000)
        answer = asyncio.create_task(large.answer())

        async def is_answered() -> bool:
            with suppress(ConnectionError):
                await large.send(b"x")
            return answer.done()

        await eventually(is_answered)
        status, headers, problem = answer.result()
        assert (status, problem["limit"], headers["retry-after"]) == (429, "upload_buffers_max_bytes", "1")
        await small.send(b",reader,true\n")
        assert (await small.finish())["total_records"] == 1


async def test_uploads_leave_connections_to_other_requests(server_url, tmp_path):
    """At most half of the connections store chunks; the other uploads wait, and do not fail."""
    async with (
        api_client.service(server_url, tmp_path, run=["api"], api_pool_size=2, chunk_max_bytes=5_000_000) as service,
        api_client.connected(service) as api,
        AsyncExitStack() as stack,
    ):
        uploads = [await stack.enter_async_context(uploading(service.url)) for _ in range(4)]
        await eventually(lambda: is_jobs(api, 4))
        async with api.conn.transaction():
            await api.conn.execute("LOCK TABLE import_payloads IN ACCESS EXCLUSIVE MODE")
            for upload in uploads:
                await upload.send(USERS_HEADER + long_row(10_000) * 500)
            await eventually(lambda: is_storing(api))
            for _ in range(3):
                assert (await api.get()).status_code == 200
        for upload in uploads:
            assert (await upload.finish())["total_records"] == 500


async def is_storing(api) -> bool:
    """Whether a session waits for a lock on the table of the payloads."""
    return await api.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'import_payloads'::regclass")


def long_row(size: int) -> bytes:
    """A valid line for `USERS_HEADER` with a name of `size` bytes."""
    return b"user@example.org," + b"x" * size + b",reader,true\n"


async def stored_chunks_of(api, count: int) -> bool:
    """Whether this number of uploads have stored a chunk."""
    return count == await api.value("SELECT count(DISTINCT job_id) FROM chunks")


async def records_in_chunks(api) -> list[int]:
    """The records of each import, counted by their chunks, which have no gap and no overlap."""
    cursor = await api.conn.execute(
        """
        SELECT sum(records)::int
        FROM (
            SELECT job_id, records, first_record = coalesce(
                lag(first_record + records) OVER (PARTITION BY job_id ORDER BY seq), 1
            ) AS follows
            FROM chunks
        ) AS chunk
        GROUP BY job_id
        HAVING bool_and(follows)
        ORDER BY 1
        """
    )
    return [records for (records,) in await cursor.fetchall()]


async def test_downloads_of_records_at_once(server_url, tmp_path):
    """Each holds a chunk while its client reads, so their number is limited; one that ends makes room for another."""
    async with (
        api_client.service(server_url, tmp_path, worker_pool_size=1, streams_max=2) as service,
        api_client.connected(service) as api,
    ):
        refused_rows = b"no,%b,reader,true\n" % (b"x" * 10_000) * 1500
        job = await api.finished(
            await api.post(USERS_HEADER + refused_rows, type="text/csv", params={"resource": "users"})
        )
        path = f"{PATH}/{job['id']}/failed-records"
        async with AsyncExitStack() as readers:
            for _ in range(2):
                response = await readers.enter_async_context(api.client.stream("GET", path))
                assert response.status_code == 200
            answer = await api.client.get(path)
            assert (answer.status_code, answer.json()["limit"]) == (429, "streams_max")

        async def is_sent() -> bool:
            return (await api.client.get(path)).content == USERS_HEADER + refused_rows

        await eventually(is_sent)


async def test_a_process_that_stops_takes_no_more_uploads(database_url):
    """A process that is being stopped refuses new uploads immediately, while it finishes running ones."""
    application = app.create(Settings(database_url=database_url))
    application.state.stopping.set()
    transport = httpx.ASGITransport(application)
    async with (
        application.lifespan(),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        answer = await client.post(PATH, params={"resource": "users"}, content=USERS)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert "stopping" in answer.json()["detail"]


async def sessions(api) -> tuple[int, int]:
    """The number of the API's sessions, and of those in a transaction."""
    cursor = await api.conn.execute(
        """
        SELECT count(*), count(xact_start)
        FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'bulk api'
        """
    )
    return await cursor.fetchone()


async def test_a_hundred_slow_uploads(server_url, tmp_path):
    """A hundred slow uploads hold no transactions and share a few connections; each creates its job."""
    count, records = 100, 20
    async with (
        api_client.service(server_url, tmp_path, worker_pool_size=1, batch_size=5) as service,
        api_client.connected(service) as api,
        AsyncExitStack() as stack,
    ):

        async def is_quiet() -> bool:
            return not (await sessions(api))[1]

        uploads = [await stack.enter_async_context(uploading(service.url)) for _ in range(count)]
        await eventually(lambda: is_jobs(api, count))
        for block in (USERS_HEADER, *(b"".join(user_row(n) for n in range(k, k + 5)) for k in range(0, records, 5))):
            for upload in uploads:
                await upload.send(block)
            await eventually(is_quiet)
            assert (await sessions(api))[0] <= API_POOL_SIZE
            # other requests have room beside them
            assert (await api.get()).status_code == 200
        ended = await asyncio.gather(*(upload.finish() for upload in uploads))
        assert (await sessions(api))[0] <= API_POOL_SIZE
        await eventually(api.is_idle)
        final = [(await api.get(f"/{job['id']}")).json() for job in ended]
    assert [job["status"] for job in final] == ["completed"] * count
    created = sum(job["counts"]["created"] for job in final)
    failed = sum(job["counts"]["failed"] for job in final)
    assert (created, failed) == (records, records * (count - 1))
