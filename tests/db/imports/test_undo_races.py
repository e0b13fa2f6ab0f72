"""The undo of an import beside other transactions, and after an interruption."""

import asyncio

import pytest

from db.imports import completion, undo
from tests.support import factories
from tests.support.factories import blocked, claim, perform, queued, rows, stored_article, user, users
from tests.support.undo import imported, numbers, run_undo, undone

# see tests/README.md
THROUGH_PGBOUNCER = True


async def test_a_transaction_that_was_older_than_the_end_is_noticed(conn, other):
    """A row is kept if the transaction that wrote it had begun before the import was final."""
    id = await queued(conn, users(2), undoable=True)
    async with other.transaction():
        await other.execute("SELECT pg_current_xact_id()")
        await factories.run(conn, id)
        await other.execute("UPDATE users SET name = 'other' WHERE email = 'user2@example.com'")
    assert numbers(await undone(conn, id)) == {"removed": 1, "changed": 1}


async def test_a_reference_that_is_not_committed_yet(conn, other):
    """The undo waits for a transaction that has begun to refer to a row, and keeps it without failing at the foreign key."""
    await conn.execute("CREATE TABLE deletes (at timestamptz)")
    await conn.execute(
        """
        CREATE FUNCTION note_delete() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO deletes VALUES (now()); RETURN NULL; END $$
        """
    )
    await conn.execute(
        "CREATE TRIGGER note_delete AFTER DELETE ON users FOR EACH STATEMENT EXECUTE FUNCTION note_delete()"
    )
    id = await imported(conn, users(2))
    ((author,),) = await rows(conn, "SELECT id FROM users WHERE import_record = 2")
    async with conn.transaction():
        await undo.start(conn, id)
    async with other.transaction():
        await stored_article(other, author)
        running = asyncio.create_task(run_undo(conn, id))
        await blocked(conn, by=other)
    state = await running
    assert state is not None
    assert numbers(state) == {"removed": 1, "referred_to": 1}
    # after a refusal the rows would have been deleted one by one
    assert len(await rows(conn, "SELECT FROM deletes")) == 1


async def test_a_change_that_is_not_committed_yet(conn, other):
    """The undo waits for a transaction that has changed a row, and keeps the row."""
    id = await imported(conn, users(2))
    async with conn.transaction():
        await undo.start(conn, id)
    async with other.transaction():
        await other.execute("UPDATE users SET name = 'other' WHERE import_record = 2")
        running = asyncio.create_task(run_undo(conn, id))
        await blocked(conn, by=other)
    state = await running
    assert state is not None
    assert numbers(state) == {"removed": 1, "changed": 1}


async def test_a_row_that_stays_locked_delays_the_undo(conn, other):
    """A lock that is held for too long leaves the undo unfinished, and without an error. It goes on later."""
    id = await imported(conn, users(2))
    async with conn.transaction():
        await undo.start(conn, id)
    async with other.transaction():
        await other.execute("SELECT FROM users FOR UPDATE")
        assert await undo.run(conn, id, seconds=0) is None
        assert numbers(await undo.get(conn, id)) == {}
    assert await undo.unfinished(conn) == [id]
    assert numbers(await run_undo(conn, id)) == {"removed": 2}


async def test_an_upsert_that_waits_for_the_undo_creates_a_row_of_its_own(conn, other):
    """An import that meets a row which is being removed waits, and then creates another row."""
    id = await imported(conn, users(2))
    upsert = await queued(conn, [user(2, name="later")], mode="upsert")
    claimed = await claim(conn)
    async with conn.transaction():
        await undo.start(conn, id)
    async with conn.transaction():
        await run_undo(conn, id)
        storing = asyncio.create_task(perform(other, claimed))
        await blocked(other, by=conn)
    await storing
    await completion.finish(conn, upsert, endpoints=())
    assert (await factories.ended(conn, upsert)).created == 1
    assert await rows(conn, "SELECT name FROM users") == [("later",)]


async def test_two_undos_at_the_same_time(conn, other):
    """Concurrent calls share the work: each batch is processed once, and one of them finishes the undo."""
    id = await imported(conn, users(12), sizes=[1] * 12)
    async with conn.transaction():
        await undo.start(conn, id)
    ends = await asyncio.gather(run_undo(conn, id), run_undo(other, id))
    (end,) = [end for end in ends if end is not None]
    assert numbers(end) == {"removed": 12}


async def test_an_undo_continues_where_it_was_interrupted(conn, other):
    """An undo that breaks off in the middle of a batch has lost nothing of it: another process removes the rest."""
    id = await imported(conn, users(4), sizes=[2, 2])
    async with conn.transaction():
        await undo.start(conn, id)
    assert await undo.run(conn, id, seconds=0) is None
    assert numbers(await undo.get(conn, id)) == {"removed": 2}
    with pytest.raises(ZeroDivisionError):
        async with other.transaction():
            await undo.run(other, id, seconds=0)
            raise ZeroDivisionError
    assert numbers(await undo.get(conn, id)) == {"removed": 2}
    assert numbers(await run_undo(other, id)) == {"removed": 4}
