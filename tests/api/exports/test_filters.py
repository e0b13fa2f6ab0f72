"""Filters, fields, limit and after of streams and files."""

import asyncio
import json

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from db.exports import copy_out
from db.exports.filters import FILTERS_MAX, InvalidSelection, filters, select
from db.resources import RESOURCES
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.exports import EXPORTS, STREAM, exported

EXAMPLES = 100


def id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


# the last part of each id is the record's number in the tests below
RECORDS = """
    INSERT INTO users (id, email, name, role, active, created_at, updated_at)
    VALUES
        ('00000000-0000-4000-8000-000000000001', 'Ann@Example.com', 'A', 'admin', true, '2026-01-01Z', '2026-02-01Z'),
        ('00000000-0000-4000-8000-000000000002', 'bob@example.com', 'B', 'author', false, '2026-01-02Z', '2026-02-02Z'),
        ('00000000-0000-4000-8000-000000000003', 'cat@example.com', 'C', 'reader', true, '2026-01-03Z', '2026-02-03Z');
    INSERT INTO articles (id, slug, title, body, author_id, tags, status, published_at)
    VALUES
        ('00000000-0000-4000-8000-000000000011', 'one', 'T', 'b', '00000000-0000-4000-8000-000000000001',
         '{x,"null"}', 'published', '2026-03-01Z'),
        ('00000000-0000-4000-8000-000000000012', 'two', 'T', 'b', '00000000-0000-4000-8000-000000000002',
         '{y,"a,b",""}', 'published', '2026-03-02Z'),
        ('00000000-0000-4000-8000-000000000013', 'three', 'T', 'b', '00000000-0000-4000-8000-000000000002',
         NULL, 'draft', NULL);
    INSERT INTO comments (id, article_id, user_id, body, created_at)
    VALUES
        ('cm_00000000-0000-4000-8000-000000000021', '00000000-0000-4000-8000-000000000011',
         '00000000-0000-4000-8000-000000000001', 'b', '2026-04-01Z'),
        ('cm_00000000-0000-4000-8000-000000000022', '00000000-0000-4000-8000-000000000012',
         '00000000-0000-4000-8000-000000000002', 'b', '2026-04-02Z')
"""

CHOSEN = [
    ("users", {}, [1, 2, 3]),
    ("users", {"id": id(2)}, [2]),
    ("users", {"id": f"{id(3)},{id(1)},{id(9)}"}, [1, 3]),
    ("users", {"email": "ann@EXAMPLE.com"}, [1]),
    ("users", {"email": "nobody@example.com"}, []),
    ("users", {"role": "admin"}, [1]),
    ("users", {"role": "admin,reader"}, [1, 3]),
    ("users", {"role": ["author"]}, [2]),
    ("users", {"active": "true"}, [1, 3]),
    ("users", {"active": False}, [2]),
    ("users", {"active": "true,false"}, [1, 2, 3]),
    ("users", {"created_after": "2026-01-02T00:00:00Z"}, [2, 3]),
    ("users", {"created_before": "2026-01-02T01:00:00+01:00"}, [1]),
    ("users", {"updated_after": "2026-02-02T00:00:00.000001Z"}, [3]),
    ("users", {"updated_before": "0001-01-02T00:00:00+23:59"}, []),
    ("users", {"created_after": "2026-01-02T23:59:00+23:59"}, [2, 3]),
    ("users", {"created_before": "2026-01-01T08:00:00-16:00"}, [1]),
    ("users", {"created_after": "2026-01-02T00:00:00Z", "created_before": "2026-01-03T00:00:00Z"}, [2]),
    ("users", {"role": "admin,author", "active": "false"}, [2]),
    ("users", {"role": "admin", "active": "false"}, []),
    ("articles", {"id": id(11)}, [11]),
    ("articles", {"slug": "two,three,four"}, [12, 13]),
    ("articles", {"author_id": id(2)}, [12, 13]),
    ("articles", {"status": "draft"}, [13]),
    ("articles", {"tag": "x,y"}, [11, 12]),
    ("articles", {"tag": "null"}, [11]),
    ("articles", {"tag": "a"}, []),
    ("articles", {"tag": ["a,b"]}, [12]),
    ("articles", {"tag": [""]}, [12]),
    ("articles", {"published_after": "2026-03-02T00:00:00Z"}, [12]),
    ("articles", {"published_before": "2026-03-02T00:00:00Z"}, [11]),
    ("comments", {"id": f"cm_{id(21)}"}, [21]),
    ("comments", {"id": id(21)}, []),
    ("comments", {"article_id": id(11)}, [21]),
    ("comments", {"user_id": f"{id(2)},{id(3)}"}, [22]),
    ("comments", {"created_after": "2026-04-02T00:00:00Z"}, [22]),
    ("comments", {"created_before": "2026-04-02T00:00:00Z"}, [21]),
]

