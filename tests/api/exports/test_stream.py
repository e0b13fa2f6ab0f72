"""Streamed exports: one snapshot, compressed on request, incomplete if they fail, with little memory."""

import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from db.compression import zstd
from tests.support.eventually import PATIENCE_SECONDS, broken_off, eventually
from tests.support.exports import MANY, SEVERAL, STREAM, many_articles, resume, stall

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


def decompressor(encoding):
    """Decompresses one stream; `eof` is whether the end of the compressed data was read."""
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
async def test_a_failed_stream_is_incomplete_for_the_client(service, conn, encoding):
    """When the server's process dies half way, the body ends without its end, and the client's library raises.

    Compressed data has no end either.
    """
    await random_articles(conn, SEVERAL)
    await stall(conn)
    url = (await service(run=["api"])).url
    decoder = decompressor(encoding)
    async with httpx.AsyncClient(
        base_url=url, headers={"Accept-Encoding": encoding}, timeout=PATIENCE_SECONDS
    ) as client:
        with broken_off():
            async with client.stream("GET", STREAM.format("articles")) as response:
                assert response.status_code == 200
                assert response.headers.get("content-encoding", "identity") == encoding
                chunks = response.aiter_raw()
                decoder.decompress(await anext(chunks))
                [pid] = await eventually(lambda: copying(conn))
                await conn.execute("SELECT pg_terminate_backend(%(pid)s)", {"pid": pid})
                async for chunk in chunks:
                    decoder.decompress(chunk)
        assert not decoder.eof
        metrics = (await client.get("/metrics")).text
        assert "bulk_export_streams_aborted_total 1.0" in metrics
        assert (await client.get(STREAM.format("comments"))).status_code == 200


async def test_a_stream_that_takes_too_long_is_closed(service, conn):
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

        async def is_released():
            return not await copying(conn)

        await eventually(is_released)
        assert "bulk_export_streams_aborted_total 1.0" in (await client.get("/metrics")).text
        assert (await client.get(STREAM.format("users"))).text.count("\n") == 1


async def copies_for(conn, *, seconds: float) -> bool:
    """Whether the one stream began more than so many seconds ago."""
    cursor = await conn.execute(
        "SELECT FROM pg_stat_activity WHERE pid = ANY(%(pids)s) AND query_start < now() - %(seconds)s * interval '1 second'",
        {"pids": await copying(conn), "seconds": seconds},
    )
    return await cursor.fetchone() is not None


async def test_compression(service, conn):
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
            applied, raw = await get(encoding)
            decoder = decompressor(encoding)
            assert (applied, decoder.decompress(raw), decoder.eof) == (encoding, plain, True)
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


async def test_an_error_before_the_first_byte_is_a_problem(service, conn):
    """An error before the first byte is a problem document."""
    url = (await service(run=["api"])).url
    await conn.execute("ALTER TABLE comments RENAME COLUMN body TO text")
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        response = await client.get(STREAM.format("comments"))
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_client_that_disconnects_frees_its_connection(service, conn):
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
