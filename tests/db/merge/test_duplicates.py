"""The result for duplicates in a file (table, counters, errors) is defined by the file, whatever the order of its chunks."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from db.connections import pool
from db.imports import completion
from db.settings import Settings
from tests.support import factories
from tests.support.eventually import eventually
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
from workers.worker import Worker

# see tests/README.md
THROUGH_PGBOUNCER = True

EXAMPLES = int(os.environ.get("SETTLE_EXAMPLES", "100"))
SEEDS = range(max(8, EXAMPLES // 10))

IDS = [UUID(int=n) for n in range(1, 6)]
EMAILS = [f"{letter}@example.com" for letter in "uvwxyz"]
MODES = ["insert", "skip", "upsert", "update"]


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


# ── the definition ────────────────────────────────────────────────────────────────────────────────────────────────────


class Sent(NamedTuple):
    id: UUID | None
    email: str
    name: str

    @property
    def key(self) -> str:
        return self.email.lower()


class Answer(NamedTuple):
    """`table`: by id, or by record number where the service made the id. `errors`: record, field, code, duplicate_of_line."""

    table: dict[Any, tuple[str, str]]
    counts: Counter[str]
    errors: list[tuple[int, str, str, int | None]]


def definition(stored: dict[Any, tuple[str, str]], sent: dict[int, Sent], mode: str) -> Answer:
    """The expected result of an import, computed from the file and the table before it."""
    holders = {email.lower(): id for id, (email, _) in stored.items()}
    # the stored row that each record is
    targets = {n: holders.get(r.key) if r.id is None else r.id if r.id in stored else None for n, r in sent.items()}
    refused = {n: list(_faults(r, targets[n], stored, holders, mode)) for n, r in sent.items()}
    sound = [n for n in sent if not refused[n]]

    first = -1 if mode in ("upsert", "update") else 1
    by_key: dict[str, int] = {}
    for n in sound[::first]:
        by_key.setdefault(sent[n].key, n)
    by_id: dict[Any, int] = {}
    for n in sound[::first]:
        if by_key[sent[n].key] == n:
            by_id.setdefault(targets[n] or sent[n].id or n, n)

    answer = Answer(dict(stored), Counter(), [])
    for n, record in sent.items():
        row = targets[n] or record.id or n
        if refused[n]:
            answer.counts["skipped" if mode == "skip" else "failed"] += 1
            answer.errors.extend((n, field, code, None) for field, code in refused[n] if mode != "skip")
        elif by_key[record.key] != n or by_id[row] != n:
            answer.counts["failed" if mode == "insert" else "skipped"] += 1
            field, winner = ("email", by_key[record.key]) if by_key[record.key] != n else ("id", by_id[row])
            if mode == "insert":
                answer.errors.append((n, field, "duplicate_in_file", winner))
        else:
            is_alone = [targets[other] for other in sound].count(targets[n]) == 1
            is_same = stored.get(row) == (record.email, record.name)
            answer.counts["created" if row not in stored else "unchanged" if is_alone and is_same else "updated"] += 1
            answer.table[row] = (record.email, record.name)
    return answer


def _faults(record: Sent, target: Any, stored: Any, holders: dict[str, UUID], mode: str) -> Iterator[tuple[str, str]]:
    """Field and code of the record's conflicts with rows stored before."""
    if mode in ("insert", "skip"):
        if record.id in stored:
            yield "id", "already_exists"
        if record.key in holders:
            yield "email", "already_exists"
    elif holders.get(record.key, target) != target:
        yield "email", "key_conflict"
    elif mode == "update" and target is None:
        yield "email" if record.id is None else "id", "not_found"


# ── cases ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Case(NamedTuple):
    mode: str
    stored: dict[Any, tuple[str, str]]
    sent: dict[int, Sent]
    sizes: list[int]
    order: list[int]
    # chunks that are claimed at once
    chunks_max: int
    dry_run: bool

    @property
    def answer(self) -> Answer:
        right = definition(self.stored, self.sent, self.mode)
        return right._replace(table=self.stored) if self.dry_run else right


def random_case(random: Random) -> Case:
    """A random file and table with few ids and e-mails, so that records collide in all ways."""
    ids, emails = IDS[: random.randint(1, 5)], EMAILS[: random.randint(1, 6)]

    def case(email: str) -> str:
        return random.choice([email, email, email.upper(), email.title()])

    stored = {
        id: (case(email), random.choice("ab")) for id, email in zip(ids, emails, strict=False) if random.random() < 0.3
    }
    count = random.randint(1, 14)
    sent = {
        # the file has no header, so a record's number is its line
        n: Sent(random.choice([None, *ids]), case(random.choice(emails)), random.choice("ab"))
        for n in range(1, count + 1)
    }
    cuts = [0, *sorted(random.sample(range(1, count), random.randint(0, min(count - 1, 5)))), count]
    sizes = [end - start for start, end in pairwise(cuts)]
    order = list(range(len(sizes)))
    random.shuffle(order)
    chunks_max = random.choice([1, 1, 2, 3])
    return Case(random.choice(MODES), stored, sent, sizes, order, chunks_max, dry_run=random.random() < 0.2)


