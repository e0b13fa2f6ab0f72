"""The undo of an import removes the rows that it created and that no other has written or referred to since."""

from uuid import UUID, uuid4

import pytest

from db import audit, jobs
from db.imports import completion, retention, undo
from tests.support import factories
from tests.support.factories import (
    article,
    claim,
    comment,
    perform,
    queued,
    rows,
    stored_article,
    stored_user,
    user,
    users,
)
from tests.support.undo import imported, kept, numbers, undone

# see tests/README.md
THROUGH_PGBOUNCER = True


async def emails(conn) -> list[str]:
    return [email for (email,) in await rows(conn, "SELECT email FROM users ORDER BY email")]


@pytest.mark.parametrize("chunks_max", [1, 3])
async def test_all_rows_of_an_import_are_removed(conn, chunks_max):
    """An undo removes every row, in whichever way it was stored, and no row of others."""
    mine = await stored_user(conn, 2, id=UUID(int=2))
    id = await queued(conn, [user(1), user(2), user(3), user(3), user(4)], sizes=[2, 2, 1], undoable=True)
    job = await factories.run(conn, id, chunks_max=chunks_max)
    assert (job.created, job.failed) == (3, 2)
    assert numbers(await undone(conn, id)) == {"removed": 3}
    assert await rows(conn, "SELECT id FROM users") == [(mine,)]
    assert await kept(conn, id) == []
    assert await rows(conn, "SELECT FROM import_created") == []


async def test_an_import_that_is_not_undoable_remembers_nothing(conn):
    """Without the parameter no row is written for an undo."""
    await factories.run(conn, await queued(conn, [user(1), user(1), user(2)], sizes=[1, 1, 1]))
    assert await rows(conn, "SELECT FROM import_created") == []


@pytest.mark.parametrize("mode", ["upsert", "skip", "insert"])
async def test_a_row_that_a_later_import_wrote_is_kept(conn, mode):
    """A row that a later import has changed, or found unchanged, is kept and named. One that it skipped or refused is removed."""
    id = await imported(conn, users(4))
    await factories.run(conn, await queued(conn, [user(2, name="other"), user(3)], mode=mode))
    state = await undone(conn, id)
    if mode == "upsert":
        assert numbers(state) == {"removed": 2, "changed": 2}
        assert await kept(conn, id) == [(2, "changed"), (3, "changed")]
    else:
        assert numbers(state) == {"removed": 4}


async def test_rows_that_the_import_updated_stay(conn):
    """Only created rows are removed: a row that the import has updated keeps its new values."""
    await stored_user(conn, 1)
    id = await imported(conn, [user(1, name="new"), user(2)], mode="upsert")
    assert numbers(await undone(conn, id)) == {"removed": 1}
    assert await rows(conn, "SELECT name FROM users") == [("new",)]


async def test_a_row_that_sql_wrote_is_kept(conn):
    """A statement that leaves the import's columns alone is noticed too, if it came after the end of the import."""
    id = await imported(conn, users(3))
    await conn.execute("UPDATE users SET name = name WHERE email = 'user2@example.com'")
    await conn.execute("DELETE FROM users WHERE email = 'user3@example.com'")
    assert numbers(await undone(conn, id)) == {"removed": 1, "missing": 1, "changed": 1}
    assert await kept(conn, id) == [(2, "changed")]


async def test_reading_and_locking_a_row_does_not_change_it(conn):
    """Rows that were locked, vacuumed, or moved by VACUUM FULL are removed."""
    id = await imported(conn, users(3))
    async with conn.transaction():
        await conn.execute("SELECT FROM users FOR UPDATE")
    await conn.execute("VACUUM (FREEZE) users")
    await conn.execute("VACUUM (FULL) users")
    assert numbers(await undone(conn, id)) == {"removed": 3}