REFUSED = [
    ("users", {"role": "editor"}, "role must be one of: admin, author, reader"),
    ("users", {"role": ""}, "role must not have an empty value"),
    ("users", {"role": "admin,"}, "role must not have an empty value"),
    ("users", {"role": []}, "role must not have an empty value"),
    ("users", {"role": None}, "role must be one of: admin, author, reader"),
    ("users", {"role": {"admin": True}}, "role must be one of: admin, author, reader"),
    ("users", {"active": "yes"}, "active must be true or false"),
    ("users", {"active": 1}, "active must be true or false"),
    ("users", {"id": "1"}, "id must be a UUID"),
    ("users", {"id": [id(1)] * 10_001}, "id must not have more than 10000 values"),
    ("users", {"email": "ann"}, "email must be a valid e-mail address"),
    (
        "users",
        {"created_after": "2026-01-01"},
        "created_after must be a time with its zone, as in 2026-01-31T12:00:00Z",
    ),
    ("users", {"created_after": "2026-01-01T00:00:00"}, "created_after must be a time with its zone"),
    ("users", {"created_after": ""}, "created_after must be a time with its zone"),
    (
        "users",
        {"created_after": "0001-01-01T00:00:00+23:59"},
        "created_after must be a time that is within the years 1 to 9999",
    ),
    (
        "users",
        {"created_after": "9999-12-31T23:59:59-00:01"},
        "created_after must be a time that is within the years 1 to 9999",
    ),
    ("users", {"created_after": 1767225600}, "created_after must be a time with its zone"),
    (
        "users",
        {"status": "draft"},
        "status is not a filter of users; the filters are id, email, role, active, created_after,",
    ),
    ("users", {"name": "A"}, "name is not a filter of users"),
    ("articles", {"slug": "No Slug"}, "slug must be a valid kebab-case slug"),
    ("articles", {"tag": ["\0"]}, "tag must be text without the character U+0000"),
    ("articles", {"created_after": "2026-01-01T00:00:00Z"}, "created_after is not a filter of articles"),
    ("comments", {"id": "21"}, "id must be a valid comment id"),
    ("comments", {"updated_after": "2026-01-01T00:00:00Z"}, "updated_after is not a filter of comments"),
]


def numbers(text: str) -> list[int]:
    return [int(json.loads(line)["id"][-12:]) for line in text.splitlines()]


@pytest.mark.parametrize("resource", RESOURCES)
def test_every_filter_is_tried_here(resource):
    """The cases above cover every filter of every resource."""
    assert {name for of, words, _ in CHOSEN if of == resource for name in words} == set(filters(RESOURCES[resource]))


async def test_filters_choose(conn):
    """Each filter, and several together, select exactly these records, in the order of the ids; the count is the same."""
    await conn.execute(RECORDS)
    for resource, words, chosen in CHOSEN:
        text, records = await exported(conn, resource, "ndjson", filters=words)
        assert (words, numbers(text), records) == (words, chosen, len(chosen))
        assert await copy_out.count(conn, RESOURCES[resource], select(RESOURCES[resource], filters=words)) == records


