"""The undo of an import removes the rows that it created and that no other has written or referred to since."""

import asyncio
from collections import Counter
from random import Random
from uuid import UUID, uuid4

import pytest

from db import audit, jobs
from db.imports import completion, retention, undo
from tests.support import duplicates, factories
from tests.support.factories import (
    article,
    blocked,
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

# see tests/README.md
THROUGH_PGBOUNCER = True


async def imported(conn, records, **parameters) -> UUID:
    """A finished undoable import of these records."""
    id = await queued(conn, records, undoable=True, **parameters)
    await factories.run(conn, id)
    return id


async def run_undo(conn, id: UUID) -> undo.Undo | None:
    """Works on the undo until it is finished, however long that takes."""
    return await undo.run(conn, id, seconds=3600)


async def undone(conn, id: UUID) -> undo.Undo:
    """The finished undo of the import, whose numbers balance."""
    async with conn.transaction():
        await undo.start(conn, id)
    await run_undo(conn, id)
    state = await undo.get(conn, id)
    assert state is not None
    assert state.finished_at is not None
    assert await audit.violations(conn, import_id=id) == []
    return state


def numbers(state: undo.Undo) -> dict[str, int]:
    return {name: n for name in ("removed", "missing", "changed", "referred_to") if (n := getattr(state, name))}


async def kept(conn, id: UUID) -> list[tuple[int, str]]:
    async with conn.transaction():
        return [(row.record, row.reason) async for part in undo.kept(conn, id) for row in part]


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


async def test_a_transaction_that_was_older_than_the_end_is_noticed(conn, other):
    """A row is kept if the transaction that wrote it had begun before the import was final."""
    id = await queued(conn, users(2), undoable=True)
    async with other.transaction():
        await other.execute("SELECT pg_current_xact_id()")
        await factories.run(conn, id)
        await other.execute("UPDATE users SET name = 'other' WHERE email = 'user2@example.com'")
    assert numbers(await undone(conn, id)) == {"removed": 1, "changed": 1}


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


async def test_duplicates_of_all_kinds_are_remembered_rightly(conn):
    """Random files with duplicates, in chunks of any order: the undo restores the table, but for rows that were updated."""
    random = Random(7)
    for _ in range(duplicates.EXAMPLES // 2):
        case = duplicates.random_case(random)._replace(dry_run=False)
        id = await duplicates.prepare(conn, case)
        await conn.execute("UPDATE import_jobs SET undoable = true")
        job = await factories.run(conn, id, order=case.order, chunks_max=case.chunks_max)
        assert numbers(await undone(conn, id)) == ({"removed": job.created} if job.created else {}), case
        assert {row_id for (row_id,) in await rows(conn, "SELECT id FROM users")} == set(case.stored), case


class Model:
    """What is stored: the import that created each row, None once another has written it; and the rows with an article."""

    def __init__(self) -> None:
        self.owner: dict[UUID, UUID | None] = {}
        self.with_article: set[UUID] = set()
        # of each import, the rows that it created and that its undo has not removed, and the results of the undo
        self.created: dict[UUID, list[UUID]] = {}
        self.results: dict[UUID, Counter[str]] = {}

    def imported(self, job: UUID, ids: list[UUID], mode: str) -> None:
        self.created[job] = [id for id in ids if id not in self.owner]
        self.owner |= dict.fromkeys(ids if mode == "upsert" else (), None) | dict.fromkeys(self.created[job], job)

    def undone(self, job: UUID) -> Counter[str]:
        before = self.results.get(job)
        if before is not None and not before["referred_to"]:
            return before
        result = Counter({name: n for name, n in (before or {}).items() if name in ("removed", "missing")})
        kept: list[UUID] = []
        for id in self.created[job]:
            if id not in self.owner:
                reason = "missing"
            elif self.owner[id] != job:
                reason = "changed"
            else:
                reason = "referred_to" if id in self.with_article else "removed"
            result[reason] += 1
            if reason == "removed":
                del self.owner[id]
            elif reason != "missing":
                kept.append(id)
        self.created[job], self.results[job] = kept, result
        return result


async def test_random_imports_and_undos_against_a_model(conn):
    """Several imports with ids in common, SQL between them, and undos in any order: rows and counts are those of a model."""
    random = Random(11)
    for _ in range(duplicates.EXAMPLES // 5):
        await conn.execute("DELETE FROM articles; DELETE FROM users; DELETE FROM import_jobs")
        model = Model()
        for number in range(12):
            match random.choice(["import", "import", "undo", "undo", "write", "article", "orphan", "remove"]):
                case "import":
                    ids = random.sample(duplicates.IDS, random.randint(1, len(duplicates.IDS)))
                    mode = random.choice(["upsert", "skip"])
                    records = [user(id.int, id=str(id), name=random.choice("ab")) for id in ids]
                    sizes = [1, len(ids) - 1] if len(ids) > 1 else None
                    model.imported(await imported(conn, records, mode=mode, sizes=sizes), ids, mode)
                case "undo" if model.created:
                    job = random.choice(list(model.created))
                    assert numbers(await undone(conn, job)) == model.undone(job)
                    assert len(await kept(conn, job)) == len(model.created[job])
                case "write" if model.owner:
                    id = random.choice(list(model.owner))
                    await conn.execute("UPDATE users SET name = 'sql' WHERE id = %(id)s", {"id": id})
                    model.owner[id] = None
                case "article" if model.owner:
                    id = random.choice(list(model.owner))
                    await stored_article(conn, id, number)
                    model.with_article.add(id)
                case "orphan" if model.with_article:
                    id = model.with_article.pop()
                    await conn.execute("DELETE FROM articles WHERE author_id = %(id)s", {"id": id})
                case "remove" if model.owner.keys() - model.with_article:
                    id = random.choice(sorted(model.owner.keys() - model.with_article))
                    await conn.execute("DELETE FROM users WHERE id = %(id)s", {"id": id})
                    del model.owner[id]
                case _:
                    continue
            assert {id for (id,) in await rows(conn, "SELECT id FROM users")} == set(model.owner)
