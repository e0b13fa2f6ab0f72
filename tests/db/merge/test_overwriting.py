"""Upserts and updates of stored rows: those that keep their key and parents are overwritten at once, others matched first."""

import asyncio
from typing import get_args
from uuid import UUID

import pytest

from db.connections.pool import Connection
from db.imports import completion, jobs
from db.merge import ConflictLevel
from tests.support.factories import (
    article,
    blocked,
    claim,
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
)
from tests.support.plans import Plans, enable_plans


async def finished(conn: Connection, id: UUID) -> jobs.Import:
    """Makes the import final, whose chunks must be done."""
    await completion.finish(conn, id, endpoints=())
    return await ended(conn, id)


@pytest.mark.parametrize("mode", ["upsert", "update"])
async def test_rows_that_keep_key_and_parents_are_not_matched(conn, mode):
    """One statement finds and overwrites them, by id and by key; none locks them before."""
    author, first = await stored_user(conn, 1), await stored_user(conn, 2)
    about = await stored_article(conn, author, 1)
    await enable_plans(conn)
    plans = Plans(conn)
    for resource, records in (
        ("users", [user(1), user(2, id=str(first), email="USER2@example.com")]),
        ("articles", [article(author, 1, id=str(about), title="changed")]),
    ):
        id = await queued(conn, records, resource=resource, mode=mode)
        claimed = await claim(conn)
        sent = [plan.query for plan in await plans.of(perform(conn, claimed, memory=remembering("many", id)))]
        assert sum(f'UPDATE "{resource}"' in query for query in sent) == 1
        assert not [query for query in sent if "FOR NO KEY UPDATE" in query and "found" in query]
        assert (await finished(conn, id)).updated == len(records)


@pytest.mark.parametrize("undone", [False, True])
@pytest.mark.parametrize("change", ["DELETE FROM users", "UPDATE users SET email = 'moved@example.com'"])
async def test_a_row_that_changes_meanwhile_is_matched_as_it_is_then(conn, other, change, undone):
    """The statement waits for a concurrent change; the row that it then finds has another key, or is gone, or is as before."""
    stored = await stored_user(conn, 1)
    id = await queued(conn, [user(1, id=str(stored))], mode="upsert")
    claimed = await claim(conn)
    async with other.transaction(force_rollback=undone):
        await other.execute(change.encode())
        merging = asyncio.create_task(perform(conn, claimed, memory=remembering("many", id)))
        await blocked(conn, by=other)
    await merging
    job = await finished(conn, id)
    is_gone = change.startswith("DELETE") and not undone
    assert (job.created, job.updated) == ((1, 0) if is_gone else (0, 1))
    assert await rows(conn, "SELECT email, name FROM users") == [("user1@example.com", "User 1")]


@pytest.mark.parametrize("level", get_args(ConflictLevel))
async def test_rows_are_locked_in_the_order_of_their_keys(conn, other, third, level):
    """Whatever their order in the file, so that two imports of the same rows do not wait for each other."""
    for number in (1, 2):
        await stored_user(conn, number)
    id = await queued(conn, [user(2), user(1)], mode="upsert")
    claimed = await claim(conn)
    async with other.transaction():
        await other.execute("SELECT FROM users WHERE email = 'user2@example.com' FOR UPDATE")
        merging = asyncio.create_task(perform(conn, claimed, memory=remembering(level, id)))
        await blocked(conn, by=other)
        assert await rows(third, "SELECT email FROM users FOR UPDATE SKIP LOCKED") == []
    await merging
    assert (await finished(conn, id)).updated == 2


async def test_a_key_of_another_row_is_a_conflict(conn):
    """A record with the id of one row and the key of another overwrites neither."""
    one = await stored_user(conn, 1)
    await stored_user(conn, 2)
    id = await queued(conn, [user(2, id=str(one)), user(1)], mode="upsert")
    job = await run(conn, id)
    assert (job.updated, job.failed) == (1, 1)
    assert await errors(conn, id) == [(1, "email", "key_conflict")]
    assert await rows(conn, "SELECT name FROM users ORDER BY email") == [("User 1",), ("stored",)]


async def test_a_check_of_the_operator_refuses_only_its_records(conn):
    """If PostgreSQL refuses one of the rows, the others are overwritten all the same."""
    await conn.execute("ALTER TABLE users ADD CONSTRAINT no_bots CHECK (name <> 'bot')")
    for number in (1, 2, 3):
        await stored_user(conn, number)
    id = await queued(conn, [user(1), user(2, name="bot"), user(3)], mode="update")
    job = await run(conn, id)
    assert (job.updated, job.failed) == (2, 1)
    assert await errors(conn, id) == [(2, None, "constraint_violation")]


async def test_a_changed_parent_must_exist(conn):
    """An article whose author changes is matched, so a missing author is the error of that record alone."""
    one, two = await stored_user(conn, 1), await stored_user(conn, 2)
    await stored_article(conn, one, 1)
    await stored_article(conn, one, 2)
    await stored_article(conn, one, 3)
    missing = "00000000-0000-4000-8000-000000000000"
    id = await queued(conn, [article(two, 1), article(missing, 2), article(one, 3)], resource="articles", mode="upsert")
    job = await run(conn, id)
    assert (job.updated, job.failed) == (2, 1)
    assert await errors(conn, id) == [(2, "author_id", "foreign_key_not_found")]
    assert await rows(conn, "SELECT author_id FROM articles ORDER BY slug") == [(two,), (one,), (one,)]
