"""The limits on record errors: of one record, of one import, and of the summary."""

import msgspec
import pytest

from db import queue
from db.imports import completion, errors, records
from tests.support.factories import SETTINGS, article, chunk, ended, queued, rows, stored_user, user, users
from workers import imports
from workers.imports import ConflictMemory

FEW = msgspec.structs.replace(SETTINGS, import_errors_max=5)


async def run(conn, id, *, chunks_max: int = 1, settings=FEW):
    """Processes all chunks of an import, and its settle chunk."""
    memory = ConflictMemory()
    while claimed := await queue.claim(conn, worker="me", chunks_max=chunks_max, bytes_max=1 << 20):
        await imports.perform(conn, claimed, settings=settings, memory=memory)
        await completion.finish(conn, id, endpoints=())
    return await ended(conn, id)


async def refused(conn, id) -> list[int]:
    """The records that a client can download as failed."""
    found, seq = [], 0
    while piece := await records.next_chunk(
        conn, id, after_seq=seq, failed=True, unprocessed=False, every=False, unrepaired=False
    ):
        found += piece.numbers
        seq = piece.seq
    return found


@pytest.mark.parametrize(("sizes", "chunks_max"), [([12], 1), ([4, 4, 4], 1), ([4, 4, 4], 3)])
async def test_errors_beyond_the_limit_are_counted(conn, sizes, chunks_max):
    """An import stores errors up to the limit; further ones are counted, and their records are in the failed records."""
    id = await queued(conn, [user(1), *({"email": "no"} for _ in range(10)), user(2)], sizes=sizes)
    job = await run(conn, id, chunks_max=chunks_max)
    assert (job.created, job.failed, job.errors, job.errors_omitted) == (2, 10, 40, 35)
    assert len(await rows(conn, "SELECT FROM import_errors")) == 5
    assert await refused(conn, id) == list(range(2, 12))


async def test_the_limit_holds_for_errors_found_by_the_database(conn):
    """Records that the table refuses, and duplicates inside the file, count as those that parsing refuses."""
    await run(conn, await queued(conn, users(4)))
    id = await queued(conn, [*users(4), user(9), *(user(9) for _ in range(4))], sizes=[4, 3, 2])
    job = await run(conn, id)
    assert (job.created, job.failed, job.errors, job.errors_omitted) == (1, 8, 8, 3)
    assert await refused(conn, id) == [1, 2, 3, 4, 6, 7, 8, 9]


async def test_a_summary_lists_the_most_frequent_kinds(conn):
    """The summary is stored at the end of the import, and counts the combinations that it does not list."""
    unknown = {f"field{number}": 1 for number in range(errors.KINDS_MAX)}
    id = await queued(conn, [user(1, **unknown), user(2, role="none"), user(3, role="none")])
    settings = msgspec.structs.replace(SETTINGS, record_errors_max=200)
    await run(conn, id, settings=settings)
    [(stored, kinds)] = await rows(conn, "SELECT error_summary, error_kinds FROM import_jobs")
    assert (stored[0]["code"], stored[0]["count"], len(stored), kinds) == ("invalid_enum", 2, 100, 101)
    found = await errors.summary(conn, id)
    await conn.execute("UPDATE import_jobs SET error_summary = NULL, error_kinds = NULL")
    assert await errors.summary(conn, id) == found


# ── one record harms itself alone ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dry_run", [False, True])
async def test_only_the_row_too_large_for_an_index_is_refused(conn, dry_run):
    """An index entry has a maximum size, which PostgreSQL reports as a limit of the program, not of the data."""
    author = await stored_user(conn)
    await conn.execute("CREATE INDEX ON articles (body text_ops)")
    long = "".join(chr(0x4E00 + n * 7919 % 20000) for n in range(9000))
    articles = [article(author, 1), article(author, 2, body=long), article(author, 3)]
    job = await run(conn, await queued(conn, articles, resource="articles", dry_run=dry_run))
    # a dry run stores nothing, so that it cannot meet an index that the service does not know of
    assert (job.created, job.failed) == ((3, 0) if dry_run else (2, 1))
    if not dry_run:
        assert await rows(conn, "SELECT record, code FROM import_errors") == [(2, "constraint_violation")]


async def test_a_chunk_that_keeps_failing_is_stored_record_by_record(conn):
    """If one record makes PostgreSQL fail for any reason, the fourth attempt refuses this record and stores the others."""
    await conn.execute(
        """
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'out of luck' USING ERRCODE = 'XX000';
        END $$
        """
    )
    await conn.execute(
        "CREATE TRIGGER fail BEFORE INSERT ON users FOR EACH ROW WHEN (NEW.name = 'fail') EXECUTE FUNCTION fail()"
    )
    id = await queued(conn, [user(1), user(2, name="fail"), user(3), user(3)])
    for _ in range(3):
        claimed = await queue.claim(conn, worker="me")
        with pytest.raises(Exception, match="out of luck"):
            await imports.perform(conn, claimed, settings=SETTINGS, memory=ConflictMemory())
        await queue.give_back(conn, claimed, error="out of luck", delay_seconds=0, attempts_max=12)
    job = await run(conn, id, settings=SETTINGS)
    assert (job.created, job.failed) == (2, 2)
    assert await rows(conn, "SELECT record, code, message FROM import_errors ORDER BY record") == [
        (2, "constraint_violation", "out of luck"),
        (4, "duplicate_in_file", "line 3 has the same email"),
    ]


# ── what one claim holds ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_followers_are_counted_by_their_own_bytes(conn):
    """A claim includes several small chunks, but only one large one; the mean size of the file does not matter."""
    records = [user(n, name="x" * (200 if n in (3, 4) else 1)) for n in range(1, 7)]
    id = await queued(conn, records, sizes=[1] * 6)
    limit = 3 * 90
    taken = []
    while claimed := await queue.claim(conn, worker="me", chunks_max=3, bytes_max=limit):
        taken.append(
            [(await chunk(conn, id, seq))["seq"] for seq in range(claimed.seq, claimed.seq + len(claimed.ids))]
        )
    assert taken == [[1, 2], [3], [4], [5, 6]]
