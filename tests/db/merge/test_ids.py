"""Ids of records that came without one: UUIDs of version 7, unique and in the order of their generation."""

import subprocess
import sys
import time
from uuid import RFC_4122, UUID

import pytest

from db.merge import ConflictLevel
from db.resources import RESOURCES
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.factories import article, claim, comment, perform, queued, rows, stored_article, stored_user, users
from workers.imports import ConflictMemory

HOUR_MS = 3_600_000

# Forks as the pool of workers does, after the parent has generated an id; prints the ids of all processes.
FORKING = """
import os
from db.resources import RESOURCES

new_id = RESOURCES["users"].new_id
print(new_id(), flush=True)
for _ in range(4):
    if not os.fork():
        print(*(new_id() for _ in range(500)), sep="\\n", flush=True)
        os._exit(0)
    os.wait()
print(*(new_id() for _ in range(500)), sep="\\n")
"""


def check_version_7(ids: list[UUID]) -> None:
    """Version, variant and time of each, and that they differ."""
    now = time.time() * 1000
    assert {(id.version, id.variant) for id in ids} == {(7, RFC_4122)}
    assert all(abs((id.int >> 80) - now) < HOUR_MS for id in ids)
    assert len(set(ids)) == len(ids)


def uuids(found: list[tuple[UUID | str]]) -> list[UUID]:
    return [id if isinstance(id, UUID) else UUID(id.removeprefix("cm_")) for (id,) in found]


@pytest.mark.parametrize("level", ["none", "many"])
async def test_a_record_without_an_id_gets_one_of_version_7(conn, level: ConflictLevel):
    """With COPY, where the worker generates it, and through the staging table, where the server does."""
    author = await stored_user(conn)
    about = await stored_article(conn, author)
    records = {
        "users": users(50),
        "articles": [article(author, number) for number in range(1, 51)],
        "comments": [comment(about, author) for _ in range(50)],
    }
    for resource in RESOURCES:
        memory = ConflictMemory()
        id = await queued(conn, records[resource], resource=resource)
        memory.note(id, level)
        await perform(conn, await claim(conn), memory=memory)
        found = await rows(conn, f"SELECT id FROM {resource} WHERE import_id = %(id)s", id=id)  # noqa: S608
        assert len(found) == 50
        check_version_7(uuids(found))


async def test_the_ids_of_later_records_are_higher(conn):
    """Those of an import that a worker stores by COPY lie behind those of its earlier ones, in the order of the keys."""
    stored: list[UUID] = []
    for first in (1001, 1501):
        await queued(conn, users(500, first=first))
        await perform(conn, await claim(conn))
    for (id,) in await rows(conn, "SELECT id FROM users ORDER BY email"):
        stored.append(id)
    assert len(stored) == 1000
    assert stored == sorted(stored)


@pytest.mark.parametrize("resource", RESOURCES.values(), ids=RESOURCES)
def test_the_ids_of_a_process_ascend(resource):
    """Also those of the same millisecond: there are thousands of them."""
    ids = [str(resource.new_id()) for _ in range(20_000)]
    assert ids == sorted(ids)
    check_version_7(uuids([(id,) for id in ids]))


def test_forked_processes_share_no_random_bits():
    """The random generator of a worker begins with bits of its own, not with those that it has inherited."""
    forked = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, check=True, timeout=PATIENCE_SECONDS)
    ids = [UUID(line) for line in forked.stdout.decode().split()]
    assert len(ids) == 1 + 5 * 500
    assert len({id.int & (1 << 62) - 1 for id in ids}) == len(ids)


async def test_the_server_generates_ids_of_version_7(conn):
    """`uuid_v7`, and the default of the tables, for rows that are inserted by SQL."""
    check_version_7(uuids(await rows(conn, "SELECT uuid_v7() FROM generate_series(1, 1000)")))
    inserted = await rows(
        conn,
        """
        WITH author AS (
            INSERT INTO users (email, name, role, active) VALUES ('a@example.org', 'A', 'author', true) RETURNING id
        ), article AS (
            INSERT INTO articles (slug, title, body, author_id, status)
            SELECT 'a', 'A', 'text', id, 'draft' FROM author
            RETURNING id, author_id
        ), comment AS (
            INSERT INTO comments (article_id, user_id, body) SELECT id, author_id, 'text' FROM article RETURNING id
        )
        SELECT id::text FROM author UNION ALL SELECT id::text FROM article UNION ALL SELECT id FROM comment
        """,
    )
    check_version_7(uuids(inserted))
