"""What a claim is, and the counts that it ends with."""

from collections import Counter
from typing import Literal
from uuid import UUID

import msgspec

State = Literal["pending", "running", "done", "failed", "cancelled"]


# the largest file of a small import
SMALL_BYTES = 32 * 1024


class ClaimLost(Exception):
    """The lease is no longer valid: another worker has the chunk, or it is final. The transaction must be rolled back."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's right to a chunk, and to the chunks that are done in the same transaction.

    `state` is running, or failed when a reclaim found that the chunk has used up its attempts or crashes.
    """

    id: int
    kind: Literal["records", "settle", "export"]
    job_id: UUID
    seq: int
    lease: int
    attempt: int
    crashes: int
    state: State
    # of the job: its resource, and the request that created it, for logs and spans
    resource: str
    request_id: str | None
    traceparent: str | None
    # the span of the first attempt at this chunk; the worker's own if this is the first that is recorded
    first_span_id: str | None
    # of a reclaim: whether the worker has died. Otherwise PostgreSQL was restarted or replaced since the claim
    is_crash: bool = False
    # ids of the following chunks of the same import, claimed with the same lease, in order of seq
    followers: list[int] = []
    # of a claim of an import, but no reclaim: the time since its file was received
    waited_seconds: float = 0.0
    # the chunk is a whole small import that was never claimed before, see `claim`
    is_small: bool = False
    # of a small import: no other job had a chunk to claim
    is_only: bool = False
    # those of other small imports of the same resource, claimed with the same lease
    companions: list["Claim"] = []

    @property
    def ids(self) -> list[int]:
        return [self.id, *self.followers]

    @property
    def companion_ids(self) -> list[int]:
        return [companion.id for companion in self.companions]


class Counts(msgspec.Struct, kw_only=True):
    """The results of a chunk's records, and its record errors by code. A settle chunk's are corrections, perhaps negative."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    deferred: int = 0
    # of the errors, those that are not stored
    errors_omitted: int = 0
    codes: Counter[str] = msgspec.field(default_factory=Counter)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})
