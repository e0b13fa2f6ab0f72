"""Storing a chunk: stored rows, errors, and the effects of concurrent transactions."""

import asyncio
from typing import get_args
from uuid import uuid4

import pytest

from db.imports import completion
from db.merge import ConflictLevel
from tests.support.factories import (
    article,
    blocked,
    chunk,
    claim,
    comment,
    ended,
    errors,
    perform,
    queued,
    remembering,
    rows,
    run,
    stored_article,
    stored_user,
    user,
    users,
)

# see tests/README.md
THROUGH_PGBOUNCER = True

# the conflict levels that a worker may remember of an import, each with another strategy for its next chunk
EXPECTED = get_args(ConflictLevel)


async def finish(conn, id):
    """Makes the import final and audits it. All its chunks must be done."""
    assert await completion.finish(conn, id, endpoints=()) != []
    return await ended(conn, id)


# ── nothing in the way ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("expected", EXPECTED)
async def test_valid_records_are_stored_as_sent(conn, expected):
    """With and without staging every field is stored, and fields that were not sent are filled in."""
    author, first = await stored_user(conn), uuid4()
    texts = {"title": 'a "b", \\N ü\n☃', "tags": ["x", 'y,"', ""]}
    times = {"status": "published", "published_at": "2026-01-02T03:04:05.678901+01:00"}
    id = await queued(
        conn, [article(author, 1, id=str(first), **texts, **times), article(author, 2)], resource="articles"
    )
    memory = remembering(expected, id)
    await perform(conn, await claim(conn), memory=memory)
    assert (await finish(conn, id)).created == 2
    [one, two] = await rows(
        conn,
        """
        SELECT id, slug, title, tags, status, published_at::text, import_record, import_action
        FROM articles
        ORDER BY slug
        """,
    )
    published = "2026-01-02 02:04:05.678901+00"
    assert one == (first, "article-1", texts["title"], texts["tags"], "published", published, 1, "created")
    assert two == (two[0], "article-2", "Article 2", None, "draft", None, 2, "created")


@pytest.mark.parametrize("expected", EXPECTED)
async def test_the_service_names_and_dates_what_came_without(conn, expected):
    """A comment without an id gets one with cm_; an id that was sent is kept unchanged; both get a time."""
    author = await stored_user(conn)
    about, sent = await stored_article(conn, author), f"cm_{str(uuid4()).upper()}"
    id = await queued(conn, [comment(about, author), comment(about, author, id=sent)], resource="comments")
    await perform(conn, await claim(conn), memory=remembering(expected, id))
    await finish(conn, id)
    found = await rows(conn, "SELECT id, created_at > now() - interval '1 hour' FROM comments ORDER BY import_record")
    assert found[0][0].startswith("cm_")
    assert found[1] == (sent, True)
    assert found[0][1] is True


# ── rows from outside ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stored_row_refuses_by_id_and_by_key(conn):
    """A record with the id, the e-mail address in any case, or both of stored rows gets an error for each."""
    one, two = await stored_user(conn, 1), await stored_user(conn, 2)
    id = await queued(
        conn,
        [
            user(3),
            user(4, id=str(one)),
            user(5, email="USER1@example.COM"),
            user(6, id=str(two), email="User1@Example.com"),
            user(2, id=str(two)),
        ],
    )
    job = await run(conn, id)
    assert (job.created, job.failed, job.errors) == (1, 4, 6)
    assert await errors(conn, id) == [
        (2, "id", "already_exists"),
        (3, "email", "already_exists"),
        (4, "id", "already_exists"),
        (4, "email", "already_exists"),
        (5, "id", "already_exists"),
        (5, "email", "already_exists"),
    ]
    found = await rows(conn, "SELECT record_key, value FROM import_errors WHERE record = 3")
    assert found == [("USER1@example.COM", "USER1@example.COM")]


async def test_rows_of_an_earlier_import_are_stored_rows(conn):
    """A repeated import of the same file is refused completely, and the stored rows do not change."""
    await run(conn, await queued(conn, users(3)))
    again = await run(conn, await queued(conn, [user(n, name="again") for n in (1, 2, 3)], sizes=[2, 1]))
    assert (again.outcome, again.failed) == ("rejected", 3)
    assert await rows(conn, "SELECT FROM users WHERE name = 'again'") == []


