"""The files that are imported, and the expected outcome of each of their records."""

from dataclasses import dataclass
from typing import Self

from tests.support import make_data
from tests.support.make_data import Made

CSV, NDJSON = "text/csv", "application/x-ndjson"
FAULT_RATE = 0.03
NAME = 2  # the index of a user's name in a row


@dataclass(frozen=True, slots=True)
class File:
    """`expected` are the counts that are not zero. `base` must have been imported before."""

    kind: str
    resource: str
    data: bytes
    records: int
    expected: dict[str, int]
    mode: str = "insert"
    type: str = CSV
    base: Self | None = None


@dataclass(frozen=True, slots=True)
class World:
    """The ids of rows that existed before: parents for comments."""

    users: list[str]
    articles: list[str]


def clean(records: int, seed: int) -> File:
    return File("clean", "users", _users(records, seed).data, records, {"created": records})


def faulty(records: int, seed: int) -> File:
    made = _users(records, seed, fault_rate=FAULT_RATE)
    return File("faulty", "users", made.data, records, _counts(made))


def duplicates(records: int, seed: int) -> File:
    """Every tenth record is repeated at the end of the file, in another chunk."""
    again = records // 11
    made = _users(records - again, seed)
    lines = made.data.splitlines(keepends=True)[1:]
    data = made.data + b"".join(lines[:: len(lines) // again][:again])
    return File("duplicates", "users", data, records, {"created": records - again, "failed": again})


def upsert(records: int, seed: int) -> File:
    """Half of the users exist already, and half of these have another name."""
    header, *lines = _users(records, seed).data.splitlines(keepends=True)
    there = len(lines) // 2
    base = File("base", "users", header + b"".join(lines[:there]), there, {"created": there})
    renamed = [_renamed(line) if number % 2 else line for number, line in enumerate(lines[:there])]
    expected = {"updated": there // 2, "unchanged": there - there // 2, "created": records - there}
    data = header + b"".join(renamed + lines[there:])
    return File("upsert", "users", data, records, expected, mode="upsert", base=base)


def comments(records: int, seed: int, world: World) -> File:
    made = make_data.comments(records, articles=world.articles, users=world.users, seed=seed, fault_rate=FAULT_RATE)
    return File("comments", "comments", made.data, records, _counts(made), type=NDJSON)


def poisoned(records: int, seed: int, *, name: str) -> File:
    """A clean file with one user of this name in the middle; only the suite's trigger reacts to the name."""
    header, *lines = _users(records, seed).data.splitlines(keepends=True)
    lines[records // 2] = _renamed(lines[records // 2], name)
    return File("poisoned", "users", header + b"".join(lines), records, {})


def _users(records: int, seed: int, *, fault_rate: float = 0.0) -> Made:
    """Users whose addresses no other seed has."""
    made = make_data.users(records, seed=seed, fault_rate=fault_rate)
    data = made.data.replace(b"@example.org", b"@of%d.example.org" % seed)
    # the upper case of a planted duplicate
    return Made(data.replace(b"@EXAMPLE.ORG", b"@OF%d.EXAMPLE.ORG" % seed), records, made.faults, made.ids)


def _counts(made: Made) -> dict[str, int]:
    refused = made.faults.total()
    return {"created": made.records - refused, "failed": refused}


def _renamed(line: bytes, name: str = "Another Name") -> bytes:
    cells = line.split(b",")
    cells[NAME] = name.encode()
    return b",".join(cells)
