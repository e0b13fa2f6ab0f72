"""The query plans of filtered exports."""

import msgspec
import pytest
from psycopg.sql import SQL

from db.exports import copy_out
from db.exports.filters import select
from db.resources import RESOURCES


def id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


INDEXED = [
    ("users", {}, "users_pkey"),
    ("users", {"id": id(1)}, "users_pkey"),
    ("users", {"email": "USER7@example.com"}, "users_email_key"),
    ("users", {"created_after": "2026-05-01T00:00:00Z"}, "users_created"),
    ("users", {"created_after": "2026-02-01T00:00:00Z", "created_before": "2026-02-02T00:00:00Z"}, "users_created"),
    ("users", {"updated_after": "2026-05-01T00:00:00Z"}, "users_updated"),
    ("articles", {"slug": "article-7"}, "articles_slug_key"),
    ("articles", {"author_id": id(7)}, "articles_author_id"),
    ("articles", {"tag": "tag-7"}, "articles_tags"),
    ("articles", {"published_after": "2026-05-01T00:00:00Z"}, "articles_published"),
    ("articles", {"published_before": "2026-01-02T00:00:00Z"}, "articles_published"),
    ("comments", {"article_id": id(7)}, "comments_article_id"),
    ("comments", {"user_id": id(7)}, "comments_user_id"),
    ("comments", {"created_after": "2026-05-01T00:00:00Z"}, "comments_created"),
]


@pytest.fixture
async def many(conn):
    """100,000 records of each resource, which came over the first four months of 2026; ten to a parent."""
    await conn.execute(
        """
        INSERT INTO users (id, email, name, role, active, created_at, updated_at)
        SELECT format('00000000-0000-4000-8000-%s', lpad(n::text, 12, '0'))::uuid, format('user%s@example.com', n), 'Name',
            (ARRAY['admin', 'author', 'reader'])[1 + n % 3], n % 2 = 0,
            timestamptz '2026-01-01Z' + n * interval '105 s',
            timestamptz '2026-01-01Z' + (n::bigint * 7919 % 100000) * interval '105 s'
        FROM generate_series(1, 100000) AS n;
        INSERT INTO articles (id, slug, title, body, author_id, tags, status, published_at)
        SELECT id, format('article-%s', n), 'Title', 'body',
            format('00000000-0000-4000-8000-%s', lpad((1 + n / 10)::text, 12, '0'))::uuid,
            ARRAY[format('tag-%s', n / 10)], CASE n % 2 WHEN 0 THEN 'published' ELSE 'draft' END,
            CASE n % 2 WHEN 0 THEN updated_at END
        FROM (SELECT id, updated_at, row_number() OVER (ORDER BY id) - 1 AS n FROM users) AS numbered;
        INSERT INTO comments (id, article_id, user_id, body, created_at)
        SELECT 'cm_' || id, author_id, author_id, 'body',
            timestamptz '2026-01-01Z' + row_number() OVER (ORDER BY id) * interval '105 s'
        FROM articles
        ORDER BY id;
        """
    )
    for resource in RESOURCES:
        await conn.execute(SQL("VACUUM ANALYZE {}").format(SQL(resource)))


async def test_no_selective_filter_scans_a_table(conn, many):
    """Each filter that chooses few of many records finds them by an index.

    Filters of few values (role, active, status) choose so much of a table that an index would not help.
    """
    for resource, words, index in INDEXED:
        plan = await planned(conn, resource, select(RESOURCES[resource], filters=words))
        assert index in plan, plan
        assert "Seq Scan" not in plan, plan


@pytest.mark.parametrize("resource", RESOURCES)
async def test_a_whole_table_is_not_sorted(conn, many, resource):
    """From the beginning or from any id on, records come in the order of the index: the first does not wait for the last."""
    [(middle,)] = await (
        await conn.execute(SQL("SELECT id::text FROM {} ORDER BY id OFFSET 50000 LIMIT 1").format(SQL(resource)))
    ).fetchall()
    for words in ({}, {"limit": 10}, {"after": middle}, {"after": middle, "limit": 10}):
        plan = await planned(conn, resource, select(RESOURCES[resource], filters={}, **words))
        assert f"{resource}_pkey" in plan, plan
        assert "Sort" not in plan, plan


async def planned(conn, resource, selection):
    """The plan of an export, with the settings that it makes for itself."""
    query, values = copy_out.query(RESOURCES[resource], "csv", selection)
    async with conn.transaction():
        async for _ in copy_out.blocks(conn, RESOURCES[resource], "csv", msgspec.structs.replace(selection, limit=1)):
            pass
        cursor = await conn.execute(SQL("EXPLAIN {}").format(query), values)
        return "\n".join([line async for (line,) in cursor])
