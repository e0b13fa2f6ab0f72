"""Peak memory of ten workers and of the API while they import the worst known files, one after the other."""

import gzip
import json
from collections.abc import Callable, Iterator
from itertools import islice, product
from string import ascii_lowercase
from typing import NamedTuple

from db import audit
from tests.bench import file_size, memory, timed_import
from tests.bench.environment import Environment
from tests.bench.report import Figure, at_most
from tests.support import api_client
from tests.support.api_client import Api

WORKERS = 10
TARGETS_MB = {"the API": 200, "a worker": 300}
BLOCK_BYTES = 1 << 20


class Case(NamedTuple):
    """A file: its name, the lines that it repeats, and the parameters of its import."""

    name: str
    lines: Callable[[], Iterator[bytes]]
    format: str = "ndjson"
    is_packed: bool = False
    unknown_fields: str = "error"
    megabytes: int = 48
    resource: str = "users"
    columns: dict[str, str | None] | None = None


def _user(number: int, **fields: object) -> bytes:
    user = {"email": f"user{number}@example.org", "name": "A", "role": "reader", "active": True}
    return json.dumps(user | fields, separators=(",", ":")).encode() + b"\n"


def _numbered(*, every: int = 0, huge: int = 0, **fields: object) -> Iterator[bytes]:
    """Users; each `every`th has a name of `huge` bytes."""
    number = 0
    while True:
        number += 1
        yield _user(number, **fields, **({"name": "x" * huge} if every and number % every == 0 else {}))


def _repeated(line: bytes) -> Iterator[bytes]:
    while True:
        yield line


NAMES = ["".join(letters) for letters in product(ascii_lowercase, repeat=2)][:1240]
UNKNOWN = {f"column_{number}": "some value" for number in range(500)}
MAPPED = {f"column_{number}": None for number in range(1000)}
# each line has the annotations of a file of refused records that was sent back unchanged
ANNOTATED = {
    "_errors": [{"field": f"field_{number}", "code": "unknown_field", "message": "x" * 100} for number in range(100)]
}
ARTICLE = {
    "slug": "a",
    "title": "A",
    "body": "b",
    "author_id": "0190a7a1-0000-7000-8000-000000000000",
    "status": "draft",
    "tags": [f"tag {number} {'x' * 200}" for number in range(1000)],
}
DEEP = b'{"email":"a@example.org","x":' + b"[" * 400 + b"]" * 400 + b"}\n"
WIDE = b",".join([b"email,name,role,active", *(f"c{number}".encode() for number in range(990))]) + b"\n"


def _with_header(header: bytes, line: bytes) -> Iterator[bytes]:
    yield header
    yield from _repeated(line)


def _skewed() -> Iterator[bytes]:
    """Many short records, followed by all the long ones: the mean of the file does not predict the size of a chunk."""
    yield from islice(_numbered(), 100_000)
    yield from _numbered(every=1, huge=1_000_000)


CASES = (
    Case("500 unknown columns", lambda: _numbered(**UNKNOWN)),
    Case("1,240 fields of two letters", lambda: _numbered(**dict.fromkeys(NAMES, 1))),
    Case(
        "990 unknown columns of a CSV",
        lambda: _with_header(WIDE, b"a@b.org,A,none,true" + b",x" * 990 + b"\n"),
        "csv",
        unknown_fields="ignore",
    ),
    Case("empty objects", lambda: _repeated(b"{}\n"), megabytes=4),
    Case("empty objects, packed", lambda: _repeated(b"{}\n"), is_packed=True, megabytes=4),
    Case("nested lists", lambda: _repeated(DEEP)),
    Case("one long record in a hundred", lambda: _numbered(every=100, huge=1_000_000)),
    Case("long records first", _skewed),
    Case("a mapping of 1,000 names", lambda: _numbered(**dict.fromkeys(MAPPED, 1)), columns=MAPPED),
    Case("annotated records", lambda: _numbered(**ANNOTATED)),
    Case("articles of 1,000 tags", lambda: _repeated(json.dumps(ARTICLE).encode() + b"\n"), resource="articles"),
    Case("the same key everywhere", lambda: _repeated(_user(1)), megabytes=16),
)


async def run(env: Environment) -> list[Figure]:
    peaks: dict[str, list[tuple[str, float]]] = {}
    for case in CASES:
        async with timed_import.opened(env, "worst", worker_pool_size=WORKERS) as api:
            file_size.forget_peaks(api)
            took = await _imported(api, case)
            ended = "".join(f", {line}" for line in _ended_sessions(api))
            for name, peak in file_size.peaks_mb(api).items():
                peaks.setdefault(name, []).append((case.name, peak))
            workers = api.service.workers
            pids = workers.children() if workers else []
            env.log(
                f"{case.name}: {took}; the API {_shown(peaks, 'the API')} MB, a worker {_shown(peaks, 'a worker')} MB, "
                f"now {max(map(memory.now_mb, pids), default=0):.0f} MB{ended}"
            )
    return [
        Figure(
            name=f"peak memory of {name} with the worst of {len(CASES)} files",
            unit="MB",
            samples=[max(peak for _, peak in found)],
            target=at_most(TARGETS_MB[name], of="samples"),
        )
        for name, found in peaks.items()
    ]


async def _imported(api: Api, case: Case) -> str:
    """Imports the file; returns the outcome."""
    posted = await api.client.post(
        api_client.PATH,
        params={"resource": case.resource, "format": case.format, "unknown_fields": case.unknown_fields}
        | ({"columns": json.dumps(case.columns)} if case.columns else {}),
        content=_blocks(case),
        headers={"Content-Encoding": "gzip"} if case.is_packed else {},
    )
    assert posted.status_code == 202, posted.text
    job = await timed_import.final(api, posted)
    violations = await audit.violations(api.conn, import_id=job["id"], strict=True)
    assert violations == [], violations
    seconds = await api.value("SELECT extract(epoch FROM finished_at - sealed_at) FROM import_jobs")
    return (
        f"{job['status']}, {job['total_records']:,} records, {job['counts']['unprocessed']} unprocessed, "
        f"{job['error_count']:,} errors, {job['errors_stored']:,} stored, {seconds:.1f} s"
    )


async def _blocks(case: Case):
    packer = gzip.compress if case.is_packed else bytes
    block, total = bytearray(), 0
    for line in case.lines():
        block += line
        if len(block) >= BLOCK_BYTES:
            total += len(block)
            yield packer(block)
            block.clear()
            if total >= case.megabytes * 1_000_000:
                return


def _ended_sessions(api: Api) -> list[str]:
    """How often a worker lost its connection or gave a chunk back."""
    output = api.service.workers.output if api.service.workers else ""
    return [
        f"{output.count(event)} times {event!r}"
        for event in ("connection lost", "chunk given back", "chunk reclaimed")
        if event in output
    ]


def _shown(peaks: dict[str, list[tuple[str, float]]], name: str) -> str:
    return f"{peaks[name][-1][1]:.0f}" if name in peaks else "?"
