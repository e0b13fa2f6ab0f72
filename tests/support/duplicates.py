"""Files with duplicates, for tests: random cases, and their result by a definition that is independent of chunks."""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

from tests.support import factories
from tests.support.factories import queued, rows, user

EXAMPLES = int(os.environ.get("SETTLE_EXAMPLES", "100"))
IDS = [UUID(int=n) for n in range(1, 6)]
EMAILS = [f"{letter}@example.com" for letter in "uvwxyz"]
MODES = ["insert", "skip", "upsert", "update"]


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
    refused = {n: list(_conflicts(r, targets[n], stored, holders, mode)) for n, r in sent.items()}
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


def _conflicts(
    record: Sent, target: Any, stored: Any, holders: dict[str, UUID], mode: str
) -> Iterator[tuple[str, str]]:
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
    """Stores the rows of the case in the emptied tables and queues its file."""
    # deleting a few rows is faster than TRUNCATE
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