async def prepare(conn, case: Case) -> UUID:
    """The case in an emptied database."""
    # so few rows are sooner deleted than their tables truncated
    await conn.execute("DELETE FROM users; DELETE FROM import_jobs")
    for id, (email, name) in case.stored.items():
        await conn.execute(
            "INSERT INTO users (id, email, name, role, active) VALUES (%(id)s, %(email)s, %(name)s, 'reader', true)",
            {"id": id, "email": email, "name": name},
        )
    records = [
        user(email=sent.email, name=sent.name) | ({} if sent.id is None else {"id": str(sent.id)})
        for sent in case.sent.values()
    ]
    return await queued(conn, records, sizes=case.sizes, mode=case.mode, dry_run=case.dry_run)


async def answer(conn, id: UUID) -> Answer:
    """The result of an import, which is audited."""
    job = await factories.ended(conn, id)
    assert job.status == "completed", job.problem
    table = {
        row_id if row_id in IDS else record: (email, name)
        for row_id, record, email, name in await rows(conn, "SELECT id, import_record, email, name FROM users")
    }
    counts = {what: getattr(job, what) for what in ("created", "updated", "unchanged", "skipped", "failed")}
    found = await rows(
        conn, "SELECT record, field, code, duplicate_of_line FROM import_errors ORDER BY import_id, record, n"
    )
    return Answer(table, Counter(counts), found)


@pytest.mark.slow
def test_any_file_in_any_order_means_the_same(database_url):
    """For random files, tables, chunks and orders the result is that of the definition, and a dry run gives the same counts."""
    with asyncio.Runner() as runner:

        async def connect() -> pool.Connection:
            conn = await AsyncConnection.connect(database_url, autocommit=True)
            await pool.configure(conn)
            return conn

        conn = runner.run(connect())

        async def check(case: Case) -> None:
            id = await prepare(conn, case)
            await run(conn, id, order=case.order, chunks_max=case.chunks_max)
            assert await answer(conn, id) == case.answer

        @settings(max_examples=EXAMPLES, deadline=None, database=None)
        # a true random: choices that Hypothesis makes one by one are too often all the same
        @given(st.randoms(use_true_random=True).map(random_case))
        def holds(case: Case) -> None:
            runner.run(check(case))

        holds()
        runner.run(conn.close())


# ── side by side ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_two_open_transactions_mean_the_same(conn, other):
    """Each chunk runs while another one is done but not committed; that one is committed when the chunk waits for it, or ends."""
    waits = 0
    for seed in SEEDS:
        case = random_case(Random(seed))
        id = await prepare(conn, case)
        claims = [await claim(conn) for _ in case.sizes]
        free, holder = conn, other
        async with asyncio.timeout(60):
            await holder.execute("BEGIN")
            for place in case.order:
                await free.execute("BEGIN")
                work = asyncio.create_task(perform(free, claims[place]))
                await eventually(lambda work=work, by=holder: _is_done_or_blocked(work, by))
                waits += not work.done()
                await holder.execute("COMMIT")
                await work
                free, holder = holder, free
            await holder.execute("COMMIT")
        await completion.finish(conn, id)
        while settle := await factories.queue.claim(conn, worker="me"):
            await perform(conn, settle)
            await completion.finish(conn, id)
        assert await answer(conn, id) == case.answer, f"seed {seed}"
    assert waits


async def _is_done_or_blocked(work: asyncio.Task, by: pool.Connection) -> bool:
    return bool(await factories.those_blocked(by)) or work.done()


async def test_two_workers_mean_the_same(conn, other):
    """Two concurrent workers, which retry after conflicts, give the result of the definition."""
    workers = [worker("one"), worker("two")]
    for seed in SEEDS:
        case = random_case(Random(1000 + seed))
        id = await prepare(conn, case)
        await asyncio.gather(drain(workers[0], conn), drain(workers[1], other))
        await drain(workers[0], conn)
        assert await answer(conn, id) == case.answer, f"seed {1000 + seed}"


def worker(name: str) -> Worker:
    # for so few workers several chunks are left each
    return Worker(Settings(worker_pool_size=2), name=name, stopping=asyncio.Event())


