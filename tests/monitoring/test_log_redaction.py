"""What logs and tables of jobs must never have: keys, passwords, and the data of the people whose records are imported."""

from urllib.parse import urlsplit

import httpx
import pytest

from tests.support import api_client
from tests.support.api_client import PATH
from tests.support.eventually import PATIENCE_SECONDS

KEY = "k-5ecret-of-the-c1ient"
FORGED = '\x1b[31mred\x07\r\n{"event": "forged"}'
PEOPLE = ["ada.l0velace@example.org", "Ada Gordon-5ecret", "n0t-an-address", "gr4ce@example.org"]
FILE = f"""email,name,role,active
ada.l0velace@example.org,Ada Gordon-5ecret,reader,true
ada.l0velace@example.org,Ada Gordon-5ecret,reader,true
n0t-an-address,Ada Gordon-5ecret,boss,perhaps
gr4ce@example.org,Forbidden,reader,true
"{FORGED.replace('"', '""')}@example.org",x,reader,true
"""


@pytest.fixture(params=["json", "console"])
async def service(request, server_url, tmp_path):
    settings = {"api_keys": KEY, "log_level": "debug", "log_format": request.param, "worker_pool_size": 2}
    async with api_client.service(server_url, tmp_path, **settings) as started:
        yield started


async def use(service) -> None:
    """All that is done with records, among it what the database itself refuses."""
    async with (
        api_client.connected(service) as api,
        httpx.AsyncClient(base_url=service.url, headers={"X-API-Key": KEY}, timeout=PATIENCE_SECONDS) as client,
    ):
        await api.conn.execute("ALTER TABLE users ADD CHECK (name <> 'Forbidden')")
        forged = {"X-Request-Id": FORGED.encode("unicode_escape"), "User-Agent": '"}\\n{"event": "forged"}'}
        for mode in ("insert", "upsert", "insert"):
            posted = await client.post(
                PATH,
                files={"file": (FORGED, FILE)},
                params={"resource": "users", "mode": mode},
                headers={"Prefer": "wait=30", **forged, "Idempotency-Key": f"gr4ce@example.org {mode} {id(object())}"},
            )
            assert posted.status_code == 200, posted.text
        job = posted.json()
        assert job["counts"]["failed"]
        for path in ("errors?format=csv", "failed-records?annotate=true", "events", "errors?field=gr4ce@example.org"):
            assert (await client.get(f"{PATH}/{job['id']}/{path}")).status_code == 200
        streamed = await client.get("/api/v1/exports/users/stream", params={"email": PEOPLE[0]})
        assert PEOPLE[0] in streamed.text
        for refused in ("/%0d%0a%1b%5b31m{event:forged}", f"{PATH}?gr4ce@example.org={FORGED.encode().hex()}"):
            assert (await client.get(refused, headers={"X-API-Key": KEY})).status_code in (400, 404)
        assert (await client.post(PATH, content=f"email,{FORGED}\n", params={"resource": "users"})).status_code == 400
        tables = await api.value("SELECT string_agg(jobs::text, ' ') FROM import_jobs AS jobs")
        assert not [word for word in PEOPLE[:3] if word in tables]


async def test_no_personal_data_is_logged(service):
    """At the level of debug, no line of any library has a key, a password or a value of a record, or is forged."""
    await use(service)
    password = urlsplit(service.environment["DATABASE_URL"]).password
    for process in (service.api, service.workers):
        output = process.output
        assert output
        found = [word for word in (KEY, password, *PEOPLE, "forged", "\x1b[31mred", "\x07") if word and word in output]
        assert not found, [line for line in output.splitlines() if any(word in line for word in found)][:5]
        if service.environment["LOG_FORMAT"] == "json":
            assert process.log_lines()
