"""The formats of exports: CSV, NDJSON and JSON with the same texts and times, which can be imported again."""

import json

import httpx
import pytest

from db.exports import copy_out
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.exports import STREAM, exported, many_articles

USERS = """
    INSERT INTO users (id, email, name, role, active, created_at, updated_at, import_id, import_record, import_action)
    VALUES
        ('00000000-0000-4000-8000-000000000001', 'a@example.com', 'Ann "the, first"', 'admin', true,
         '2026-01-31 12:00:00+00', '2026-01-31 14:00:00.120000+02', gen_random_uuid(), 1, 'created'),
        ('00000000-0000-4000-8000-000000000002', 'b@example.com', E'Zo\u00eb \U0001f600\u2028\\\\N\x01\x02\x7f', 'reader', false,
         '0001-01-01 00:00:00+00', '9999-12-31 23:59:59.999999+00', NULL, NULL, NULL)
"""
ARTICLES = """
    INSERT INTO articles (id, slug, title, body, author_id, tags, status, published_at)
    VALUES
        ('00000000-0000-4000-8000-000000000011', 'a', E'two\\nlines', '', '00000000-0000-4000-8000-000000000001',
         NULL, 'draft', NULL),
        ('00000000-0000-4000-8000-000000000012', 'b', '\\.', E'\\r\\n"', '00000000-0000-4000-8000-000000000001',
         ARRAY['x', 'y, "z"', '', E'\\\\'], 'published', '2026-01-31 12:00:00.5+00')
"""
USERS_CSV = """\
id,email,name,role,active,created_at,updated_at
00000000-0000-4000-8000-000000000001,a@example.com,"Ann ""the, first""\
",admin,true,2026-01-31T12:00:00+00:00,2026-01-31T12:00:00.12+00:00
00000000-0000-4000-8000-000000000002,b@example.com,Zo\u00eb \U0001f600\u2028\\N\x01\x02\x7f\
,reader,false,0001-01-01T00:00:00+00:00,9999-12-31T23:59:59.999999+00:00
"""
ARTICLES_CSV = (
    "id,slug,title,body,author_id,tags,status,published_at\n"
    '00000000-0000-4000-8000-000000000011,a,"two\nlines","",00000000-0000-4000-8000-000000000001,,draft,\n'
    '00000000-0000-4000-8000-000000000012,b,\\.,"\r\n""",00000000-0000-4000-8000-000000000001,'
    r'"[""x"",""y, \""z\"""","""",""\\""]",published,2026-01-31T12:00:00.5+00:00'
    "\n"
)
USERS_NDJSON = (
    r'{"id":"00000000-0000-4000-8000-000000000001","email":"a@example.com","name":"Ann \"the, first\"","role":"admin",'
    r'"active":true,"created_at":"2026-01-31T12:00:00+00:00","updated_at":"2026-01-31T12:00:00.12+00:00"}'
    "\n"
    r'{"id":"00000000-0000-4000-8000-000000000002","email":"b@example.com",'
    '"name":"Zo\u00eb \U0001f600\u2028' + r"\\N\u0001\u0002" + '\x7f","role":"reader",'
    r'"active":false,"created_at":"0001-01-01T00:00:00+00:00","updated_at":"9999-12-31T23:59:59.999999+00:00"}'
    "\n"
)
ARTICLES_NDJSON = (
    r'{"id":"00000000-0000-4000-8000-000000000011","slug":"a","title":"two\nlines","body":"",'
    r'"author_id":"00000000-0000-4000-8000-000000000001","tags":null,"status":"draft","published_at":null}'
    "\n"
    r'{"id":"00000000-0000-4000-8000-000000000012","slug":"b","title":"\\.","body":"\r\n\"",'
    r'"author_id":"00000000-0000-4000-8000-000000000001","tags":["x","y, \"z\"","","\\"],"status":"published",'
    r'"published_at":"2026-01-31T12:00:00.5+00:00"}'
    "\n"
)


async def test_csv(conn):
    """Quotes, newlines and any Unicode are preserved; null is an empty cell, the empty text a quoted one."""
    await conn.execute(USERS)
    await conn.execute(ARTICLES)
    assert await exported(conn, "users", "csv") == (USERS_CSV, 2)
    assert await exported(conn, "articles", "csv") == (ARTICLES_CSV, 2)


async def test_ndjson(conn):
    """Each line is one JSON object, with the same texts and times as in CSV; no provenance."""
    await conn.execute(USERS)
    await conn.execute(ARTICLES)
    assert await exported(conn, "users", "ndjson") == (USERS_NDJSON, 2)
    assert await exported(conn, "articles", "ndjson") == (ARTICLES_NDJSON, 2)