async def drain(of: Worker, conn) -> None:
    while await of.run_once(conn):
        pass


async def test_a_deadlock_is_retried_in_place(conn, other, watch):
    """If two chunks deadlock, one is rolled back and repeated immediately, without counting an attempt."""
    await watch.execute(
        """
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock_shared(1);
            RETURN NEW;
        END $$
        """
    )
    await watch.execute(
        """
        CREATE TRIGGER wait BEFORE INSERT ON users
        FOR EACH ROW WHEN (NEW.name = 'second') EXECUTE FUNCTION wait()
        """
    )
    x, y = map(str, IDS[:2])
    records = [user(1, id=x), user(4, id=y, name="second"), user(2, id=y), user(3, id=x, name="second")]
    id = await queued(conn, records, sizes=[2, 2])
    await watch.execute("SELECT pg_advisory_lock(1)")
    workers = [asyncio.create_task(worker(str(n)).run_once(on)) for n, on in enumerate([conn, other])]
    await blocked(conn, by=watch)
    await blocked(other, by=watch)
    await watch.execute("SELECT pg_advisory_unlock(1)")
    await asyncio.gather(*workers)
    assert await eventually(lambda: rows(watch, DEADLOCKS))
    await run(conn, id)
    assert [(await chunk(conn, id, seq))["attempt"] for seq in (1, 2)] == [1, 1]
    assert await errors(conn, id) == [(3, "id", "duplicate_in_file"), (4, "id", "duplicate_in_file")]


# backends tell their numbers when they are idle, after a moment
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database() AND deadlocks > 0"


@pytest.fixture
async def watch(database_url):
    """A third connection."""
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


# ── when it is done ───────────────────────────────────────────────────────────────────────────────────────────────────


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


async def test_a_row_in_use_is_not_taken_away(conn):
    """A stored row to which another table refers when the import is settled is kept, and wins over an earlier record."""
    later = IDS[0]
    id = await queued(conn, [user(1), user(1, id=str(later)), user(2)], sizes=[1, 1, 1])
    claims = [await claim(conn) for _ in range(3)]
    await perform(conn, claims[1])
    await stored_article(conn, later)
    await perform(conn, claims[0])
    await perform(conn, claims[2])
    await completion.finish(conn, id)
    job = await run(conn, id)
    assert (job.status, job.created, job.failed) == ("completed", 2, 1)
    assert await rows(conn, "SELECT record, duplicate_of_line FROM import_errors") == [(1, 2)]
    assert await rows(conn, "SELECT FROM users WHERE id = %(id)s", id=later)


async def test_settling_waits_for_who_is_just_referring(conn, other):
    """A reference that is inserted concurrently counts: the row is kept, and both transactions succeed."""
    later = IDS[0]
    id = await queued(conn, [user(1), user(1, id=str(later))], sizes=[1, 1])
    claims = [await claim(conn) for _ in range(2)]
    await perform(conn, claims[1])
    await perform(conn, claims[0])
    await completion.finish(conn, id)
    settle = await claim(conn)
    async with other.transaction():
        await stored_article(other, later)
        settling = asyncio.create_task(perform(conn, settle))
        await blocked(conn, by=other)
    await settling
    await completion.finish(conn, id)
    assert (await factories.ended(conn, id)).created == 1
    assert await rows(conn, "SELECT record, duplicate_of_line FROM import_errors") == [(1, 2)]


async def test_a_row_from_outside_appears_before_settling(conn):
    """A deferred record is refused if another import has stored a conflicting row meanwhile."""
    x = str(IDS[0])
    id = await queued(conn, [user(1, id=x), user(2, id=x), user(3)], sizes=[1, 1, 1])
    claims = [await claim(conn) for _ in range(3)]
    for place in (1, 0, 2):
        await perform(conn, claims[place])
    await factories.stored_user(conn, 1)
    await completion.finish(conn, id)
    await run(conn, id)
    assert await errors(conn, id) == [(1, "email", "already_exists")]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
async def test_an_error_names_the_id_that_was_sent(conn, order):
    """Of a record without an id none is told, also when it was stored, and so had got one, before it lost."""
    first = await queued(conn, [user(1), user(1, id=str(IDS[0]).upper())], sizes=[1, 1])
    await run(conn, first, order=order)
    second = await queued(conn, [user(2, id=str(IDS[1])), user(2)], sizes=[1, 1])
    await run(conn, second, order=order)
    told = await rows(conn, "SELECT record, record_id FROM import_errors ORDER BY import_id")
    assert told == [(2, str(IDS[0])), (2, None)]
