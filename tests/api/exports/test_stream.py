"""Streaming exports: the bytes of each format, and streams that are cut off."""

import json
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from db.exports import copy_out
from tests.support.eventually import PATIENCE_SECONDS, broken_off, eventually
from tests.support.exports import MANY, SEVERAL, STREAM, exported, many_articles, resume, stall

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IDENTITY = {"Accept-Encoding": "identity"}
ENCODINGS = ["identity", "gzip", "zstd"]
# Accept-Encoding, and the Content-Encoding that it leads to; 200: none, 406: no answer
ENCODING_CHOSEN = {
    "": 200,
    "identity": 200,
    "br": 200,
    "gzip, deflate, br": "gzip",
    "gzip, deflate, br, zstd": "zstd",
    "gzip;q=1.0, zstd;q=0.5": "gzip",
    "GZIP;Q=0.1": "gzip",
    "identity;q=1, gzip;q=0.5": 200,
    "gzip;q=0": 200,
    "gzip;q=x": 200,
    "*": "zstd",
    "*;q=0": 406,
    "identity;q=0, br": 406,
    "zstd;q=0, *": "gzip",
}

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


async def random_articles(conn, count):
    """Articles of 10 KB that can hardly be compressed."""
    await many_articles(conn, count)
    await conn.execute(
        """
        UPDATE articles
        SET body = (SELECT string_agg(md5(articles.slug || n), '') FROM generate_series(1, 320) AS n)
        """
    )


async def copying(conn):
    """The server's processes that are sending an export of the API."""
    cursor = await conn.execute(
        """
        SELECT pid
        FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'bulk api streams' AND state = 'active' AND query LIKE 'COPY%'
        """
    )
    return [pid async for (pid,) in cursor]


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


def unpackers(encoding):
    """What unpacks one stream, and knows in `eof` whether it has come to the end of it."""
    match encoding:
        case "gzip":
            return zlib.decompressobj(wbits=31)
        case "zstd":
            return zstd.ZstdDecompressor()
        case _:
            return SimpleNamespace(decompress=lambda data: data, eof=False)


def resident_bytes(process):
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the API has ended:\n{process.output}")


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
async def test_what_is_exported_imports_again(service, conn, format):
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


async def test_what_is_asked_for(service, conn):
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


async def test_one_snapshot(service, conn):
    """A stream shows the table as it was at the start, whatever is committed while it is read."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(run=["api"])).url
    async with (
        httpx.AsyncClient(base_url=url, headers=IDENTITY, timeout=PATIENCE_SECONDS) as client,
        client.stream("GET", STREAM.format("articles")) as response,
    ):
        chunks = response.aiter_raw()
        lines = (await anext(chunks)).count(b"\n")
        await conn.execute("DELETE FROM stored_articles")
        await resume(conn)
        async for chunk in chunks:
            lines += chunk.count(b"\n")
    assert lines == SEVERAL


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_stream_that_fails_is_seen_to_be_broken(service, conn, encoding):
    """When the server's process dies half way, the body ends without its end, and the client's library raises.

    Packed or not; and what is packed does not come to its own end either.
    """
    await random_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(run=["api"])).url
    unpacker = unpackers(encoding)
    async with httpx.AsyncClient(
        base_url=url, headers={"Accept-Encoding": encoding}, timeout=PATIENCE_SECONDS
    ) as client:
        with broken_off():
            async with client.stream("GET", STREAM.format("articles")) as response:
                assert response.status_code == 200
                assert response.headers.get("content-encoding", "identity") == encoding
                chunks = response.aiter_raw()
                unpacker.decompress(await anext(chunks))
                [pid] = await eventually(lambda: copying(conn))
                await conn.execute("SELECT pg_terminate_backend(%(pid)s)", {"pid": pid})
                async for chunk in chunks:
                    unpacker.decompress(chunk)
        assert not unpacker.eof
        metrics = (await client.get("/metrics")).text
        assert "bulk_export_streams_aborted_total 1.0" in metrics
        assert (await client.get(STREAM.format("comments"))).status_code == 200


async def test_a_stream_that_takes_too_long_is_broken_off(service, conn):
    """The first block after STREAM_SECONDS_MAX breaks the stream and releases its snapshot; one that ends before is whole."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(run=["api"], stream_seconds_max=3)).url
    async with httpx.AsyncClient(base_url=url, headers=IDENTITY, timeout=PATIENCE_SECONDS) as client:
        with broken_off():
            async with client.stream("GET", STREAM.format("articles")) as response:
                assert response.status_code == 200
                await eventually(lambda: copies_for(conn, seconds=3))
                await resume(conn)
                async for _ in response.aiter_raw():
                    pass

        async def is_let_go():
            return not await copying(conn)

        await eventually(is_let_go)
        assert "bulk_export_streams_aborted_total 1.0" in (await client.get("/metrics")).text
        assert (await client.get(STREAM.format("users"))).text.count("\n") == 1