def test_what_cannot_be_read_is_refused():
    """An unknown filter, or a value that no record can have, is an error that names it."""
    for resource, words, message in REFUSED:
        with pytest.raises(InvalidSelection) as refused:
            select(RESOURCES[resource], filters=words)
        assert str(refused.value).startswith(message)
    with pytest.raises(InvalidSelection) as refused:
        select(RESOURCES["users"], filters={"role": "", "nothing": "x"}, fields=["id", "id", "tags"], after="x")
    names = [name for name, _ in refused.value.parameters]
    assert names == ["role", "nothing", "fields", "fields", "after"]


def test_long_lists_are_refused_in_one_message():
    """The number of messages is bounded by the resource, not by the number of names that a client sends."""
    many = [f"field-{number}" for number in range(60_000)]
    with pytest.raises(InvalidSelection) as refused:
        select(RESOURCES["users"], filters=dict.fromkeys(many, "x"), fields=many)
    fields = [message for name, message in refused.value.parameters if name == "fields"]
    assert fields == [f"must not name more than {len(RESOURCES['users'].columns)} fields"]
    assert len(refused.value.parameters) <= FILTERS_MAX + 1


def test_hostile_texts_are_values(database_url):
    """A filter's value with quotes, backslashes or placeholders selects exactly this text."""
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)

    async def find(conn, tag):
        async with conn.transaction(force_rollback=True):
            await conn.execute(RECORDS)
            await conn.execute(
                "UPDATE articles SET tags = ARRAY[%(tag)s] WHERE id = %(id)s", {"tag": tag, "id": id(13)}
            )
            text, _ = await exported(conn, "articles", "json", filters={"tag": [tag]})
            found = {article["id"]: article["tags"] for article in json.loads(text)}
            assert found[id(13)] == [tag]
            assert all(tag in tags for tags in found.values())

    with asyncio.Runner() as runner:
        conn = runner.run(AsyncConnection.connect(database_url, autocommit=True))

        @settings(max_examples=EXAMPLES, deadline=None, database=None)
        @given(text)
        @example("'); DROP TABLE users; --")
        @example("\\'")
        @example("%(limit)s %s %%")
        @example('{"a",NULL}')
        @example("NULL")
        @example("x")
        def holds(tag):
            runner.run(find(conn, tag))

        holds()
        runner.run(conn.close())


async def test_fields(conn):
    """Only these, in this order, in each format."""
    await conn.execute(RECORDS)
    fields = ["email", "id"]
    csv, _ = await exported(conn, "users", "csv", fields=fields, limit=1)
    assert csv == f"email,id\nAnn@Example.com,{id(1)}\n"
    ndjson, _ = await exported(conn, "users", "ndjson", fields=fields, limit=1)
    assert ndjson == f'{{"email":"Ann@Example.com","id":"{id(1)}"}}\n'
    json, _ = await exported(conn, "users", "json", fields=["active"])
    assert json == '[{"active":true},\n{"active":false},\n{"active":true}]'


@pytest.mark.parametrize(("resource", "prefix"), [("users", ""), ("articles", ""), ("comments", "cm_")])
async def test_a_walk_from_id_to_id(conn, resource, prefix):
    """Streams of `limit` records, each `after` the last id of the one before, have each record once, in order."""
    await conn.execute(RECORDS)
    whole, _ = await exported(conn, resource, "ndjson")
    walked, after = "", None
    while page := (await exported(conn, resource, "ndjson", limit=1, after=after))[0]:
        assert page.count("\n") == 1
        walked += page
        after = json.loads(page)["id"]
        assert after.startswith(prefix)
    assert walked == whole


