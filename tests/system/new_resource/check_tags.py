"""What a new resource can do: run by test_new_resource in a copy of the project that has it."""

import json

import pytest
from psycopg import sql

from tests.support import api_client
from tests.support.exports import EXPORTS, STREAM

ARTICLE = "5864905b-ec8c-4fa6-8ba7-545d13f29b4e"
MISSING = "00000000-0000-4000-8000-000000000000"
FILE = b"""\
name,colour,article_id
one,red,%(article)s
two,green,
three,purple,
four,blue,%(missing)s
one,blue,
""" % {b"article": ARTICLE.encode(), b"missing": MISSING.encode()}


@pytest.fixture
async def api(service):
    started = await service(worker_pool_size=1)
    async with api_client.connected(started) as connected:
        await connected.conn.execute(
            sql.SQL(
                """
                WITH author AS (
                    INSERT INTO users (email, name, role, active) VALUES ('a@b.org', 'A', 'author', true) RETURNING id
                )
                INSERT INTO articles (id, slug, title, body, author_id, status)
                SELECT {}, 'a', 'A', 'b', id, 'draft'
                FROM author
                """
            ).format(ARTICLE)
        )
        yield connected


async def test_a_new_resource_works_everywhere(api):
    """Tags are imported, checked, settled, upserted, exported, filtered, audited, measured and described."""
    posted = await api.post(FILE, type="text/csv", params={"resource": "tags"})
    job = await api.finished(posted)
    assert (job["counts"]["created"], job["counts"]["failed"]) == (2, 3)
    assert [(error["line"], error["field"], error["code"]) for error in job["errors"]] == [
        (4, "colour", "invalid_enum"),
        (5, "article_id", "foreign_key_not_found"),
        (6, "name", "duplicate_in_file"),
    ]

    upsert = b'{"name":"two","colour":"blue"}\n{"name":"five","colour":"red"}\n'
    posted = await api.post(upsert, type="application/x-ndjson", params={"resource": "tags", "mode": "upsert"})
    job = await api.finished(posted)
    assert (job["counts"]["created"], job["counts"]["updated"]) == (1, 1)

    streamed = await api.client.get(STREAM.format("tags"), params={"format": "ndjson", "colour": "blue"})
    assert [json.loads(line)["name"] for line in streamed.text.splitlines()] == ["two"]
    ordered = await api.client.post(EXPORTS, json={"resource": "tags", "format": "ndjson"})
    assert ordered.status_code == 202

    document = (await api.client.get("/schema/openapi.json")).text
    assert '"tags"' in document
    assert "article_id" in document
    metrics = (await api.client.get("/metrics")).text
    assert 'bulk_records_total{kind="import",resource="tags",result="created"} 3.0' in metrics