async def test_rows_that_are_referred_to_are_kept_until_they_are_not(conn):
    """Rows with children are kept and named. Once the children are gone, a repeated undo removes them."""
    author, reader = uuid4(), uuid4()
    first = await imported(conn, [user(1, id=str(author)), user(2, id=str(reader)), user(3)])
    post = uuid4()
    second = await imported(conn, [article(author, 1, id=str(post)), article(author, 2)], resource="articles")
    third = await imported(conn, [comment(post, reader)], resource="comments")

    assert numbers(await undone(conn, first)) == {"removed": 1, "referred_to": 2}
    assert await kept(conn, first) == [(1, "referred_to"), (2, "referred_to")]
    assert numbers(await undone(conn, second)) == {"removed": 1, "referred_to": 1}
    assert numbers(await undone(conn, third)) == {"removed": 1}
    assert numbers(await undone(conn, second)) == {"removed": 2}
    assert numbers(await undone(conn, first)) == {"removed": 3}
    assert await kept(conn, first) == []


async def test_a_finished_undo_that_kept_nothing_for_others_is_not_repeated(conn):
    """A repeated undo changes nothing, not even its times, unless rows were kept because others referred to them."""
    id = await imported(conn, users(2))
    await conn.execute("UPDATE users SET name = 'other' WHERE email = 'user2@example.com'")
    assert await undone(conn, id) == await undone(conn, id)


async def test_a_foreign_key_of_another_table(conn):
    """A row that a table outside of the resources refers to is kept. The others of its batch are removed."""
    id = await imported(conn, users(3))
    await conn.execute("CREATE TABLE badges (user_id uuid REFERENCES users)")
    await conn.execute("INSERT INTO badges SELECT id FROM users WHERE email = 'user2@example.com'")
    assert numbers(await undone(conn, id)) == {"removed": 2, "referred_to": 1}
    assert await emails(conn) == ["user2@example.com"]


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_an_import_that_ended_halfway(conn, end):
    """The rows that a cancelled or failed import has created are removed."""
    id = await queued(conn, [user(1), user(2), user(3, role="boss")], sizes=[2, 1], undoable=True, max_errors=0)
    await perform(conn, await claim(conn))
    if end == "failed":
        await perform(conn, await claim(conn))
    else:
        assert await jobs.cancel(conn, "import", id)
    await completion.finish(conn, id, endpoints=())
    job = await factories.ended(conn, id)
    assert (job.status, job.created) == (end, 2)
    assert numbers(await undone(conn, id)) == {"removed": 2}


async def test_the_undo_of_an_import_that_others_waited_for(conn):
    """An import that follows by `after` keeps what it has written or referred to."""
    author = uuid4()
    first = await queued(conn, [user(1, id=str(author)), user(2), user(3)], undoable=True)
    second = await queued(conn, [article(author)], resource="articles", after_id=first)
    await factories.run(conn, first)
    await completion.finish(conn, second, endpoints=())
    assert (await factories.ended(conn, second)).created == 1
    assert numbers(await undone(conn, first)) == {"removed": 2, "referred_to": 1}


async def test_an_import_that_is_being_undone_is_not_deleted(conn):
    """Retention keeps an import until its undo is finished, then deletes it with what it has remembered."""
    id = await imported(conn, users(3))
    await stored_article(conn, (await rows(conn, "SELECT id FROM users LIMIT 1"))[0][0])
    async with conn.transaction():
        await undo.start(conn, id)
    assert (await retention.prune(conn, retention_seconds=0)).jobs == 0
    await undone(conn, id)
    pruned = await retention.prune(conn, retention_seconds=0)
    assert pruned.jobs == 1
    assert await rows(conn, "SELECT FROM import_created UNION ALL SELECT FROM import_undos") == []


async def test_the_audit_notices_a_row_that_is_not_remembered(conn):
    """The rows that an import remembers are those that it counts."""
    id = await imported(conn, users(3))
    await conn.execute("UPDATE import_created SET records = records[:2], ids = ids[:2]")
    found = await audit.violations(conn, import_id=id)
    assert {(one.fact, one.book, one.counted) for one in found} == {("rows that are remembered for an undo", 3, 2)}