async def test_streams_by_http(service, conn):
    """The query selects the records; without a match the export is empty; one response names all errors."""
    await conn.execute(RECORDS)
    url = (await service(run=["api"])).url
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:

        async def get(resource, query):
            return await client.get(STREAM.format(resource) + "?" + query)

        assert numbers((await get("users", "role=admin,reader&active=true")).text) == [1, 3]
        assert numbers((await get("articles", "tag=null")).text) == [11]
        assert numbers((await get("users", f"after={id(1)}&limit=1")).text) == [2]
        assert (await get("users", "fields=name&role=author&format=csv")).text == "name\nB\n"
        nobody = "email=nobody@example.com&format="
        empty = [(await get("users", nobody + format)).text for format in ("csv", "ndjson", "json")]
        assert empty == ["id,email,name,role,active,created_at,updated_at\n", "", "[]"]

        async def wrong(resource, query):
            response = await get(resource, query)
            assert response.status_code == 400, response.text
            return [error["field"] for error in response.json()["errors"]]

        for name in ("limit=0", "limit=x", "limit=", "limit=9223372036854775808", "after=x", "after=", "csv_safe=x"):
            assert await wrong("users", name) == [name.partition("=")[0]]
        for name in ("fields=", "fields=id,,name", "fields=id,id", "fields=import_id", "fields=*"):
            assert await wrong("users", name) == ["fields"]
        assert await wrong("users", "role=") == ["role"]
        assert await wrong("users", "role=admin&role=reader") == ["role"]
        assert await wrong("users", "tag=x") == ["tag"]
        assert await wrong("articles", "tag=%00") == ["tag"]
        assert await wrong("users", "created_after=2026-01-01T00:00:00+02:00") == ["created_after"]
        assert await wrong("users", "role=x&active=y&fields=z&after=1") == ["role", "active", "fields", "after"]
        assert await wrong("users", "csv_safe=true") == ["csv_safe"]
        # bytes that are not UTF-8 cannot be a value, but have no other effect
        assert (await get("articles", "tag=%ff")).text == ""


async def test_files_by_http(service, conn):
    """A file has the bytes of the stream with the same filters and fields; its job has them as they were sent."""
    await conn.execute(RECORDS)
    url = (await service(worker_pool_size=1)).url
    order = {"resource": "users", "format": "csv", "filters": {"role": ["admin", "author"]}, "fields": ["id", "role"]}
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        ordered = await client.post(EXPORTS, json=order, headers={"Idempotency-Key": "k"})
        assert ordered.status_code == 202, ordered.text

        async def completed():
            job = (await client.get(ordered.headers["location"])).json()
            return job if job["status"] == "completed" else None

        job = await eventually(completed)
        file = await client.get(job["download_url"], follow_redirects=True)
        stream = await client.get(STREAM.format("users") + "?format=csv&role=admin,author&fields=id,role")
        assert file.content == stream.content == f"id,role\n{id(1)},admin\n{id(2)},author\n".encode()
        assert {name: job[name] for name in order} == order
        assert job["total_records"] == job["file"]["records"] == 2

        async def again(**changes):
            return await client.post(EXPORTS, json=order | changes, headers={"Idempotency-Key": "k"})

        assert (await again()).status_code == 200
        for changes in (
            {"filters": {"role": "admin"}},
            {"filters": {}},
            {"fields": ["role", "id"]},
            {"csv_safe": True},
        ):
            assert (await again(**changes)).status_code == 422

        async def wrong(**order):
            response = await client.post(EXPORTS, json={"resource": "users"} | order)
            assert response.status_code == 400, response.text
            return [error["field"] for error in response.json()["errors"]]

        assert await wrong(filters={"role": "", "tag": "x"}) == ["filters.role", "filters.tag"]
        assert await wrong(filters={"created_after": None}) == ["filters.created_after"]
        assert await wrong(fields=[]) == ["fields"]
        assert await wrong(fields=["tags"]) == ["fields"]
        assert await wrong(csv_safe=True) == ["csv_safe"]
        assert await wrong(limit=1) == ["limit"]
