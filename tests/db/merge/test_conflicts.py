"""How the conflicts of an import's earlier chunks decide how its next chunk is stored; what is stored does not depend on it."""

import asyncio
from typing import Any

import pytest

from db.imports import completion
from db.merge import ConflictLevel, copying
from tests.support.factories import (
    blocked,
    chunk,
    claim,
    errors,
    perform,
    queued,
    remembering,
    rows,
    run,
    stored_user,
    user,
    users,
)
from tests.support.plans import Plans, enable_plans

BATCH_RECORDS = 4


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(copying, "BATCH_RECORDS", BATCH_RECORDS)


async def level_after(conn, assumed: ConflictLevel, records: list[dict[str, Any]]) -> tuple[ConflictLevel, bool]:
    """The level after a chunk with these records, and whether stored rows were looked up for it."""
    id = await queued(conn, records)
    claimed = await claim(conn)
    memory = remembering(assumed, id)
    plans = await Plans(conn).of(perform(conn, claimed, memory=memory))
    return memory.level(id), any(
        plan.query.startswith("SELECT id FROM") or "lower(" in plan.query[:20] for plan in plans
    )


async def test_the_level_follows_the_conflicts(conn):
    """Duplicates of a chunk alone need no look-up; it comes first while stored rows conflict with more than a few batches."""
    await stored_user(conn, 1)
    await stored_user(conn, 5)
    await enable_plans(conn)
    duplicate = user(20, name="twin")
    assert await level_after(conn, "none", [*users(3, first=20), duplicate]) == ("few", False)
    assert await level_after(conn, "few", [*users(8, first=30), user(30)]) == ("few", False)
    assert await level_after(conn, "few", users(8)) == ("some", True)
    assert await level_after(conn, "some", users(8, first=40)) == ("few", True)
    assert await level_after(conn, "some", users(8)) == ("many", True)


async def test_a_conflict_concerns_no_other_record(conn):
    """All others are stored, of the batch in which it is and of the others."""
    await stored_user(conn, 15)
    id = await queued(conn, [*users(9, first=11), user(11, name="twin")])
    job = await run(conn, id)
    assert (job.created, job.failed) == (8, 2)
    assert await errors(conn, id) == [(5, "email", "already_exists"), (10, "email", "duplicate_in_file")]


async def test_the_first_of_two_records_of_a_chunk_is_stored_at_once(conn):
    """The one that usually wins is not deferred: the first, or in an upsert the last. If it loses after all, it is removed."""
    for mode, kept in (("insert", "first"), ("upsert", "last")):
        await conn.execute("DELETE FROM users")
        records = [user(1, name="before"), user(2, name="first"), user(2, name="last"), user(1, name="after")]
        id = await queued(conn, records, sizes=[1, 2, 1], mode=mode)
        claims = [await claim(conn) for _ in range(3)]
        await perform(conn, claims[1])
        assert await rows(conn, "SELECT name FROM users") == [(kept,)]
        for claimed in (claims[0], claims[2]):
            await perform(conn, claimed)
        await completion.finish(conn, id, endpoints=())
        await run(conn, id)
        found = await rows(conn, "SELECT name FROM users ORDER BY email")
        assert found == [("before" if mode == "insert" else "after",), (kept,)]


async def test_a_chunk_waits_when_too_many_of_its_records_are_blocked(conn, other, monkeypatch):
    """BLOCKED_MAX records are deferred without waiting; then the chunk waits, and the others conflict with what is committed."""
    monkeypatch.setattr(copying, "BLOCKED_MAX", 1)
    id = await queued(conn, [*users(2), *users(2), user(3)], sizes=[2, 3])
    one, two = await claim(conn), await claim(conn)
    async with conn.transaction():
        await perform(conn, one)
        merging = asyncio.create_task(perform(other, two, memory=remembering("few", id)))
        await blocked(other, by=conn)
    await merging
    row = await chunk(conn, id, 2)
    assert (row["created"], row["deferred"]) == (1, 2)
    assert await completion.finish(conn, id, endpoints=()) == []
    assert (await run(conn, id)).created == 3
    assert await errors(conn, id) == [(3, "email", "duplicate_in_file"), (4, "email", "duplicate_in_file")]
