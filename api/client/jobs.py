"""The representation of a job in the API."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

FINAL = frozenset({"completed", "failed", "cancelled", "expired"})

Kind = Literal["import", "export"]


@dataclass(frozen=True)
class Job:
    """An import or an export at the time of the response; `data` is the JSON of the response.

    `is_replayed`: the request was a repetition, and the response has the job of the first one.
    """

    data: dict[str, Any]
    is_replayed: bool = False

    @classmethod
    def from_response(cls, data: dict[str, Any], headers: Mapping[str, str]) -> Self:
        """The job of the response to a request that creates or changes one."""
        return cls(data, is_replayed="idempotent-replayed" in headers)

    @property
    def id(self) -> str:
        return self.data["id"]

    @property
    def kind(self) -> Kind:
        return self.data["kind"]

    @property
    def path(self) -> str:
        """The path of the job."""
        return self.data["links"]["self"]

    @property
    def resource(self) -> str:
        return self.data["resource"]

    @property
    def status(self) -> str:
        return self.data["status"]

    @property
    def outcome(self) -> str | None:
        """Of a completed import: `success`, `partial` or `rejected`."""
        return self.data.get("outcome")

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def counts(self) -> dict[str, int]:
        """Of an import: its records by outcome; they add up to `total_records`."""
        return self.data.get("counts") or {}

    @property
    def failed(self) -> int:
        """The number of records that an import refused."""
        return self.counts.get("failed", 0)

    @property
    def total_records(self) -> int | None:
        return self.data.get("total_records")

    @property
    def file(self) -> dict[str, Any]:
        return self.data.get("file") or {}

    @property
    def problem(self) -> dict[str, Any] | None:
        """Why the job failed."""
        return self.data.get("problem")


@dataclass(frozen=True)
class Event:
    """A server-sent event of a job: `progress`, or `done` with the final job."""

    name: str
    job: Job