async def test_articles_have_slugs_and_comments_only_ids(conn):
    """An article's key is its slug; of two comments only the id can be the same."""
    author = await stored_user(conn)
    about = await stored_article(conn, author, 1)
    id = await queued(conn, [article(author, 1), article(author, 2, id=str(about))], resource="articles")
    await run(conn, id)
    assert await errors(conn, id) == [(1, "slug", "already_exists"), (2, "id", "already_exists")]

    name = str(uuid4())
    await run(conn, await queued(conn, [comment(about, author, id=name)], resource="comments"))
    id = await queued(conn, [comment(about, author, id=name), comment(about, author)], resource="comments")
    assert (await run(conn, id)).created == 1
    assert await errors(conn, id) == [(1, "id", "already_exists")]


@pytest.mark.parametrize("undone", [False, True])
async def test_a_concurrent_row_of_another_client_is_a_conflict(conn, other, undone):
    """The merge waits for a concurrent row with the same key: if it is committed the record is refused, otherwise stored."""
    id = await queued(conn, users(2))
    claimed = await claim(conn)
    async with other.transaction(force_rollback=undone):
        await stored_user(other, 1)
        merging = asyncio.create_task(perform(conn, claimed))
        await blocked(conn, by=other)
    await merging
    assert (await finish(conn, id)).created == (2 if undone else 1)
    assert await errors(conn, id) == ([] if undone else [(1, "email", "already_exists")])


# ── parents ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("expected", EXPECTED)
async def test_each_missing_parent_is_reported(conn, expected):
    """A record with missing parents gets an error for each field; the other records are stored."""
    author = await stored_user(conn)
    about, nobody = await stored_article(conn, author), uuid4()
    id = await queued(
        conn,
        [comment(about, author), comment(nobody, author), comment(about, nobody), comment(nobody, nobody)],
        resource="comments",
    )
    await perform(conn, await claim(conn), memory=remembering(expected, id))
    assert (await finish(conn, id)).created == 1
    assert await errors(conn, id) == [
        (2, "article_id", "foreign_key_not_found"),
        (3, "user_id", "foreign_key_not_found"),
        (4, "article_id", "foreign_key_not_found"),
        (4, "user_id", "foreign_key_not_found"),
    ]
    found = await rows(conn, "SELECT value, message FROM import_errors WHERE record = 2")
    assert found == [(str(nobody), "no article has this id")]


async def test_missing_parents_of_a_refused_record_are_reported_too(conn):
    """A record with other errors also gets errors for its missing parents, but not for stored ones."""
    author, nobody = await stored_user(conn), uuid4()
    about = await stored_article(conn, author)
    id = await queued(conn, [comment(nobody, author, body=" "), comment(about, author, body=" ")], resource="comments")
    await run(conn, id)
    assert await errors(conn, id) == [
        (1, "body", "too_short"),
        (1, "article_id", "foreign_key_not_found"),
        (2, "body", "too_short"),
    ]


async def test_a_missing_parent_and_a_taken_key_are_both_reported(conn):
    """A record gets both the error of its missing parent and that of its taken key."""
    author = await stored_user(conn)
    await stored_article(conn, author, 1)
    id = await queued(conn, [article(uuid4(), 1)], resource="articles")
    assert (await run(conn, id)).errors == 2
    assert await errors(conn, id) == [(1, "author_id", "foreign_key_not_found"), (1, "slug", "already_exists")]


@pytest.mark.parametrize("expected", EXPECTED)
@pytest.mark.parametrize("undone", [False, True])
async def test_a_parent_that_is_deleted_meanwhile_is_missing(conn, other, expected, undone):
    """The merge waits for a concurrent deletion of the parent; then the record is refused or stored, and no chunk fails."""
    author = await stored_user(conn)
    id = await queued(conn, [article(author)], resource="articles")
    claimed = await claim(conn)
    async with other.transaction(force_rollback=undone):
        await other.execute("DELETE FROM users")
        merging = asyncio.create_task(perform(conn, claimed, memory=remembering(expected, id)))
        await blocked(conn, by=other)
    await merging
    job = await finish(conn, id)
    assert (job.created, job.failed) == ((1, 0) if undone else (0, 1))
    assert await errors(conn, id) == ([] if undone else [(1, "author_id", "foreign_key_not_found")])


async def test_a_parent_cannot_be_deleted_between_check_and_insert(conn, other):
    """Parents cannot be deleted between the look-up and the end of the merge."""
    author = await stored_user(conn)
    await stored_article(conn, author, 1)
    id = await queued(conn, [article(author, 1), article(author, 2)], resource="articles")
    claimed = await claim(conn)
    async with conn.transaction():
        await perform(conn, claimed)
        removing = asyncio.create_task(other.execute("DELETE FROM articles WHERE import_id IS NULL; DELETE FROM users"))
        await blocked(other, by=conn)
    with pytest.raises(Exception, match="foreign key"):
        await removing
    assert (await finish(conn, id)).created == 1