async def copies_for(conn, *, seconds: float) -> bool:
    """Whether the one stream began more than so many seconds ago."""
    cursor = await conn.execute(
        "SELECT FROM pg_stat_activity WHERE pid = ANY(%(pids)s) AND query_start < now() - %(seconds)s * interval '1 second'",
        {"pids": await copying(conn), "seconds": seconds},
    )
    return await cursor.fetchone() is not None


async def test_packing(service, conn):
    """The compression is the one with the highest quality in Accept-Encoding; decompressed, the bytes are the same."""
    await many_articles(conn, 100)
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:

        async def get(accepted):
            headers = [] if accepted is None else [("Accept-Encoding", accepted)]
            request = client.build_request("GET", STREAM.format("articles"))
            request.headers = httpx.Headers([("Host", request.headers["host"]), *headers])
            response = await client.send(request, stream=True)
            raw = b"".join([chunk async for chunk in response.aiter_raw()])
            assert response.status_code in (200, 406)
            return response.headers.get("content-encoding", response.status_code), raw

        _, plain = await get(None)
        for encoding in ("gzip", "zstd"):
            told, raw = await get(encoding)
            unpacker = unpackers(encoding)
            assert (told, unpacker.decompress(raw), unpacker.eof) == (encoding, plain, True)
        chosen = {accepted: (await get(accepted))[0] for accepted in ENCODING_CHOSEN}
    assert chosen == ENCODING_CHOSEN


@pytest.mark.skipif(sys.platform != "linux", reason="it needs /proc")
async def test_a_slow_client_costs_no_memory(service, conn):
    """While a slow client reads 60 MB, the API grows by less than 30 MB; the data waits in PostgreSQL."""
    await many_articles(conn, MANY)
    started = await service(run=["api"])
    before = resident_bytes(started.api)
    async with (
        httpx.AsyncClient(base_url=started.url, headers=IDENTITY, timeout=PATIENCE_SECONDS) as client,
        client.stream("GET", STREAM.format("articles")) as response,
    ):

        async def is_held_up():
            cursor = await conn.execute("SELECT wait_event FROM pg_stat_activity WHERE pid = ANY (%(pids)s)", pids)
            return await cursor.fetchone() == ("ClientWrite",)

        pids = {"pids": await copying(conn)}
        await eventually(is_held_up)
        most = resident_bytes(started.api)
        lines = 0
        async for chunk in response.aiter_raw():
            lines += chunk.count(b"\n")
            most = max(most, resident_bytes(started.api))
    assert lines == MANY
    assert most - before < 30_000_000


async def test_what_fails_before_the_first_byte_is_a_problem(service, conn):
    """An error before the first byte is a problem document."""
    url = (await service(run=["api"])).url
    await conn.execute("ALTER TABLE comments RENAME COLUMN body TO text")
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        response = await client.get(STREAM.format("comments"))
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_client_that_leaves_frees_its_connection(service, conn):
    """After a client disconnects, the only connection of the pool is available to the next request."""
    await many_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(run=["api"], streams_max=1)).url
    async with httpx.AsyncClient(base_url=url, headers=IDENTITY, timeout=PATIENCE_SECONDS) as client:
        async with client.stream("GET", STREAM.format("articles")) as response:
            # an iterator that is not kept is collected, which closes the response
            blocks = response.aiter_raw()
            await anext(blocks)
            [pid] = await eventually(lambda: copying(conn))

        async def is_idle():
            cursor = await conn.execute("SELECT state FROM pg_stat_activity WHERE pid = %(pid)s", {"pid": pid})
            return await cursor.fetchone() == ("idle",)

        await eventually(is_idle)
        assert (await client.get(STREAM.format("comments"))).status_code == 200
