"""The time until a chunk that was interrupted by a fault is done."""

from collections.abc import Iterable, Sequence
from statistics import fmean

import msgspec
from psycopg import AsyncConnection
from psycopg.rows import DictRow

# the limit for an interrupted chunk, also if its next worker is interrupted too
SECONDS_MAX = 10.0
# the grace of a first and a second crash; it doubles from then on, so that a chunk that kills its workers kills few of them
GRACE_SECONDS = 5.0
# a commit that was being sent during the fault may still arrive
COMMIT_SECONDS = 1.0


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that a worker was processing when the fault `what` occurred. `at`: seconds since the epoch; None: any chunk."""

    what: str
    at: float
    chunk: int | None
    lease: int = 0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """`taken_over`: seconds until the last claim of the chunk. `crashes`: its final number of crashes."""

    what: str
    seconds: float
    kind: str | None = None
    taken_over: float | None = None
    attempt: int = 0
    crashes: int = 0

    @property
    def seconds_max(self) -> float:
        """Higher than the usual limit only for a chunk on which two workers have died before."""
        return SECONDS_MAX + GRACE_SECONDS * (2 ** max(0, self.crashes - 2) - 1)


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    count: int
    mean: float
    p95: float
    max: float


class Recoveries:
    """Collects hits. Their recovery is read from the queue at the end."""

    def __init__(self) -> None:
        self.hits: list[Hit] = []

    def chunks(self, what: str, at: float, held: Iterable[DictRow]) -> None:
        """`held`: rows of the interrupted chunks, with their `id` and `lease`."""
        self.hits += [Hit(what=what, at=at, chunk=row["id"], lease=row["lease"]) for row in held]

    def next_chunk(self, what: str, at: float) -> None:
        """Recovery is timed until any chunk is done."""
        self.hits.append(Hit(what=what, at=at, chunk=None))

    async def samples(self, conn: AsyncConnection[DictRow]) -> list[Sample]:
        """Recoveries of the hits that had an effect. For a chunk that was hit several times only the last hit counts."""
        cursor = await conn.execute(
            """
            SELECT id, kind, lease, attempt, crashes, state,
                extract(epoch FROM claimed_at)::float8 AS claimed_at,
                extract(epoch FROM finished_at)::float8 AS finished_at
            FROM chunks
            WHERE finished_at IS NOT NULL
            """
        )
        rows = await cursor.fetchall()
        chunks = {row["id"]: row for row in rows if row["state"] == "done"}
        last = {hit.chunk: hit for hit in self.hits if hit.chunk in chunks and _had_effect(hit, chunks[hit.chunk])}
        samples = [_sample(hit, chunks[hit.chunk]) for hit in last.values()]
        ends = sorted(row["finished_at"] for row in chunks.values())
        for hit in self.hits:
            after = [end for end in ends if hit.chunk is None and end > hit.at][:1]
            samples += [Sample(what=hit.what, seconds=end - hit.at) for end in after]
        return samples


def _had_effect(hit: Hit, chunk: DictRow) -> bool:
    """Whether the hit had an effect. If the worker had just committed, the lease is unchanged and the chunk is done at once."""
    return chunk["lease"] > hit.lease or chunk["finished_at"] > hit.at + COMMIT_SECONDS


def _sample(hit: Hit, chunk: DictRow) -> Sample:
    return Sample(
        what=hit.what,
        seconds=chunk["finished_at"] - hit.at,
        kind=chunk["kind"],
        taken_over=chunk["claimed_at"] - hit.at,
        attempt=chunk["attempt"],
        crashes=chunk["crashes"],
    )


def spreads(samples: Sequence[Sample]) -> list[Spread]:
    """One summary for each kind, and one for all."""
    kinds = sorted({sample.what for sample in samples})
    found = [_spread(kind, [sample.seconds for sample in samples if sample.what == kind]) for kind in kinds]
    return [*found, _spread("all", [sample.seconds for sample in samples])] if samples else []


def _spread(what: str, seconds: list[float]) -> Spread:
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Spread(what=what, count=len(ordered), mean=fmean(ordered), p95=p95, max=ordered[-1])
