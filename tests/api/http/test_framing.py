"""HTTP/1.0 and 1.1 framing: upgrades, expectations, lengths, trailers, HEAD. A body is never ignored."""

import asyncio
import base64
import hashlib
import json

import httpx
import pytest

from tests.support.api_client import PATH, USERS_HEADER, Api, user_object, user_row
from tests.support.eventually import eventually, in_time

RECORDS = 50
CSV = USERS_HEADER + b"".join(user_row(n) for n in range(RECORDS))
# a small file is not stored before it is complete
LARGE = USERS_HEADER + b"".join(user_row(n) for n in range(2000))
ARRAY = b"[" + b",".join(user_object(n) for n in range(RECORDS)) + b"]"
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n' + CSV + b"\r\n--b--\r\n"
STREAM = b"/api/v1/exports/users/stream?format=ndjson"
SERVICE = {"run": ["api"]}


class Answer:
    """One response as it came, byte by byte."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.body = body
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split(" ")[1])
        self.headers = httpx.Headers([tuple(line.split(": ", 1)) for line in lines])


async def exchange(api: Api, *pieces: bytes) -> list[Answer]:
    """Sends the pieces one after the other, and reads responses until the server closes."""
    url = httpx.URL(api.service.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return answers_in(await in_time(reader.read(-1)))
    finally:
        writer.transport.abort()


def answers_in(data: bytes) -> list[Answer]:
    answers = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        answer = Answer(head, b"")
        if answer.status == 100:
            pass
        elif answer.headers.get("transfer-encoding") == "chunked":
            while size := int(data.partition(b"\r\n")[0], 16):
                start = data.index(b"\r\n") + 2
                answer.body += data[start : start + size]
                data = data[start + size + 2 :]
            data = data.removeprefix(b"0\r\n\r\n")
        elif "content-length" in answer.headers:
            length = int(answer.headers["content-length"])
            answer.body, data = data[:length], data[length:]
        else:
            answer.body, data = data, b""
        answers.append(answer)
    return answers


def head(*headers: bytes, target: bytes = b"", version: bytes = b"1.1", type: bytes = b"text/csv") -> bytes:
    target = target or PATH.encode() + b"?resource=users"
    lines = [b"POST " + target + b" HTTP/" + version, b"Host: 127.0.0.1", b"Content-Type: " + type, *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def length(body: bytes) -> bytes:
    return b"Content-Length: %d" % len(body)


def chunked(body: bytes, trailers: bytes = b"") -> bytes:
    half = len(body) // 2
    return (
        b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]))
        + b"0\r\n"
        + trailers
        + b"\r\n"
    )


def digest(body: bytes) -> bytes:
    return b"Content-Digest: sha-256=:" + base64.b64encode(hashlib.sha256(body).digest()) + b":"


UPGRADES = {
    "h2c as curl sends it": (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
    "websocket": (b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
    "several": (b"Upgrade: h2c, TLS/1.0", b"Upgrade: IRC/6.9", b"Connection: upgrade"),
    "without its option": (b"Upgrade: h2c",),
    "without a protocol": (b"Connection: Upgrade",),
}
BODIES = {
    "length": (b"text/csv", [length(CSV)], CSV),
    "chunked": (b"text/csv", [b"Transfer-Encoding: chunked"], chunked(CSV)),
    "digest": (b"text/csv", [length(CSV), digest(CSV)], CSV),
    "form": (b"multipart/form-data; boundary=b", [length(FORM)], FORM),
    "JSON": (b"application/json", [length(ARRAY)], ARRAY),
}
LIVE = b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_an_upgrade_is_ignored_and_the_body_counts(api, upgrade, body):
    """However the bytes are divided, the whole file is stored, and the connection continues with the next request."""
    type, headers, sent = BODIES[body]
    request = head(*headers, *UPGRADES[upgrade], type=type) + sent + LIVE
    middle = request.index(b"\r\n\r\n") + 4
    for pieces in (
        (request,),
        (request[:middle], request[middle:]),
        (request[:60], request[60 : middle + 9], request[middle + 9 :]),
    ):
        created, live = await exchange(api, *pieces)
        assert (created.status, live.status) == (202, 200)
        assert json.loads(created.body)["total_records"] == RECORDS
        assert json.loads(live.body) == {"status": "live"}


@pytest.mark.parametrize("options", [b"Upgrade, close", b"Upgrade\r\nConnection: close"])
async def test_an_upgrade_of_the_last_request(api, options):
    """The body counts too if the client closes the connection behind it."""
    upgrade = b"Connection: " + options + b"\r\nUpgrade: h2c"
    (created,) = await exchange(api, head(length(CSV), upgrade) + CSV)
    assert json.loads(created.body)["total_records"] == RECORDS


async def test_upgrades_in_a_row(api):
    """Each of several requests on a connection may ask for an upgrade."""
    get = b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    post = head(length(CSV), *UPGRADES["websocket"]) + CSV
    answers = await exchange(api, get + post + get + post + LIVE)
    assert [answer.status for answer in answers] == [200, 202, 200, 202, 200]


async def test_continue(api):
    """`Expect: 100-continue` gets its interim response once the body is wanted; HTTP/1.0 does not know it."""
    expecting = head(length(CSV), b"Expect: 100-continue", b"Connection: close")
    assert [answer.status for answer in await exchange(api, expecting, CSV)] == [100, 202]
    upgrading = head(length(CSV), b"Expect: 100-continue", *UPGRADES["websocket"])
    assert [answer.status for answer in await exchange(api, upgrading, CSV + LIVE)] == [100, 202, 200]
    old = head(length(CSV), b"Expect: 100-continue", version=b"1.0")
    assert [answer.status for answer in await exchange(api, old, CSV)] == [202]


async def test_a_refusal_instead_of_continue(api):
    """A client that was refused before its body may leave the body out, so its connection cannot be used again."""
    refused = await exchange(api, head(length(CSV), b"Expect: 100-continue", target=b"/nothing"))
    assert [(answer.status, answer.headers["connection"]) for answer in refused] == [(404, "close")]


async def test_http_1_0_gets_no_chunks(api):
    """A response of unknown length ends with the connection, and has the same bytes as for HTTP/1.1."""
    await api.conn.execute(
        "INSERT INTO users (email, name, role, active) SELECT n || '@example.org', 'N', 'reader', true"
        " FROM generate_series(1, 5000) AS n"
    )
    (new,) = await exchange(api, b"GET " + STREAM + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    for headers in (b"", b"Connection: keep-alive\r\n"):
        (old,) = await exchange(api, b"GET " + STREAM + b" HTTP/1.0\r\nHost: 127.0.0.1\r\n" + headers + b"\r\n")
        assert (old.status, old.headers["connection"]) == (200, "close")
        assert not {"transfer-encoding", "content-length"} & set(old.headers)
        assert old.body == new.body
        assert old.body.count(b"\n") == 5000
    (live,) = await exchange(api, b"GET /live HTTP/1.0\r\n\r\n")
    assert json.loads(live.body) == {"status": "live"}
    (post,) = await exchange(api, head(length(CSV), version=b"1.0"), CSV)
    assert json.loads(post.body)["total_records"] == RECORDS


async def test_http_1_0_and_a_stream_that_breaks(api):
    """The client sees a reset, since the end of the connection would mean the end of the response."""
    await api.conn.execute(
        "INSERT INTO users (email, name, role, active) SELECT n || '@example.org', repeat('x', 250), 'reader', true"
        " FROM generate_series(1, 100000) AS n"
    )
    url = httpx.URL(api.service.url)
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=1024)
    writer.write(b"GET " + STREAM + b" HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    await in_time(reader.readuntil(b"\r\n\r\n"))
    ended = await eventually(lambda: end_copies(api))
    assert ended
    with pytest.raises(ConnectionResetError):
        while await in_time(reader.read(65536)):
            pass
    writer.transport.abort()


async def end_copies(api: Api) -> int:
    return await api.value(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query ~* '^\\s*copy' AND pid <> pg_backend_pid()"
    )


async def test_trailers_are_dropped(api):
    """Trailers are not headers of the request, not even a wrong digest."""
    trailers = b"X-Request-Id: trailer\r\nContent-Digest: sha-256=:AAAA:\r\nUpgrade: h2c\r\n"
    sent = head(b"Transfer-Encoding: chunked", b"Trailer: X-Request-Id") + chunked(CSV, trailers) + LIVE
    created, live = await exchange(api, sent)
    assert (created.status, live.status) == (202, 200)
    assert created.headers["x-request-id"] != "trailer"
    assert json.loads(created.body)["total_records"] == RECORDS


@pytest.mark.parametrize(
    "option", [b"close", b"Close", b"keep-alive", b"TE, close", b"X-Custom, keep-alive", b"", b", ,close"]
)
async def test_connection_options(api, option):
    """The body is read for any options of Connection, and only `close` ends the connection."""
    answers = await exchange(api, head(length(CSV), b"Connection: " + option) + CSV + LIVE)
    assert json.loads(answers[0].body)["total_records"] == RECORDS
    assert len(answers) == (1 if b"close" in option.lower() else 2)


async def test_pipelined_requests_are_answered_in_order(api):
    """Requests that do not wait for each other's response keep their bodies and their order."""
    requests = [head(length(CSV), b"X-Request-Id: n%d" % n) + CSV for n in range(5)]
    answers = await exchange(api, b"".join(requests) + LIVE)
    assert [answer.headers["x-request-id"] for answer in answers[:5]] == [f"n{n}" for n in range(5)]
    assert [json.loads(answer.body)["total_records"] for answer in answers[:5]] == [RECORDS] * 5


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_body_without_a_length(api, version):
    """An upload without a length or chunked encoding is refused, not accepted as empty."""
    first, *_ = await exchange(api, head(b"Connection: close", version=version) + CSV)
    assert (first.status, json.loads(first.body)["errors"][0]["field"]) == (400, "Content-Length")
    assert await api.has_nothing()


