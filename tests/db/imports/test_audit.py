"""The audit finds no violation after what the service does, and finds each manipulation of the counters."""

import subprocess
import sys

import pytest

from db import audit
from tests.support import ROOT
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.factories import article, claim, perform, queued, run, stored_user, user, users

FAULTY = [user(1), user(2, role="boss", email="?"), user(1), user(3), user(4)]


def facts(found):
    return {(one.fact, one.book, one.counted) for one in found}


@pytest.mark.parametrize("mode", ["insert", "skip", "upsert", "update"])
async def test_what_the_service_does_balances(conn, mode):
    """Imports balance in every mode, with refused records, duplicates within a file and across chunks, and stored rows."""
    for number in (3, 4):
        await stored_user(conn, number)
    author = await stored_user(conn, 9)
    await run(conn, await queued(conn, FAULTY, sizes=[2, 2, 1], mode=mode))
    await run(conn, await queued(conn, [article(author), article(author)], resource="articles", mode=mode))
    await run(conn, await queued(conn, [], sizes=[], mode=mode))
    assert await audit.violations(conn, strict=True) == []
    assert await audit.checked(conn, retention_seconds=60) == 3


async def test_a_dry_run_balances_without_rows(conn):
    """A dry run balances if no row of it is stored."""
    id = await queued(conn, FAULTY, sizes=[2, 2, 1], dry_run=True)
    assert (await run(conn, id)).created == 3
    assert await audit.violations(conn, strict=True) == []
    stored = await stored_user(conn)
    await conn.execute(
        "UPDATE users SET import_id = %(job)s, import_record = 4, import_action = 'created' WHERE id = %(id)s",
        {"job": id, "id": stored},
    )
    assert facts(await audit.violations(conn)) == {("rows created", 0, 1)}


async def test_live_imports_are_left_alone(conn):
    """Imports that are not final are not checked."""
    await queued(conn, users(4), sizes=[2, 2])
    await perform(conn, await claim(conn))
    assert await audit.violations(conn, strict=True) == []


# (what is done to the import, the violations that are reported: what should be and what is)
DAMAGE = [
    ("UPDATE import_jobs SET created = created + 1",
     {("created, by chunks", 4, 3), ("unprocessed records", -1, 0),
      ("unprocessed records of a completed import", 0, -1)}),
    ("UPDATE import_jobs SET skipped = 1, created = created - 1",
     {("created, by chunks", 2, 3), ("skipped, by chunks", 1, 0), ("rows created", 2, 3)}),
    ("UPDATE import_jobs SET errors = 9", {("errors", 9, 3), ("errors, by chunks", 9, 3)}),
    ("DELETE FROM import_errors WHERE record = 3", {("errors", 3, 2), ("records with errors", 2, 1)}),
    ("UPDATE import_errors SET record = 4 WHERE record = 3", {("records with a row and an error", 0, 1)}),
    ("UPDATE import_errors SET record = 6 WHERE record = 3",
     {("errors of records outside of the file", 0, 1)}),
    ("UPDATE users SET import_record = 6 WHERE import_record = 4",
     {("rows of records outside of the file", 0, 1)}),
    ("UPDATE users SET import_record = 5 WHERE import_record = 4", {("records with several rows", 0, 1)}),
    ("UPDATE users SET import_action = 'updated' WHERE import_record = 4", {("rows updated", 0, 1)}),
    ("INSERT INTO import_deferred SELECT id, 4, 4, NULL, NULL, '{}' FROM import_jobs",
     {("undecided records of a settled import", 0, 1), ("unprocessed records", 0, 1)}),
    ("UPDATE chunks SET first_record = 4 WHERE seq = 2",
     {("gaps between chunks", 0, 2)}),
    ("DELETE FROM chunks WHERE seq = 3",
     {("chunks", 3, 2), ("records of chunks", 5, 4), ("created, by chunks", 3, 2)}),
    ("UPDATE chunks SET state = 'pending', finished_at = NULL WHERE seq = 3",
     {("chunks of a final import that are not final", 0, 1), ("unprocessed records", 0, 1)}),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "expected"), DAMAGE, ids=lambda value: value if isinstance(value, str) else "")
async def test_damage_is_reported(conn, damage, expected):
    """Each fact is checked: a manipulated number is reported, and nothing else is."""
    other = await queued(conn, users(2, first=20))
    await run(conn, other)
    id = await queued(conn, FAULTY, sizes=[2, 2, 1])
    # in this order nothing is left for a settle chunk to correct
    await run(conn, id, order=[0, 1, 2])
    await conn.execute("DELETE FROM import_jobs WHERE id = %(id)s", {"id": other})
    assert await audit.violations(conn, strict=True) == []
    await conn.execute(damage)
    assert facts(await audit.violations(conn)) == expected
    assert await audit.violations(conn, import_id=other) == []


async def test_rows_that_were_changed_since(conn):
    """A row that was deleted or changed by another import later is a violation only in strict mode."""
    id = await queued(conn, users(3))
    await run(conn, id)
    await conn.execute("DELETE FROM users WHERE import_record = 2")
    assert await audit.violations(conn) == []
    assert facts(await audit.violations(conn, strict=True)) == {("rows created", 3, 2)}


async def test_the_command(conn, database_url):
    """The command prints the number of balanced imports and exits with 0, or the violations with examples and exits with 1."""

    def command():
        return subprocess.run(
            [sys.executable, "-m", "db.audit"],
            cwd=ROOT,
            env={"DATABASE_URL": database_url},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    ids = []
    for number in range(5):
        ids.append(await queued(conn, users(2, first=2 * number)))
        await run(conn, ids[-1])
    done = command()
    assert (done.returncode, done.stdout) == (0, "no errors: 5 imports checked\n"), done.stderr
    await conn.execute("UPDATE import_jobs SET errors = 1")
    await conn.execute("DELETE FROM chunks WHERE job_id = %(id)s", {"id": ids[0]})
    done = command()
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert f"chunks: 1 imports, {ids[0]} has 0, should have 1" in lines
    assert lines[-1].startswith("records of chunks: 1 imports, ")
    examples = "; ".join(f"{id} has 0, should have 1" for id in ids[:3])
    assert f"errors: 5 imports, {examples}; …" in lines
