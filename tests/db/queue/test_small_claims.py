"""Claims of several small imports at once: which imports they have, and what becomes of the claim of a dead worker."""

from uuid import UUID

import pytest

from db import queue
from db.connections.pool import Connection
from tests.support.claims import GRACE_SECONDS, give_back, pass_time, queued_singles, reclaimed
from tests.support.eventually import in_time
from tests.support.factories import chunk, queued, rows, users

COUNT = 5
TOGETHER = 16


async def together(conn: Connection, **limits: int) -> queue.Claim:
    """A claim of small imports. Fails if there is none."""
    claimed = await queue.claim(conn, worker="me", **{"imports_max": TOGETHER, **limits})
    assert claimed is not None
    return claimed


def jobs_of(claimed: queue.Claim) -> set[UUID]:
    return {claimed.job_id, *(companion.job_id for companion in claimed.companions)}


async def test_a_claim_has_the_other_small_imports_of_the_resource(conn, other):
    """Each of them is running with the same lease, and not claimed again."""
    ids = await queued_singles(conn, COUNT)
    claimed = await together(conn)
    assert claimed.is_small
    assert jobs_of(claimed) == {*ids}
    assert {companion.lease for companion in claimed.companions} == {claimed.lease} == {1}
    assert {(await chunk(conn, id))["state"] for id in ids} == {"running"}
    assert await rows(conn, "SELECT DISTINCT status FROM import_jobs") == [("processing",)]
    assert await queue.claim(other, worker="late", imports_max=TOGETHER) is None


async def test_a_claim_has_at_most_so_many(conn):
    await queued_singles(conn, COUNT)
    claimed = await together(conn, imports_max=3)
    assert len(jobs_of(claimed)) == 3
    assert not claimed.is_only
    rest = await together(conn, imports_max=3)
    assert len(jobs_of(rest)) == COUNT - 3
    assert rest.is_only


@pytest.mark.parametrize(
    "parameters",
    [
        {"dry_run": True},
        {"undoable": True},
        {"mode": "update"},
        {"on_error": "stop"},
        {"max_errors": 1},
        {"max_error_rate": 0.5},
        {"file_bytes": queue.SMALL_BYTES + 1},
    ],
    ids=str,
)
async def test_other_imports_are_claimed_alone(conn, parameters):
    await queued_singles(conn, 2, **parameters)
    claimed = await together(conn)
    assert (claimed.is_small, claimed.companions) == (False, [])


async def test_an_import_of_several_chunks_is_claimed_alone(conn):
    for first in (1, 3):
        await queued(conn, users(2, first=first), sizes=[1, 1])
    claimed = await together(conn)
    assert (claimed.is_small, claimed.companions) == (False, [])


async def test_imports_of_another_resource_are_not_companions(conn):
    ids = await queued_singles(conn, 2)
    await queued_singles(conn, 2, resource="articles")
    claims = [await together(conn), await together(conn)]
    assert {claimed.resource for claimed in claims} == {"users", "articles"}
    assert [claimed.is_only for claimed in claims] == [False, True]
    assert {*ids} in map(jobs_of, claims)


async def test_a_chunk_that_was_claimed_before_is_claimed_alone(conn):
    """It may be the reason why its worker died."""
    ids = await queued_singles(conn, 3)
    await give_back(conn, await together(conn), error=None)
    assert [len(jobs_of(await together(conn))) for _ in ids] == [1, 1, 1]


async def test_two_claims_at_once_share_the_imports(conn, other):
    """Without waiting for each other."""
    ids = await queued_singles(conn, COUNT)
    async with conn.transaction():
        first = await together(conn, imports_max=2)
        second = await in_time(together(other))
    assert len(jobs_of(first)) == 2
    assert jobs_of(first) | jobs_of(second) == {*ids}
    assert not jobs_of(first) & jobs_of(second)


async def test_a_companion_of_a_dead_worker_is_reclaimed_by_itself(conn):
    ids = await queued_singles(conn, 2)
    await together(conn)
    await pass_time(conn, GRACE_SECONDS)
    taken = [await reclaimed(conn) for _ in ids]
    assert {claimed.job_id for claimed in taken} == {*ids}
    assert [(claimed.crashes, claimed.companions) for claimed in taken] == [(1, []), (1, [])]
