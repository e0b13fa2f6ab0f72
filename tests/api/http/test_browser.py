"""A page of another origin in a real browser: it can neither change nor read anything."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from tests.support.chromium import launch
from tests.support.eventually import eventually

# every name is this machine, as for a page whose name was rebound to loopback
RESOLVER = "--host-resolver-rules=MAP *.example 127.0.0.1"
USERS = "email,name,role,active\nmallory@example.org,Mallory,admin,true\n"

# what a page can send without asking first (a CORS preflight); each is called with the URL of the service
WRITES = {
    "form": """async (url) => {
        const form = document.createElement("form");
        form.method = "post"; form.enctype = "multipart/form-data"; form.action = url + "/api/v1/imports"; form.target = "frame";
        for (const [name, value] of [["resource", "users"], ["file", USERS]]) {
            const field = document.createElement("textarea"); field.name = name; field.value = value; form.append(field);
        }
        const frame = document.createElement("iframe"); frame.name = "frame"; document.body.append(frame, form);
        const loaded = new Promise((resolve) => frame.addEventListener("load", resolve));
        form.submit(); await loaded;
    }""",
    "text": """(url) => fetch(url + "/api/v1/imports?resource=users&mode=upsert",
        {method: "POST", mode: "no-cors", headers: {"Content-Type": "text/plain"}, body: USERS}).then(() => null)""",
    "untyped blob": """(url) => fetch(url + "/api/v1/exports",
        {method: "POST", mode: "no-cors", body: new Blob(['{"resource": "users"}'])}).then(() => null)""",
    "beacon": """(url) => { navigator.sendBeacon(url + "/api/v1/imports?resource=users", USERS); }""",
}
READ = """(url) => fetch(url + "/api/v1/exports/users/stream").then((answer) => answer.text(), () => "refused")"""
SAME_ORIGIN = """(method) => fetch("/api/v1/imports?resource=users",
    {method, headers: {"Content-Type": "text/csv"}, body: method === "POST" ? USERS : undefined})
    .then((answer) => answer.status)"""


@asynccontextmanager
async def website():
    """The port of a server with an empty page."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<body>"
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def with_users(script: str) -> str:
    return script.replace("USERS", repr(USERS))


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1"])
async def test_a_page_of_another_origin_changes_nothing(service, conn, host):
    """Each request that a page can send without a preflight reaches the service and is answered 403; nothing is readable.

    The page is of another site (evil.example), and of another origin of the same site (another port of loopback).
    """
    started = await service(run=["api"])
    async with website() as port, launch(RESOLVER) as browser:
        page = await browser.new_page()
        await page.goto(f"http://{host}:{port}/")
        for script in WRITES.values():
            await page.evaluate(with_users(script), started.url)
        assert await page.evaluate(READ, started.url) == "refused"
        await eventually(
            lambda: (
                [line["status"] for line in started.api.logged("request") if line["method"] == "POST"]
                == [403] * len(WRITES)
            )
        )
    counted = await conn.execute("SELECT (SELECT count(*) FROM import_jobs), (SELECT count(*) FROM export_jobs)")
    assert await counted.fetchone() == (0, 0)


async def test_a_rebound_name_is_not_served(service, conn):
    """A page whose host name is made to resolve to the service has the service's origin: its host name is refused with 421."""
    started = await service(run=["api"])
    port = started.url.rpartition(":")[2]
    async with launch(RESOLVER) as browser:
        page = await browser.new_page()
        answer = await page.goto(f"http://rebound.example:{port}/live")
        assert answer is not None
        assert answer.status == 421
        for method in ("GET", "POST"):
            assert await page.evaluate(with_users(SAME_ORIGIN), method) == 421
        # the same page under the service's own name may do both
        await page.goto(f"{started.url}/live")
        assert await page.evaluate(with_users(SAME_ORIGIN), "GET") == 200
        assert await page.evaluate(with_users(SAME_ORIGIN), "POST") == 202
    assert await (await conn.execute("SELECT count(*) FROM import_jobs")).fetchone() == (1,)
