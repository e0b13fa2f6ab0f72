"""Which requests are refused before any route: by host name, by origin, by API key."""

import time
from datetime import datetime

import httpx
import pytest

from api.http import tickets
from tests.support.eventually import PATIENCE_SECONDS, eventually

EXPORTS = "/api/v1/exports"
KEY = "a-key-of-thirty-two-characters-00"

# (Host, the status of a GET) without API keys; None: the address that the client connects to
HOSTS = [
    (None, 200),
    ("localhost", 200),
    ("LocalHost:1234", 200),
    ("localhost.", 200),
    ("127.1.2.3:80", 200),
    ("[::1]:8080", 200),
    ("evil.example", 421),
    ("localhost.evil.example", 421),
    ("169.254.169.254", 421),
    ("127.0.0.1.nip.io", 421),
    ("10.0.0.1:8080", 421),
    ("[::2]", 421),
    ("", 421),
]
# (headers of a POST, whether it is refused); the service itself is localhost:1
ORIGINS = [
    ({}, False),
    ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:1"}, False),
    # a proxy may change Host; Sec-Fetch-Site takes precedence over Origin
    ({"Sec-Fetch-Site": "same-origin", "Origin": "https://bulk.example"}, False),
    ({"Sec-Fetch-Site": "none"}, False),
    ({"Origin": "http://localhost:1"}, False),
    ({"Origin": "HTTP://LOCALHOST:1"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, True),
    ({"Sec-Fetch-Site": "same-site"}, True),
    ({"Origin": "http://localhost:2"}, True),
    ({"Origin": "http://evil.example"}, True),
    ({"Origin": "null"}, True),
    ({"Origin": ""}, True),
]


async def test_without_keys_only_loopback_names_are_served(service):
    """A request for another host name is 421, whatever it asks for; so a rebound name cannot read anything."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        for host, status in HOSTS:
            answer = await client.get("/api/v1/imports", headers={} if host is None else {"Host": host})
            assert (host, answer.status_code) == (host, status)
            if status == 421:
                assert answer.json()["type"] == "/problems/misdirected-request"
        for path in ("/live", "/metrics", "/schema/openapi.json", "/nowhere"):
            assert (await client.get(path, headers={"Host": "evil.example"})).status_code == 421


@pytest.mark.parametrize("keys", ["", KEY])
async def test_unsafe_requests_of_other_origins_are_refused(service, keys):
    """With keys and without: a browser's POST or DELETE for a page of another origin is 403. GET is not refused."""
    url = (await service(run=["api"], api_keys=keys)).url
    async with httpx.AsyncClient(
        base_url=url, headers={"Host": "localhost:1", "X-API-Key": keys or "none"}, timeout=PATIENCE_SECONDS
    ) as client:
        for headers, is_refused in ORIGINS:
            # an empty body is 400 where the request is not refused
            answer = await client.post(EXPORTS, headers=headers)
            assert (headers, answer.status_code) == (headers, 403 if is_refused else 400)
            if is_refused:
                assert answer.json()["type"] == "/problems/cross-origin"
                assert (await client.delete(f"{EXPORTS}/x", headers=headers)).status_code == 403
            assert (await client.get(EXPORTS, headers=headers)).status_code == 200


async def test_more_host_names_are_a_setting(service):
    """HOSTS adds names for Host and for Origin; with it, names are checked although there are keys."""
    url = (await service(run=["api"], hosts="bulk.example, other.example", api_keys=KEY)).url
    async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": KEY}, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get(EXPORTS, headers={"Host": "bulk.example:443"})).status_code == 200
        assert (await client.get(EXPORTS, headers={"Host": "evil.example"})).status_code == 421
        for origin, status in (("https://other.example", 400), ("https://evil.example", 403)):
            assert (await client.post(EXPORTS, headers={"Origin": origin})).status_code == status


async def test_with_keys_any_host_name_is_served(service):
    """Behind a proxy the name is not known to the service, and a page of another origin has no key."""
    url = (await service(run=["api"], api_keys=KEY)).url
    async with httpx.AsyncClient(base_url=url, headers={"Host": "bulk.example"}, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get(EXPORTS, headers={"X-API-Key": KEY})).status_code == 200
        assert (await client.get(EXPORTS)).status_code == 401


async def test_wrong_keys_are_counted(service):
    """Guessing is visible in a metric and in the log, which does not have the key that was tried."""
    started = await service(run=["api"], api_keys=KEY, metrics_public=True)
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get(EXPORTS)).status_code == 401
        for _ in range(3):
            assert (await client.get(EXPORTS, headers={"X-API-Key": "guessed-by-somebody"})).status_code == 401
        assert "http_wrong_api_keys_total 3.0" in (await client.get("/metrics")).text
    await eventually(lambda: started.api.logged("wrong API key"))
    assert "guessed-by-somebody" not in started.api.output


