"""Invalid and hostile requests to one running service: each is refused with the reason, and has no lasting effect."""

import asyncio
import base64
import json
from pathlib import Path

import httpx

from tests.api.http.hostile import CASES, KEY, Case
from tests.support import api_client
from tests.support.api_client import Api
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.service import Service

AT_ONCE = 8
GROWTH_MAX_BYTES = 80 * 1024 * 1024
HEADERS = {"X-API-Key": KEY.decode()}


async def exchange(service: Service, case: Case) -> tuple[int, dict[str, str], bytes]:
    """Sends it all, if it is let, and reads to the end of the connection: status, headers, body; 0 without an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]))

    async def send() -> None:
        try:
            for piece in case.sent:
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass

    sending = asyncio.create_task(send())
    received = bytearray()
    try:
        while block := await reader.read(65536):
            received += block
    except ConnectionError:
        pass
    finally:
        sending.cancel()
        writer.transport.abort()
    head, _, body = bytes(received).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    if not head:
        return 0, {}, b""
    status, *lines = head.decode("latin-1").split("\r\n")
    return int(status.split(" ")[1]), dict(line.split(": ", 1) for line in lines), body


async def complaint(service: Service, case: Case) -> str | None:
    """Why the response is not the expected one; None if it is."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            status, headers, body = await exchange(service, case)
    except TimeoutError:
        return "there was no end"
    if case.status == 0:
        return None
    if status != case.status:
        return f"{status} {body[:300]!r}"
    if headers.get("content-type") != "application/problem+json" or not headers.get("x-request-id"):
        return f"no problem document: {headers}"
    document = json.loads(body)
    if document["status"] != status or document["request_id"] != headers["x-request-id"]:
        return f"another status or id: {document}"
    if len(body) > 100_000:
        return f"an answer of {len(body)} bytes"
    if status == 401 and headers.get("www-authenticate") != "Bearer":
        return "no WWW-Authenticate"
    return None if case.word in body.decode() else f"{case.word!r} is missing: {body[:500]!r}"


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


async def all_of(service: Service) -> list[str]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(kind: str, case: Case) -> str | None:
        async with gate:
            found = await complaint(service, case)
            return found and f"{kind}: {case.name}: {case.status} was due, and it was: {found}"

    tried = [one(kind, case) for kind, cases in CASES.items() for case in cases]
    return [found for found in await asyncio.gather(*tried) if found]


async def test_each_is_refused_and_nothing_stays(server_url, tmp_path, record_property):
    """Each is answered 4xx with a problem document that names the error. No job, memory or traceback remains."""
    settings = {"api_keys": KEY.decode() + ", 0ther-key-of-the-same", "log_level": "debug", "unpack_ratio_max": 20}
    settings |= {"upload_max_bytes": 20_000_000, "keep_alive_seconds": 1, "hosts": "localhost, test"}
    async with api_client.service(server_url, tmp_path, run=["api"], **settings) as service:
        assert service.api
        # once before, so that what is made once is there
        await asyncio.gather(*(complaint(service, cases[-1]) for cases in CASES.values()))
        before = resident_bytes(service.api.pid)
        complaints = await all_of(service)
        assert not complaints, "\n".join(complaints)
        assert service.api.exit_code is None
        grown = resident_bytes(service.api.pid) - before
        async with api_client.connected(service) as api:
            assert await left_behind(api) == 0
        log = service.api.output
        for word in ("Traceback", '"level": "error"', KEY.decode(), "0ther-key", "a@example.org"):
            assert word not in log
        # every line is JSON
        assert service.api.log_lines()
    assert grown < GROWTH_MAX_BYTES
    by_kind = ", ".join(f"{kind} {len(cases)}" for kind, cases in CASES.items())
    record_property(
        "summary",
        f"{sum(map(len, CASES.values()))} bad inputs tried, by kind: {by_kind}; "
        f"each refused, nothing stored, memory grew by {grown / 1024**2:.0f} MB",
    )


async def test_positions_that_no_page_gave(server_url, tmp_path):
    """A cursor of our own making is refused, or leads to an empty page: never further than that."""
    async with (
        api_client.service(server_url, tmp_path, run=["api"]) as service,
        api_client.connected(service) as api,
    ):
        posted = await api.post(b"email,name,role,active\n", type="text/csv", params={"resource": "users"})
        for position in (
            b"[1]",
            b'["a","b"]',
            b"{}",
            b"\xff",
            b"[" * 30_000,
            b"[1,",
            b"[-1,1e400]",
            b"[NaN,1]",
        ):
            cursor = base64.urlsafe_b64encode(position).decode()
            refused = await api.get(f"/{posted.json()['id']}/errors", params={"cursor": cursor})
            assert refused.status_code == 400, (position[:20], refused.text)
            assert "cursor" in refused.text
        for position in (b"[%d,1]" % 10**30, b"[1,%d]" % 10**30, b"[-%d,0]" % 2**63, b"[%d,70000]" % (2**63 - 1)):
            cursor = base64.urlsafe_b64encode(position).decode()
            answer = await api.get(f"/{posted.json()['id']}/errors", params={"cursor": cursor})
            assert answer.status_code in (200, 400), (position, answer.text)


async def left_behind(api: Api) -> int:
    async with httpx.AsyncClient(base_url=api.service.url, headers=HEADERS, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get("/live")).status_code == 200
        assert (await client.get(api_client.PATH)).json() == {"imports": [], "next_cursor": None}
    return 0 if await api.has_nothing() else 1
