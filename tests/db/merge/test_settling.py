"""The settle chunk of an import: when there is one, and what it decides."""

import asyncio

import pytest

from db.imports import completion
from tests.support import factories
from tests.support.duplicates import IDS
from tests.support.factories import (
    blocked,
    chunk,
    claim,
    errors,
    perform,
    queued,
    rows,
    run,
    stored_article,
    user,
    users,
)

# see tests/README.md
THROUGH_PGBOUNCER = True


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_settle_has_an_hour_for_a_statement(conn, dry_run):
    """Each of its steps is one statement over all duplicates. The limit of other statements holds again afterwards."""
    await conn.execute("CREATE TABLE seen (milliseconds text)")
    await conn.execute(
        """
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO seen SELECT setting FROM pg_settings WHERE name = 'statement_timeout';
            RETURN NULL;
        END $$
        """
    )
    await conn.execute("CREATE TRIGGER see AFTER DELETE ON import_deferred FOR EACH STATEMENT EXECUTE FUNCTION see()")
    # in two chunks, so that the duplicate is decided at the end
    id = await queued(conn, [user(1), user(1)], sizes=[1, 1], dry_run=dry_run)
    assert (await run(conn, id)).failed == 1
    assert await rows(conn, "SELECT milliseconds FROM seen") == [("3600000",)]
    async with conn.transaction():
        assert await rows(conn, "SELECT setting FROM pg_settings WHERE name = 'statement_timeout'") == [("60000",)]


async def test_a_single_chunk_settles_itself(conn):
    """An import of one chunk needs no settle chunk for its duplicates."""
    id = await queued(conn, [user(1), user(1), user(2)])
    assert (await run(conn, id)).failed == 1
    assert await rows(conn, "SELECT kind FROM chunks") == [("records",)]


async def test_a_file_without_duplicates_is_not_settled(conn):
    """Without deferred records no settle chunk is queued, even if records conflicted with stored rows."""
    await factories.stored_user(conn, 2)
    assert (await run(conn, await queued(conn, users(4), sizes=[2, 2]))).failed == 1
    assert await rows(conn, "SELECT DISTINCT kind FROM chunks") == [("records",)]


async def test_a_file_with_duplicates_is_settled_last(conn):
    """The settle chunk runs after all others and decides all deferred records."""
    id = await queued(conn, [user(1), user(1), user(2)], sizes=[1, 1, 1])
    job = await run(conn, id, order=[1, 0, 2])
    assert (job.created, job.failed) == (2, 1)
    assert (await chunk(conn, id, 4))["kind"] == "settle"
    assert await rows(conn, "SELECT FROM import_deferred") == []


async def test_a_referenced_row_is_not_deleted(conn):
    """A stored row to which another table refers when the import is settled is kept, and wins over an earlier record."""
    later = IDS[0]
    id = await queued(conn, [user(1), user(1, id=str(later)), user(2)], sizes=[1, 1, 1])
    claims = [await claim(conn) for _ in range(3)]
    await perform(conn, claims[1])
    await stored_article(conn, later)
    await perform(conn, claims[0])
    await perform(conn, claims[2])
    await completion.finish(conn, id, endpoints=())
    job = await run(conn, id)
    assert (job.status, job.created, job.failed) == ("completed", 2, 1)
    assert await rows(conn, "SELECT record, duplicate_of_line FROM import_errors") == [(1, 2)]
    assert await rows(conn, "SELECT FROM users WHERE id = %(id)s", id=later)


async def test_settling_waits_for_a_concurrent_reference(conn, other):
    """A reference that is inserted concurrently counts: the row is kept, and both transactions succeed."""
    later = IDS[0]
    id = await queued(conn, [user(1), user(1, id=str(later))], sizes=[1, 1])
    claims = [await claim(conn) for _ in range(2)]
    await perform(conn, claims[1])
    await perform(conn, claims[0])
    await completion.finish(conn, id, endpoints=())
    settle = await claim(conn)
    async with other.transaction():
        await stored_article(other, later)
        settling = asyncio.create_task(perform(conn, settle))
        await blocked(conn, by=other)
    await settling
    await completion.finish(conn, id, endpoints=())
    assert (await factories.ended(conn, id)).created == 1
    assert await rows(conn, "SELECT record, duplicate_of_line FROM import_errors") == [(1, 2)]


async def test_a_row_of_another_import_is_stored_before_settling(conn):
    """A deferred record is refused if another import has stored a conflicting row meanwhile."""
    x = str(IDS[0])
    id = await queued(conn, [user(1, id=x), user(2, id=x), user(3)], sizes=[1, 1, 1])
    claims = [await claim(conn) for _ in range(3)]
    for place in (1, 0, 2):
        await perform(conn, claims[place])
    await factories.stored_user(conn, 1)
    await completion.finish(conn, id, endpoints=())
    await run(conn, id)
    assert await errors(conn, id) == [(1, "email", "already_exists")]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
async def test_an_error_names_the_id_that_was_sent(conn, order):
    """An error has the id that was sent, or none, also if the record was stored with a generated id at first."""
    first = await queued(conn, [user(1), user(1, id=str(IDS[0]).upper())], sizes=[1, 1])
    await run(conn, first, order=order)
    second = await queued(conn, [user(2, id=str(IDS[1])), user(2)], sizes=[1, 1])
    await run(conn, second, order=order)
    found = await rows(conn, "SELECT record, record_id FROM import_errors ORDER BY import_id")
    assert found == [(2, str(IDS[0])), (2, None)]
