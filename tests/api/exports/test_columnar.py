"""Exports as Parquet and as Arrow streams, read by pyarrow and by DuckDB."""

import io
import re
import sys
from datetime import UTC, datetime

import duckdb
import httpx
import pyarrow
import pyarrow.parquet
import pytest

from api import resources
from api.exports.request import check_format
from api.http.problems import Problem
from db.exports.columnar import ROW_GROUP_BYTES, ColumnarWriter
from db.resources import RESOURCES
from tests.support import ROOT
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.exports import STREAM, downloaded, many_articles

ROWS = """
    INSERT INTO users (id, email, name, role, active, created_at, updated_at)
    VALUES ('00000000-0000-4000-8000-000000000001', 'a@example.com', 'Ann', 'admin', true,
        '0001-01-01 00:00:00+00', '2026-01-31 14:00:00.123456+02');
    INSERT INTO articles (id, slug, title, body, author_id, tags, status, published_at)
    VALUES
        ('00000000-0000-4000-8000-000000000011', 'a', E'two\\nlines', '', '00000000-0000-4000-8000-000000000001',
         NULL, 'draft', NULL),
        ('00000000-0000-4000-8000-000000000012', 'b', 'B', 'b', '00000000-0000-4000-8000-000000000001',
         ARRAY['x', 'y, "z"', ''], 'published', '2026-01-31 12:00:00.5+00')
"""
COLUMNS = [("text", "text", False)]


def table(format: str, content: bytes) -> pyarrow.Table:
    if format == "parquet":
        return pyarrow.parquet.read_table(io.BytesIO(content))
    return pyarrow.ipc.open_stream(content).read_all()


@pytest.mark.parametrize("format", ["parquet", "arrow"])
async def test_types(service, conn, format):
    """As a stream and as a file: times with their microseconds in UTC, lists, nulls; required fields are not nullable."""
    await conn.execute(ROWS)
    url = (await service(worker_pool_size=1)).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        stream = await client.get(STREAM.format("users"), params={"format": format})
        assert (
            stream.headers["content-type"]
            == f"application/vnd.apache.{'parquet' if format == 'parquet' else 'arrow.stream'}"
        )
        assert re.search(
            rf"users-\w+\.{'parquet' if format == 'parquet' else 'arrows'}", stream.headers["content-disposition"]
        )
        users = table(format, stream.content)
        assert users.to_pylist() == [
            {
                "id": "00000000-0000-4000-8000-000000000001",
                "email": "a@example.com",
                "name": "Ann",
                "role": "admin",
                "active": True,
                "created_at": datetime(1, 1, 1, tzinfo=UTC),
                "updated_at": datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC),
            }
        ]
        assert users.schema.field("created_at").type == pyarrow.timestamp("us", tz="UTC")
        assert [users.schema.field(name).nullable for name in ("id", "email", "active")] == [True, False, False]

        file = await downloaded(
            client, resource="articles", format=format, fields=["tags", "slug", "published_at", "body"]
        )
        assert file.headers["content-type"] == stream.headers["content-type"]
        assert table(format, file.content).to_pydict() == {
            "tags": [None, ["x", 'y, "z"', ""]],
            "slug": ["a", "b"],
            "published_at": [None, datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)],
            "body": ["", "b"],
        }
        empty = table(format, (await client.get(STREAM.format("comments"), params={"format": format})).content)
        assert (empty.num_rows, empty.column_names) == (0, ["id", "article_id", "user_id", "body", "created_at"])


@pytest.mark.parametrize("format", ["parquet", "arrow"])
async def test_many_blocks(service, conn, format):
    """An export of many blocks is complete, and in the order of the ids."""
    await many_articles(conn, 100)
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        stream = await client.get(STREAM.format("articles"), params={"format": format})
    articles = table(format, stream.content)
    assert (articles.num_rows, {len(body) for body in articles["body"].to_pylist()}) == (100, {20_000})
    assert articles["id"].to_pylist() == sorted(articles["id"].to_pylist())


def test_row_groups():
    """Records are in memory until a row group is full; then its bytes are given out."""
    text = "x" * (ROW_GROUP_BYTES // 8)
    writer = ColumnarWriter("parquet", COLUMNS)
    sizes = [len(writer.add([[f"{number}{text}"]])) for number in range(20)]
    assert [number for number, size in enumerate(sizes) if size > 100] == [7, 15]
    writer.close()


async def test_duckdb_reads_them(service, conn, tmp_path):
    """The line of README.md, on a file of each of its formats."""
    await conn.execute(ROWS)
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        for format in ("parquet", "csv"):
            stream = await client.get(STREAM.format("users"), params={"format": format})
            (tmp_path / f"users.{format}").write_bytes(stream.content)
    queries = re.findall(r"duckdb -c \"(.*?)\"", (ROOT / "README.md").read_text())
    assert len(queries) == 2
    for query in queries:
        assert duckdb.sql(query.replace("'users.", f"'{tmp_path}/users.")).fetchall() == [("admin", 1)]
    for file in (duckdb.read_parquet(f"{tmp_path}/users.parquet"), duckdb.read_csv(f"{tmp_path}/users.csv")):
        result = file.project("typeof(active), typeof(updated_at), epoch_us(updated_at)")
        microseconds = round(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()) * 1_000_000 + 123_456
        assert result.fetchall() == [("BOOLEAN", "TIMESTAMP WITH TIME ZONE", microseconds)]


def test_without_pyarrow(monkeypatch):
    """A format whose library is not installed is refused with the name of the extra, and is not among those of a resource."""
    check_format("parquet", csv_safe=False, bom=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert resources.view(RESOURCES["users"]).export_formats == ["csv", "ndjson", "json", "xlsx"]
    with pytest.raises(Problem, match="extra parquet") as refused:
        check_format("parquet", csv_safe=False, bom=False)
    assert [(fault.field, fault.code) for fault in refused.value.errors] == [("format", "invalid_value")]