async def test_json(conn):
    """One array with the objects of NDJSON."""
    await conn.execute(USERS)
    await conn.execute(ARTICLES)
    text, records = await exported(conn, "articles", "json")
    assert (text, records) == ("[" + ARTICLES_NDJSON.rstrip("\n").replace("}\n", "},\n") + "]", 2)
    assert len(json.loads(text)) == 2


@pytest.mark.parametrize("format", ["csv", "ndjson", "json"])
async def test_many_blocks(conn, format):
    """An export of many blocks is complete and in the order of the ids."""
    await many_articles(conn, 100)
    text, records = await exported(conn, "articles", format)
    assert len(text) > 4 * copy_out.BLOCK_BYTES
    match format:
        case "csv":
            ids = [line.split(",")[0] for line in text.splitlines()[1:]]
        case "ndjson":
            ids = [json.loads(line)["id"] for line in text.splitlines()]
        case _:
            ids = [record["id"] for record in json.loads(text)]
    assert records == len(ids) == 100
    assert ids == sorted(ids)


@pytest.mark.parametrize("format", ["csv", "ndjson", "json"])
async def test_an_exported_file_can_be_imported(service, conn, format):
    """Into empty tables, in the order of the references, and then exports as the same bytes."""
    await conn.execute(USERS)
    await conn.execute(ARTICLES.replace("'', '0", "'body', '0"))
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:

        async def export_all():
            query = {"format": format}
            return {
                name: (await client.get(STREAM.format(name), params=query)).content for name in ("users", "articles")
            }

        before = await export_all()
        await conn.execute("TRUNCATE users, articles, comments")
        for name, content in before.items():
            query = {"resource": name, "format": format}
            headers = {"Content-Type": "application/octet-stream"}
            job = await client.post("/api/v1/imports", params=query, content=content, headers=headers)
            assert job.status_code == 202, job.text

            async def outcome(location=job.headers["location"]):
                return (await client.get(location)).json()["outcome"]

            assert await eventually(outcome) == "success"
        assert await export_all() == before


async def test_nothing_to_export(service):
    """An empty table is a CSV header alone, no line, and an empty array."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        bodies = {
            format: (await client.get(STREAM.format("comments"), params={"format": format})).text
            for format in ("csv", "ndjson", "json")
        }
    assert bodies == {"csv": "id,article_id,user_id,body,created_at\n", "ndjson": "", "json": "[]"}


async def test_the_format_is_that_of_the_request(service, conn):
    """The format is that of the parameter, else of Accept; unknown ones are refused, not ignored."""
    await conn.execute(USERS)
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url + STREAM.format("users"), timeout=PATIENCE_SECONDS) as client:

        async def get(accept=None, **query):
            headers = {} if accept is None else {"Accept": accept}
            response = await client.get("", headers=headers, params=query)
            return response.status_code, response.headers["content-type"]

        assert await get() == (200, "application/x-ndjson")
        assert await get("*/*") == (200, "application/x-ndjson")
        assert await get("text/html, */*;q=0.8") == (200, "application/x-ndjson")
        assert await get("application/jsonl") == (200, "application/x-ndjson")
        assert await get("text/csv") == (200, "text/csv; charset=utf-8")
        assert await get("application/json;q=0.9, text/csv;q=0.5") == (200, "application/json")
        assert await get("text/csv", format="json") == (200, "application/json")
        assert await get("image/png") == (406, "application/problem+json")
        assert await get("") == (200, "application/x-ndjson")
        assert await get("text/csv;q=0, */*") == (200, "application/x-ndjson")
        for nothing in ("text/csv;q=0", "*/*;q=0", "application/json;q=0, text/html"):
            assert await get(nothing) == (406, "application/problem+json")
        assert await get("a/b," * 300) == (400, "application/problem+json")
        assert await get(format="xml") == (400, "application/problem+json")

        response = await client.get("", params={"compression": "gzip"})
        assert response.status_code == 400
        assert [error["field"] for error in response.json()["errors"]] == ["compression"]
        assert (await client.get(url + STREAM.format("export_jobs"))).status_code == 404

        response = await client.get("", params={"format": "csv"})
        assert response.text == USERS_CSV
        assert response.headers["vary"] == "Accept, Accept-Encoding"
        at = response.headers["x-snapshot-at"]
        compact = at[:19].replace("-", "").replace(":", "")
        assert response.headers["content-disposition"] == f'attachment; filename="users-{compact}Z.csv"'
