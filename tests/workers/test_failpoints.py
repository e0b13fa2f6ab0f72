"""A worker crashes, fails, stops or loses its connection at each failpoint: every record counts once, with known attempts."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from psycopg import AsyncConnection

from db.connections import pool
from db.imports import jobs
from db.queue.failpoints import Point
from db.settings import Settings
from tests.support.eventually import eventually
from tests.support.factories import chunk, ended, queued, user, users
from tests.support.fault_proxy import fault_proxy
from tests.support.service import Process
from workers.worker import Worker

CHUNKS = 4
SETTLE = CHUNKS + 1


class Place(NamedTuple):
    """Where it happens: at a point, in the work on a chunk. One worker alone takes the chunks in their order.

    `together`: so many chunks are claimed at once, the first of which is `seq`.
    """

    point: Point
    seq: int
    together: int = 1

    @property
    def seqs(self) -> range:
        return range(self.seq, self.seq + self.together)


PLACES = [
    Place("after_claim", 1),
    Place("after_fence", SETTLE),
    # the second and the fourth chunk are stored straight and staged
    Place("mid_merge", 2),
    Place("mid_merge", CHUNKS),
    Place("before_commit", 1),
    Place("before_commit", SETTLE),
    Place("after_commit", CHUNKS),
    Place("before_finish", SETTLE),
    Place("after_claim", 1, together=3),
    Place("mid_merge", 1, together=3),
    Place("before_commit", 1, together=3),
    Place("after_commit", 1, together=3),
]
# each case runs two workers
CASES_AT_ONCE = 4

COMMITTED = {"after_commit", "before_finish"}


def price(kind: str, point: Point) -> tuple[str, int, int]:
    """State, attempts and crashes of the chunk in the end, and of those that were claimed with it.

    Before the commit it is done twice. A worker that lives on gives it back, which is no crash. Outside of the work on a chunk,
    where it could be given back, an exception that is not the database's ends the worker.
    """
    if point in COMMITTED:
        return ("done", 1, 0)
    lives_on = kind == "drop" or (kind == "raise" and point != "after_claim")
    return ("done", 2, 0 if lives_on else 1)


@pytest.mark.parametrize("kind", ["exit", "raise", "stop", "drop"])
async def test_a_worker_fails_at_a_failpoint(kind, new_database, tmp_path):
    """Wherever a worker crashes, fails, is suspended or disconnected, the import has the same result as without the fault."""
    few = asyncio.Semaphore(CASES_AT_ONCE)

    async def one(place: Place) -> None:
        async with few:
            await survived(new_case(kind, place, new_database(), tmp_path))

    async with asyncio.TaskGroup() as group:
        for place in PLACES:
            group.create_task(one(place))


async def test_a_commit_whose_reply_is_lost(new_database, tmp_path):
    """A worker that gets no reply to its COMMIT does not repeat the work."""
    url = new_database()
    async with fault_proxy(url) as proxy:
        case = new_case("wait", Place("before_commit", 1), proxy.url, tmp_path)
        async with connected(url) as conn:
            id = await queued_with_rivals(conn)
            async with faulty_pool(case) as process:
                await eventually(case.file.exists)
                proxy.swallow_answers()
                case.file.unlink()
                await eventually(lambda: is_done(conn, id, seq=1))
                proxy.drop()
                await check(conn, id, case.place, expected=("done", 1, 0))
                assert "connection lost" in process.output
                assert "database is reachable again" in process.output


# ── one case ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Case:
    """A pool of one worker with one fault, on a database of its own."""

    kind: str
    place: Place
    url: str
    folder: Path

    @property
    def file(self) -> Path:
        """There as soon as it has happened; the pid of the worker is in it."""
        return self.folder / "happened"


def new_case(kind: str, place: Place, url: str, folder: Path) -> Case:
    case = Case(kind, place, url, folder / f"{kind}-{place.point}-{place.seq}-{place.together}")
    case.folder.mkdir()
    return case


def settings(url: str) -> dict[str, Any]:
    """The grace is longer than any case. A case that needs its end moves the time, see `age`."""
    return {"database_url": url, "claim_grace_seconds": 600, "poll_seconds": 0.2, "upkeep_seconds": 0.5}


async def survived(case: Case) -> None:
    async with connected(case.url) as conn:
        id = await queued_with_rivals(conn)
        async with faulty_pool(case) as process:
            await eventually(case.file.exists)
            async with healthy_worker(case.url):
                if price(case.kind, case.place.point)[2]:
                    await age(conn, id, case.place)
                await check(conn, id, case.place, expected=price(case.kind, case.place.point))
                if case.kind == "stop":
                    os.kill(int(case.file.read_text()), signal.SIGCONT)
                    await eventually(lambda: has_come_to(case, process))
            # what the worker did after it was back
            await check(conn, id, case.place, expected=price(case.kind, case.place.point))


def has_come_to(case: Case, process: Process) -> bool:
    """Whether a suspended worker has continued and handled what happened meanwhile."""
    if case.place.point in COMMITTED:
        return True
    return ("claim lost" if case.place.point == "after_claim" else "database is reachable again") in process.output


async def queued_with_rivals(conn: pool.Connection) -> UUID:
    """An import of 20 records in four chunks: two are bad, and the last but one repeats the third, so that settle is needed."""
    records = [*users(18), user(3), user(20)]
    records[1]["email"] = "none"
    records[12]["role"] = "nobody"
    return await queued(conn, records, sizes=[5] * CHUNKS)


async def check(conn: pool.Connection, id: UUID, place: Place, *, expected: tuple[str, int, int]) -> None:
    """The import is completed with balanced counters, and state, attempts and crashes are as expected."""
    await eventually(lambda: is_final(conn, id))
    job = await ended(conn, id)
    assert (job.status, job.created, job.failed, job.total_records) == ("completed", 17, 3, 20)
    for number in range(1, SETTLE + 1):
        row = await chunk(conn, id, number)
        wanted = expected if number in place.seqs else ("done", 1, 0)
        assert (row["state"], row["attempt"], row["crashes"]) == wanted, number


async def is_final(conn: pool.Connection, id: UUID) -> bool:
    job = await jobs.get(conn, id)
    return job is not None and job.finished_at is not None


async def is_done(conn: pool.Connection, id: UUID, *, seq: int) -> bool:
    return (await chunk(conn, id, seq))["state"] == "done"


async def age(conn: pool.Connection, id: UUID, place: Place) -> None:
    """Ends the grace period of a claim, after the server has released the locks of the chunks' rows."""
    await conn.execute(
        """
        UPDATE chunks
        SET claimed_at = claimed_at - interval '1 hour'
        WHERE job_id = %(id)s AND seq = ANY(%(seqs)s) AND state = 'running' AND lease = 1
        """,
        {"id": id, "seqs": list(place.seqs)},
    )


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[pool.Connection]:
    async with await AsyncConnection.connect(url, autocommit=True) as conn:
        await pool.configure(conn)
        yield conn


@asynccontextmanager
async def faulty_pool(case: Case) -> AsyncIterator[Process]:
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    given = settings(case.url) | {
        "worker_pool_size": 1,
        "claim_chunks_max": case.place.together,
        "data_dir": case.folder,
        "log_format": "json",
        "fault_point": case.place.point,
        # each point is reached once a claim
        "fault_number": case.place.seq,
        "fault_kind": case.kind,
        "fault_file": case.file,
    }
    environment |= {name.upper(): str(value) for name, value in given.items()}
    process = Process("tests.support.crashing_worker", environment, case.folder / "log")
    try:
        yield process
    except AssertionError as error:
        error.add_note(f"{case.kind} {case.place.point} in chunk {case.place.seq}:\n{process.output}")
        raise
    finally:
        await process.stop()


@asynccontextmanager
async def healthy_worker(url: str) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    running = asyncio.create_task(Worker(Settings(**settings(url)), name="h:1:1", stopping=stopping).run())
    yield
    stopping.set()
    await running