async def test_a_read_key_changes_nothing(service):
    """It may read and ask for tickets; all else is 403. A key without a role may do everything."""
    reader = "reader-key-of-32-characters-0000"
    url = (await service(run=["api"], api_keys=f"grafana:read:{reader},ada:admin:{KEY}")).url
    async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": reader}, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get(EXPORTS)).status_code == 200
        refused = await client.post(EXPORTS, json={"resource": "users"})
        assert (refused.status_code, refused.json()["type"]) == (403, "/problems/forbidden")
        assert (await client.delete(f"{EXPORTS}/x")).status_code == 403
        assert (await client.post("/api/v1/tickets", json={"path": EXPORTS})).status_code == 201
        admin = await client.post(EXPORTS, json={"resource": "users"}, headers={"X-API-Key": KEY})
        assert admin.status_code == 202


async def test_a_ticket_reads_one_address(service):
    """GET of exactly this address needs no key. The log has neither the ticket nor its query."""
    started = await service(run=["api"], api_keys=f"ada:admin:{KEY}")
    stream = "/api/v1/exports/users/stream"
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:

        async def ticket(path: str) -> dict:
            answer = await client.post("/api/v1/tickets", json={"path": path}, headers={"X-API-Key": KEY})
            assert answer.status_code == 201, answer.text
            return answer.json()

        assert (await client.post("/api/v1/tickets", json={"path": stream})).status_code == 401
        for path in (stream, f"{stream}?format=csv&role=admin"):
            url = (await ticket(path))["url"]
            assert (await client.get(url)).status_code == 200
            assert (await client.post(url)).status_code == 401
            assert (await client.get(url.replace("users", "comments"))).status_code == 401
            assert (await client.get(url.replace("ticket=", "limit=1&ticket="))).status_code == 401
            assert (await client.get(url[:-1] + ("0" if url[-1] != "0" else "1"))).status_code == 401
            assert (await client.get(url.replace("ticket=", "ticket=9"))).status_code == 401
        for path in ("/metrics", "//evil.example/api/v1/", "/api/v1/imports#x", f"{stream}?ticket=1.a", "/api/v1/é"):
            answer = await client.post("/api/v1/tickets", json={"path": path}, headers={"X-API-Key": KEY})
            assert (path, answer.status_code, answer.json()["errors"][0]["field"]) == (path, 400, "path")
    assert "ticket=" not in started.api.output


async def test_a_ticket_expires(service):
    """It is signed with its expiry time, TICKET_SECONDS after the request, and is refused from then on."""
    started = await service(run=["api"], api_keys=KEY, ticket_seconds=1000)
    path = "/api/v1/exports/users/stream"
    async with httpx.AsyncClient(base_url=started.url, headers={"X-API-Key": KEY}, timeout=PATIENCE_SECONDS) as client:
        before = time.time()
        created = (await client.post("/api/v1/tickets", json={"path": path})).json()
        after = time.time()
    expires = int(datetime.fromisoformat(created["expires_at"]).timestamp())
    assert before + 1000 <= expires <= after + 1001
    assert created["url"].encode() == tickets.add(path.encode(), KEY, expires=expires)
    _, ticket = tickets.split(created["url"].partition("?")[2].encode()) or (b"", b"")
    assert tickets.is_valid(ticket, path.encode(), KEY, now=expires - 1)
    assert not tickets.is_valid(ticket, path.encode(), KEY, now=expires)
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        for moved, status in ((0, 200), (-3600, 401)):
            url = tickets.add(path.encode(), KEY, expires=expires + moved).decode()
            assert (await client.get(url)).status_code == status


async def test_without_keys_a_ticket_is_the_plain_address(service):
    """Nothing requires a key, so the address is returned unchanged."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        answer = await client.post("/api/v1/tickets", json={"path": f"{EXPORTS}?limit=1"})
        assert answer.json() == {"url": f"{EXPORTS}?limit=1", "expires_at": None}
