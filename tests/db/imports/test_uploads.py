"""The transactions of an upload are repeated after a lost connection, whether the first try was committed or not."""

import asyncio

import pytest
from uuid_utils.compat import uuid7

from db.connections.pool import Connection
from db.imports import uploads
from db.imports.payload import Chunk
from tests.support.eventually import in_time
from tests.support.factories import blocked, import_spec, rows

ID = uuid7()
KEY = "key"
FIRST = [Chunk(1, 1, 1, b"{}\n")]
NEXT = [Chunk(2, 2, 1, b"{}\n"), Chunk(3, 3, 1, b"{}\n")]
STEPS = ["begin", "append", "seal"]


async def perform(conn: Connection, step: str, *, is_repeat: bool) -> object:
    async with conn.transaction():
        if step == "begin":
            return await uploads.begin_once(conn, ID, token=KEY)
        if step == "append":
            return await uploads.append(conn, ID, NEXT, first_seq=2, is_repeat=is_repeat)
        return await uploads.seal(conn, ID, sealed(), endpoints=())


def sealed(digest: bytes = b"digest") -> uploads.ImportSpec:
    return import_spec(b"{}\n" * 3, total_records=3, total_chunks=3, idempotency_token=KEY, digest=digest)


async def prepare(conn: Connection, step: str) -> None:
    """The upload as it is before this step: its first chunk is stored before the append of the others."""
    if step != "begin":
        await perform(conn, "begin", is_repeat=False)
        async with conn.transaction():
            await uploads.append(conn, ID, FIRST, first_seq=1, is_repeat=False)
    if step == "seal":
        await perform(conn, "append", is_repeat=False)


async def stored(conn: Connection) -> list:
    """The job, and its chunks with their payloads."""
    return await rows(
        conn,
        """
        SELECT job.id, status, seq, chunks.first_record, data
        FROM import_jobs AS job
        LEFT JOIN chunks ON chunks.job_id = job.id
        LEFT JOIN import_payloads AS payload ON payload.import_id = job.id AND payload.first_record = chunks.first_record
        ORDER BY seq
        """,
    )


@pytest.mark.parametrize("step", STEPS)
async def test_a_repeat_changes_nothing(conn, step):
    """If the first try was committed, what is stored is the same after the repeat."""
    await prepare(conn, step)
    await perform(conn, step, is_repeat=False)
    before = await stored(conn)
    assert await perform(conn, step, is_repeat=True) in (step == "begin", None)
    assert await stored(conn) == before


@pytest.mark.parametrize("step", STEPS)
async def test_a_repeat_waits_for_a_first_try_that_is_still_being_committed(conn, other, step):
    """The server may still be executing the COMMIT of a client that has lost its connection."""
    await prepare(conn, step)
    async with conn.transaction():
        await perform(conn, step, is_repeat=False)
        before = await stored(conn)
        repeating = asyncio.create_task(perform(other, step, is_repeat=True))
        await blocked(other, by=conn)
    await in_time(repeating)
    assert await stored(conn) == before


async def test_what_others_have_stored_is_not_taken_for_its_own(conn):
    """Another upload does not get the token, and the seal of a job with another digest, or of one that is gone, fails."""
    await prepare(conn, "seal")
    assert not await uploads.begin_once(conn, uuid7(), token=KEY)
    await perform(conn, "seal", is_repeat=False)
    with pytest.raises(uploads.Gone):
        await uploads.seal(conn, ID, sealed(b"other"), endpoints=())
    with pytest.raises(uploads.Gone):
        await uploads.seal(conn, uuid7(), sealed(), endpoints=())
    upload = uuid7()
    await uploads.begin_once(conn, upload, token=None)
    with pytest.raises(uploads.TokenTaken):
        await uploads.seal(conn, upload, sealed(), endpoints=())