async def test_an_empty_chunked_body(api):
    """An empty chunked body is refused; an empty file must have Content-Length: 0."""
    (refused,) = await exchange(api, head(b"Transfer-Encoding: chunked", b"Connection: close") + b"0\r\n\r\n")
    assert (refused.status, json.loads(refused.body)["errors"][0]["field"]) == (400, "Transfer-Encoding")
    assert await api.has_nothing()
    (empty,) = await exchange(api, head(b"Content-Length: 0", b"Connection: close"))
    assert (empty.status, json.loads(empty.body)["total_records"]) == (202, 0)


@pytest.mark.parametrize(
    "headers", [[length(LARGE)], [b"Transfer-Encoding: chunked"], [length(LARGE), *UPGRADES["websocket"]]]
)
async def test_an_upload_that_breaks_off(api, headers):
    """A client that disconnects before the end of the upload creates no job."""
    sent = chunked(LARGE)[:-30] if b"chunked" in headers[0] else LARGE[:-30]
    url = httpx.URL(api.service.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(head(*headers) + sent)
    await eventually(lambda: api.value("SELECT count(*) FROM import_jobs WHERE status = 'uploading'"))
    writer.write_eof()
    writer.close()
    assert b"HTTP/1.1 20" not in await in_time(reader.read(-1))
    await eventually(api.has_nothing)


VARYING = {
    "date",
    "x-request-id",
    "x-snapshot-at",
    "x-watermark",
    "content-disposition",
    "transfer-encoding",
    "content-length",
    "etag",
}


async def test_head_for_every_get(api):
    """HEAD has the status and the headers of GET and no body, and the connection can be used again."""
    posted = await api.post(CSV, type="text/csv", params={"resource": "users"})
    ordered = await api.client.post("/api/v1/exports", json={"resource": "users"})
    ids = {"imports": posted.json()["id"], "exports": ordered.json()["id"]}
    paths = (await api.client.get("/schema/openapi.json")).json()["paths"]
    aborted_before = api.service.api.output.count("stream aborted")
    tried = 0
    for path, operations in paths.items():
        if "get" not in operations or path.endswith("/events"):
            continue
        target = path.replace("{resource}", "users").replace("{id}", ids["imports" if "imports" in path else "exports"])
        got = await api.client.get(target, headers={"Accept-Encoding": "identity"})
        sent = b"HEAD " + target.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        url = httpx.URL(api.service.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(sent)
        answered = Answer((await in_time(reader.readuntil(b"\r\n\r\n"))).removesuffix(b"\r\n\r\n"), b"")
        writer.write(LIVE)
        (live,) = answers_in(await in_time(reader.read(-1)))
        writer.close()
        assert answered.status == got.status_code, path
        assert live.status == 200, path
        compared = set(got.headers) - VARYING
        assert {name: answered.headers.get(name) for name in compared} == {
            name: got.headers[name] for name in compared
        }, path
        tried += 1
    assert tried > 10
    assert (
        (await api.client.head(f"{PATH}/{ids['imports']}/events"))
        .headers["content-type"]
        .startswith("text/event-stream")
    )
    assert "HEAD" in (await api.client.put(PATH)).headers["allow"]
    assert (await api.client.head(f"{PATH}/{ids['imports']}/retry")).status_code == 405
    assert api.service.api.output.count("stream aborted") == aborted_before


async def test_no_cache_stores_a_response(api):
    """Responses without validators are no-store, also problems and refusals of the server; browsers must not guess their type."""
    posted = await api.post(CSV, type="text/csv", params={"resource": "users"})
    job = await api.get(f"/{posted.json()['id']}")
    assert job.headers["cache-control"] == "private, no-cache"
    answers = [
        posted,
        await api.get(),
        await api.get("/nothing"),
        await api.client.get("/schema/openapi.json"),
        await api.client.get("/metrics"),
    ]
    (refused,) = await exchange(api, b"nonsense\r\n\r\n")
    assert [answer.headers["cache-control"] for answer in (*answers, refused)] == ["no-store"] * 6
    assert {answer.headers["x-content-type-options"] for answer in (*answers, job, refused)} == {"nosniff"}


async def test_the_type_of_metrics(api):
    """One charset."""
    assert (await api.client.get("/metrics")).headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
