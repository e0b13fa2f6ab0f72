"""The files that are imported: generated once a run for all benchmarks that use them, written block by block."""

import csv
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from db.formats import COMPRESSION_BY_EXTENSION, Compression
from tests.bench.environment import Environment
from tests.support import make_data
from tests.support.make_data import Fault, Made

FAULT_RATE = 0.025
BLOCK_BYTES = 256 * 1024


@dataclass(frozen=True, eq=False)
class File:
    """`faults` are those planted in it, `ids` those of its records that other files may refer to."""

    path: Path
    resource: str
    records: int
    faults: Counter[Fault]
    ids: list[str]

    @property
    def format(self) -> str:
        path = self.path if self.compression == "none" else self.path.with_suffix("")
        return path.suffix.removeprefix(".")

    @property
    def compression(self) -> Compression:
        return COMPRESSION_BY_EXTENSION.get(self.path.suffix.removeprefix("."), "none")

    @property
    def megabytes(self) -> float:
        return self.path.stat().st_size / 1e6

    async def blocks(self) -> AsyncIterator[bytes]:
        with self.path.open("rb") as file:  # it was just written, so it is read from the page cache
            while block := file.read(BLOCK_BYTES):
                yield block


@cache
def users(env: Environment, records: int, *, fault_rate: float = 0.0, without: tuple[Fault, ...] = ()) -> File:
    """As CSV. The clean and the dirty file of one size have no users in common."""
    path = _path(env, f"users-{records}-{fault_rate}-{len(without)}.csv")
    seed = 2 if fault_rate else 1
    with path.open("wb") as to:
        made = make_data.users(records, seed=seed, fault_rate=fault_rate, without=without, to=to)
    return _file(path, "users", made)


@cache
def articles(env: Environment, records: int, *, fault_rate: float = 0.0) -> File:
    """Articles by users of the file of `env.size.records` users; as CSV that COPY accepts too, with faults as NDJSON."""
    format = "ndjson" if fault_rate else "csv"
    path = _path(env, f"articles-{records}-{fault_rate}.{format}")
    authors = users(env, env.size.records).ids
    seed = 2 if fault_rate else 1
    with path.open("wb") as to:
        made = make_data.articles(records, authors=authors, seed=seed, fault_rate=fault_rate, format=format, to=to)
    return _file(path, "articles", made)


@cache
def comments(env: Environment, records: int, *, fault_rate: float = 0.0) -> File:
    """Comments on articles of the clean file of `records` articles; as CSV, with faults as NDJSON."""
    format = "ndjson" if fault_rate else "csv"
    path = _path(env, f"comments-{records}-{fault_rate}.{format}")
    parents = {"users": users(env, env.size.records).ids, "articles": articles(env, records).ids}
    seed = 2 if fault_rate else 1
    with path.open("wb") as to:
        made = make_data.comments(records, **parents, seed=seed, fault_rate=fault_rate, format=format, to=to)
    return _file(path, "comments", made)


@cache
def as_ndjson(file: File) -> File:
    """The same text records as NDJSON."""
    path = file.path.with_suffix(".ndjson")
    with file.path.open(newline="", encoding="utf-8") as rows, path.open("w", encoding="utf-8") as to:
        for row in csv.DictReader(rows):
            record = {name: cell or None for name, cell in row.items()}
            to.write(json.dumps(record, ensure_ascii=False) + "\n")
    return replace(file, path=path)


def _path(env: Environment, name: str) -> Path:
    folder = env.folder / "files"
    folder.mkdir(exist_ok=True)
    return folder / name


def _file(path: Path, resource: str, made: Made) -> File:
    return File(path, resource, made.records, made.faults, made.ids)