# ── two chunks of one file ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("expected", EXPECTED)
@pytest.mark.parametrize("undone", [False, True])
async def test_two_chunks_with_the_same_email(conn, other, expected, undone):
    """The second waits for the first: it defers its record if the first is committed, and stores it if it is rolled back.

    If few or some records are expected to conflict, it defers its record without waiting.
    """
    id = await queued(conn, [user(1), user(2), user(1, name="later"), user(3)], sizes=[2, 2])
    one, two = await claim(conn), await claim(conn)
    memory = remembering(expected, id)
    async with conn.transaction(force_rollback=undone):
        await perform(conn, one, memory=memory)
        merging = asyncio.create_task(perform(other, two, memory=memory))
        waits = expected not in ("few", "some")
        await (blocked(other, by=conn) if waits else merging)
    await merging
    row = await chunk(conn, id, 2)
    assert (row["created"], row["deferred"]) == ((2, 0) if waits and undone else (1, 1))
    if undone:
        await perform(conn, one)
    assert await completion.finish(conn, id, endpoints=()) == []
    assert (await run(conn, id)).created == 3
    assert await rows(conn, "SELECT name FROM users WHERE email = 'user1@example.com'") == [("User 1",)]
    assert await errors(conn, id) == [(3, "email", "duplicate_in_file")]


# ── what an operator has added ────────────────────────────────────────────────────────────────────────────────────────


async def operator_checks(conn) -> None:
    await conn.execute("ALTER TABLE users ADD CONSTRAINT no_bots CHECK (name <> 'bot')")


async def test_a_check_of_the_operator_refuses_only_its_records(conn):
    """Records that violate a constraint added by an operator are refused; the others are stored."""
    await operator_checks(conn)
    await stored_user(conn, 9)
    id = await queued(conn, [user(1), user(2, name="bot"), user(9), user(3), user(3, name="twin"), user(4, name="bot")])
    job = await run(conn, id)
    assert (job.created, job.failed) == (2, 4)
    assert await errors(conn, id) == [
        (2, None, "constraint_violation"),
        (3, "email", "already_exists"),
        (5, "email", "duplicate_in_file"),
        (6, None, "constraint_violation"),
    ]
    [(message,)] = await rows(conn, "SELECT message FROM import_errors WHERE record = 2")
    assert "no_bots" in message


# what is deferred, and then wins when the import is settled, depends on how the file is cut and on the order of the chunks
CUTS = pytest.mark.parametrize(("sizes", "order"), [([4], [0]), ([1] * 4, [0, 1, 2, 3]), ([1] * 4, [3, 2, 1, 0])])


@CUTS
async def test_a_check_of_the_operator_meets_duplicates(conn, sizes, order):
    """A winner among duplicates that violates a constraint added by an operator is refused, and the import continues."""
    await operator_checks(conn)
    records = [user(1, name="bot"), user(1), user(2), user(2, name="bot")]
    id = await queued(conn, records, sizes=sizes)
    job = await run(conn, id, order=order)
    assert job.status == "completed"
    assert (1, None, "constraint_violation") in await errors(conn, id)
    assert await rows(conn, "SELECT FROM users WHERE import_record = 3")
    assert not await rows(conn, "SELECT FROM users WHERE name = 'bot'")


@pytest.mark.parametrize("sizes", [[4], [1, 1, 1, 1], [2, 2]])
async def test_an_index_of_the_operator_ends_in_errors(conn, sizes):
    """Records that violate a unique index added by an operator are refused after a limited number of rounds."""
    await conn.execute("CREATE UNIQUE INDEX one_of_a_name ON users (name)")
    id = await queued(conn, [user(n, name=name) for n, name in enumerate(["a", "b", "a", "c"])], sizes=sizes)
    job = await run(conn, id)
    assert (job.status, job.created, job.failed) == ("completed", 3, 1)
    assert await errors(conn, id) == [(3, None, "constraint_violation")]


@CUTS
async def test_an_index_of_the_operator_meets_duplicates(conn, sizes, order):
    """A winner among duplicates that violates a unique index added by an operator is refused, and the import continues."""
    await conn.execute("CREATE UNIQUE INDEX one_of_a_name ON users (name)")
    await stored_user(conn, 9)
    records = [user(1, name="stored"), user(1, name="x"), user(2, name="y"), user(2, name="stored")]
    id = await queued(conn, records, sizes=sizes)
    job = await run(conn, id, order=order)
    assert job.status == "completed"
    assert (1, None, "constraint_violation") in await errors(conn, id)
    assert await rows(conn, "SELECT FROM users WHERE import_record = 3")
