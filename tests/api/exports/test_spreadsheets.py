"""Exports for people: XLSX, and CSV with a byte order mark, as streams and as files."""

import io
from datetime import datetime

import httpx
import openpyxl

from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.exports import EXPORTS, STREAM, downloaded, many_articles
from tests.support.xlsx import MEDIA_TYPE

USERS = """
    INSERT INTO users (id, email, name, role, active, created_at, updated_at)
    VALUES
        ('00000000-0000-4000-8000-000000000001', 'a@example.com', '=1+1', 'admin', true,
         '2026-01-31 12:00:00+00', '2026-01-31 14:00:00.12+02'),
        ('00000000-0000-4000-8000-000000000002', 'b@example.com', E'Zo\u00eb\\r\\n', 'reader', false,
         '2026-01-31 12:00:00+00', '2026-01-31 12:00:00+00')
"""
BOM = b"\xef\xbb\xbf"


def rows(file: bytes) -> list[tuple]:
    return [*openpyxl.load_workbook(io.BytesIO(file), read_only=True).worksheets[0].iter_rows(values_only=True)]


async def test_a_workbook(service, conn):
    """As a stream, by the parameter and by Accept, and as a file: the same records, with dates and texts of a sheet."""
    await conn.execute(USERS)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        stream = await client.get(STREAM.format("users"), params={"format": "xlsx"})
        assert (stream.status_code, stream.headers["content-type"]) == (200, MEDIA_TYPE)
        assert "content-encoding" not in stream.headers
        assert stream.headers["content-disposition"].endswith('Z.xlsx"')
        header, first, second = rows(stream.content)
        assert header == ("id", "email", "name", "role", "active", "created_at", "updated_at")
        assert first[2:] == (
            "=1+1", "admin", True, datetime(2026, 1, 31, 12), datetime(2026, 1, 31, 12, 0, 0, 120_000),
        )  # fmt: skip
        assert second[:2] == ("00000000-0000-4000-8000-000000000002", "b@example.com")
        accepted = await client.get(STREAM.format("users"), headers={"Accept": MEDIA_TYPE})
        assert rows(accepted.content) == [header, first, second]
        selected = await client.get(
            STREAM.format("users"), params={"format": "xlsx", "fields": "name,email", "limit": "1"}
        )
        assert rows(selected.content) == [("name", "email"), ("=1+1", "a@example.com")]

        file = await downloaded(client, resource="users", format="xlsx")
        assert file.headers["content-type"] == MEDIA_TYPE
        assert rows(file.content) == [header, first, second]
        empty = await client.get(STREAM.format("comments"), params={"format": "xlsx"})
        assert rows(empty.content) == [("id", "article_id", "user_id", "body", "created_at")]

        # the workbook is imported again
        await conn.execute("TRUNCATE users CASCADE")
        again = await client.post(
            "/api/v1/imports", params={"resource": "users"}, headers={"Content-Type": MEDIA_TYPE}, content=file.content
        )

        async def outcome():
            return (await client.get(again.headers["location"])).json()["outcome"]

        assert await eventually(outcome) == "success"
        assert rows((await client.get(STREAM.format("users"), params={"format": "xlsx"})).content) == [
            header,
            first,
            second,
        ]


async def test_many_blocks(service, conn):
    """A workbook of many blocks is complete, and its job has the number of its records."""
    await many_articles(conn, 100)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        file = await downloaded(client, resource="articles", format="xlsx")
        found = rows(file.content)
        assert len(found) == 101
        assert {len(row[3]) for row in found[1:]} == {20_000}
        jobs = (await client.get(EXPORTS)).json()["exports"]
        assert jobs[0]["file"]["records"] == 100


async def test_a_byte_order_mark(service, conn):
    """Before the CSV of a stream and of a file, once; an import ignores it."""
    await many_articles(conn, 20)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        plain = await client.get(STREAM.format("articles"), params={"format": "csv"})
        marked = await client.get(STREAM.format("articles"), params={"format": "csv", "bom": "true"})
        assert marked.content == BOM + plain.content
        file = await downloaded(client, resource="articles", format="csv", bom=True)
        assert file.content == marked.content


async def test_options_of_other_formats(service):
    """Options of CSV with another format, and a compression of a workbook, are refused."""
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:

        async def wrong(**body):
            answer = await client.post(EXPORTS, json={"resource": "users", **body})
            return answer.status_code, [error["field"] for error in answer.json().get("errors", [])]

        assert await wrong(format="ndjson", bom=True) == (400, ["bom"])
        assert await wrong(format="xlsx", csv_safe=True, compression="gzip") == (400, ["csv_safe", "compression"])
        stream = await client.get(STREAM.format("users"), params={"format": "xlsx", "bom": "true"})
        assert stream.status_code == 400
