"""The model of the queue, which tests compare with the database: jobs, chunks, workers, and what each step may do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from db.connections.pool import Connection
from db.queue import Claim

WORKERS = 3
JOBS_MAX = 3
ATTEMPTS_MAX = 3
CRASHES_MAX = 2
# No sum of time steps is within a minute of a grace or a delay, so the duration of the test itself has no effect.
STEP_SECONDS = 180
GRACE_SECONDS = 300
DELAY_SECONDS = 600
# more than any grace and any delay
LONG = 100


@dataclass
class Chunk:
    """The model of a chunk: the columns of the protocol, and times as elapsed seconds."""

    job: UUID
    seq: int
    state: str = "pending"
    lease: int = 0
    attempt: int = 0
    crashes: int = 0
    # since its claim; among equals the order of all claims decides
    age: int = 0
    claimed: int = 0
    delay: int = 0

    @property
    def is_orphan(self) -> bool:
        return self.state == "running" and self.age > GRACE_SECONDS * 2 ** max(0, self.crashes - 1)


@dataclass
class Job:
    """A job, whether it is to stop, and its final status if it has one."""

    is_cancelled: bool = False
    has_problem: bool = False
    end: str | None = None


@dataclass
class Worker:
    """A worker: its connection, its claim, valid or not, and whether its transaction is open."""

    conn: Connection
    claim: Claim | None = None
    is_open: bool = False

    async def begin(self) -> None:
        if not self.is_open:
            await self.conn.execute("BEGIN")
        self.is_open = True

    async def commit(self) -> None:
        await self.conn.execute("COMMIT")
        self.is_open = False

    async def roll_back(self) -> None:
        if self.is_open:
            await self.conn.execute("ROLLBACK")
        self.is_open = False


@dataclass
class Model:
    """The expected state of the queue."""

    workers: list[Worker]
    jobs: dict[UUID, Job] = field(default_factory=dict)
    chunks: dict[int, Chunk] = field(default_factory=dict)
    claims: int = 0

    def live(self) -> list[UUID]:
        return [id for id, job in self.jobs.items() if job.end is None]

    def idle(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.claim is None]

    def holding(self, *, is_open: bool | None = None) -> list[tuple[Worker, Claim]]:
        """The workers with a claim, valid or not. `is_open`: only those with, or without, a transaction."""
        return [(worker, worker.claim) for worker in self.workers if worker.claim and is_open in (None, worker.is_open)]

    def of(self, job: UUID, *states: str) -> list[Chunk]:
        return [chunk for chunk in self.chunks.values() if chunk.job == job and chunk.state in states]

    def is_stopped(self, job: UUID) -> bool:
        return self.jobs[job].is_cancelled or self.jobs[job].has_problem

    def valid(self, claim: Claim) -> list[Chunk]:
        """The chunks of a claim that it still holds."""
        chunks = [self.chunks[id] for id in claim.ids]
        return [chunk for chunk in chunks if chunk.state == "running" and chunk.lease == claim.lease]

    def is_valid(self, claim: Claim) -> bool:
        return len(self.valid(claim)) == len(claim.ids)

    def is_locked(self, id: int) -> bool:
        return any(worker.is_open and worker.claim and id in worker.claim.ids for worker in self.workers)

    def claimable(self) -> list[Chunk]:
        """The first chunk of each job that the next claim may select."""
        first: dict[UUID, Chunk] = {}
        for job, about in self.jobs.items():
            ready = [chunk for chunk in self.of(job, "pending") if chunk.delay == 0]
            if ready and about.end is None and not self.is_stopped(job):
                first[job] = min(ready, key=lambda chunk: chunk.seq)
        running = {job: len(self.of(job, "running")) for job in first}
        return [chunk for job, chunk in first.items() if running[job] == min(running.values())]

    def following(self, chunk: Chunk, chunks_max: int) -> list[Chunk]:
        """The chunks that are claimed together with this one: none of them was claimed before."""
        fresh = [other for other in self.of(chunk.job, "pending") if other.lease == 0 and other.seq > chunk.seq]
        return sorted(fresh, key=lambda other: other.seq)[: chunks_max - 1] if chunk.lease == 0 else []

    def orphans(self) -> list[Chunk]:
        """The chunks with the oldest abandoned claim. There is no order among chunks of one claim."""
        orphans = [chunk for id, chunk in self.chunks.items() if chunk.is_orphan and not self.is_locked(id)]
        first = min(((-chunk.age, chunk.claimed) for chunk in orphans), default=None)
        return [chunk for chunk in orphans if (-chunk.age, chunk.claimed) == first]

    def take(self, chunks: Sequence[Chunk]) -> None:
        self.claims += 1
        for chunk in chunks:
            chunk.lease += 1
            chunk.age, chunk.claimed = 0, self.claims

    def expected_end(self, id: UUID) -> str | None:
        """Applies the error budget and cancels pending chunks, as the database does; the status if the job becomes final."""
        job, pending, broken = self.jobs[id], self.of(id, "pending"), self.of(id, "failed")
        if job.end or self.of(id, "running") or (pending and not self.is_stopped(id)):
            return None
        job.has_problem = job.has_problem or bool(broken and not pending)
        for chunk in pending:
            chunk.state = "cancelled"
        if broken and not job.has_problem:
            # the next call applies the budget, since the pending chunks have become final only in this one
            return None
        return "cancelled" if job.is_cancelled else "failed" if job.has_problem else "completed"
