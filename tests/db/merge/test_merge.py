"""A chunk's way into its table: what is stored, what is refused and why, and what others may do meanwhile."""

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
    rows,
    run,
    stored_article,
    stored_user,
    user,
    users,
)
from workers.imports import ConflictMemory

# see tests/README.md
THROUGH_PGBOUNCER = True

# the conflict levels that a worker may remember of an import, each with another strategy for its next chunk
EXPECTED = get_args(ConflictLevel)


def remembering(expected: ConflictLevel, *ids) -> ConflictMemory:
    """The memory of a worker that has met as many obstacles in these imports."""
    memory = ConflictMemory()
    for id in ids:
        memory.note(id, expected)
    return memory


async def finish(conn, id):
    """The import at its end, with its books checked; all its chunks have been performed."""
    assert await completion.finish(conn, id) != []
    return await ended(conn, id)


# ── nothing in the way ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("expected", EXPECTED)
async def test_sound_records_are_stored_as_sent(conn, expected):
    """Straight and staged: every field arrives, and what was not sent is filled in."""
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
    """A comment without id gets one that begins with cm_; one with id keeps it letter by letter; both are dated."""
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
    """A record that has the id, the e-mail address in any case, or both of rows from outside is told each of it."""
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
    told = await rows(conn, "SELECT record_key, value FROM import_errors WHERE record = 3")
    assert told == [("USER1@example.COM", "USER1@example.COM")]


async def test_an_earlier_import_is_outside(conn):
    """The same file again is refused as a whole, and what it stored stays as it was."""
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
async def test_an_outsider_comes_first_at_the_last_moment(conn, other, undone):
    """A row from outside that is committed while the merge waits for its index entry refuses the record; one undone does not."""
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
async def test_each_missing_parent_is_told(conn, expected):
    """A record without its parents is refused, once for each field; its neighbours are stored."""
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
    told = await rows(conn, "SELECT value, message FROM import_errors WHERE record = 2")
    assert told == [(str(nobody), "no article has this id")]


async def test_a_refused_record_is_told_of_its_parents_too(conn):
    """A record with faults of its own is told of missing parents as well, and not of those that are there."""
    author, nobody = await stored_user(conn), uuid4()
    about = await stored_article(conn, author)
    id = await queued(conn, [comment(nobody, author, body=" "), comment(about, author, body=" ")], resource="comments")
    await run(conn, id)
    assert await errors(conn, id) == [
        (1, "body", "too_short"),
        (1, "article_id", "foreign_key_not_found"),
        (2, "body", "too_short"),
    ]


async def test_a_missing_parent_and_a_taken_key_are_both_told(conn):
    """What is wrong with a record beside its parents is told along with them."""
    author = await stored_user(conn)
    await stored_article(conn, author, 1)
    id = await queued(conn, [article(uuid4(), 1)], resource="articles")
    assert (await run(conn, id)).errors == 2
    assert await errors(conn, id) == [(1, "author_id", "foreign_key_not_found"), (1, "slug", "already_exists")]


@pytest.mark.parametrize("expected", EXPECTED)
@pytest.mark.parametrize("undone", [False, True])
async def test_a_parent_that_vanishes_meanwhile_is_missing(conn, other, expected, undone):
    """A removal of the parent that is under way is waited for; then the record is refused or stored, never an accident."""
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


async def test_a_parent_cannot_vanish_between_check_and_insert(conn, other):
    """Once a merge has looked for the parents they stay until its end."""
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
async def test_two_chunks_meet_over_one_address(conn, other, expected, undone):
    """The second waits for the first: it defers its record when that is committed, and stores it when it is undone."""
    id = await queued(conn, [user(1), user(2), user(1, name="later"), user(3)], sizes=[2, 2])
    one, two = await claim(conn), await claim(conn)
    memory = remembering(expected, id)
    async with conn.transaction(force_rollback=undone):
        await perform(conn, one, memory=memory)
        merging = asyncio.create_task(perform(other, two, memory=memory))
        await blocked(other, by=conn)
    await merging
    row = await chunk(conn, id, 2)
    assert (row["created"], row["deferred"]) == ((2, 0) if undone else (1, 1))
    if undone:
        await perform(conn, one)
    assert await completion.finish(conn, id) == []
    assert (await run(conn, id)).created == 3
    assert await rows(conn, "SELECT name FROM users WHERE email = 'user1@example.com'") == [("User 1",)]
    assert await errors(conn, id) == [(3, "email", "duplicate_in_file")]


# ── what an operator has added ────────────────────────────────────────────────────────────────────────────────────────


async def operator_checks(conn) -> None:
    await conn.execute("ALTER TABLE users ADD CONSTRAINT no_bots CHECK (name <> 'bot')")


async def test_a_check_of_the_operator_refuses_only_its_records(conn):
    """Records that a constraint unknown to the service refuses are told so; the others are treated as ever."""
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
    """A winner among duplicates that a constraint then refuses is told so, and the import goes on."""
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
    """A unique index unknown to the service refuses records; the merge looks a few times and not for ever."""
    await conn.execute("CREATE UNIQUE INDEX one_of_a_name ON users (name)")
    id = await queued(conn, [user(n, name=name) for n, name in enumerate(["a", "b", "a", "c"])], sizes=sizes)
    job = await run(conn, id)
    assert (job.status, job.created, job.failed) == ("completed", 3, 1)
    assert await errors(conn, id) == [(3, None, "constraint_violation")]


@CUTS
async def test_an_index_of_the_operator_meets_duplicates(conn, sizes, order):
    """A winner among duplicates that a unique index then refuses is told so, and the import goes on."""
    await conn.execute("CREATE UNIQUE INDEX one_of_a_name ON users (name)")
    await stored_user(conn, 9)
    records = [user(1, name="stored"), user(1, name="x"), user(2, name="y"), user(2, name="stored")]
    id = await queued(conn, records, sizes=sizes)
    job = await run(conn, id, order=order)
    assert job.status == "completed"
    assert (1, None, "constraint_violation") in await errors(conn, id)
    assert await rows(conn, "SELECT FROM users WHERE import_record = 3")
