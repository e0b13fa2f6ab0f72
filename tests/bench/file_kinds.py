r"""Users in files as people have them: other column orders, quotes, line breaks, other alphabets, JSON, packed, dirty.

Every file has the same records but for the names of users. A CSV file is compared with `\copy` of itself, a dirty one with
`\copy` of the same without faults, every other file with `\copy` of the plain CSV file. The memory is that of the largest worker.
"""

import csv
import io
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias

from db.compression import compressor
from db.formats import EXTENSIONS, Compression
from tests.bench import files, memory, timed_import
from tests.bench.environment import Environment
from tests.bench.files import FAULT_RATE, File
from tests.bench.report import Figure, at_least
from tests.support.api_client import Api

Row: TypeAlias = dict[str, str]

SEED = 1
PLAIN_TARGET = 1.2
# faults that are lost when the file is read and written again
OF_ROWS = ((None, "malformed_row"), (None, "column_count_mismatch"))
ALPHABETS = ["Дарья Ковалёва", "山田 太郎", "Νίκος Παπαδόπουλος", "محمد العلي", "김민준", "Łukasz Żółć"]
OTHER_ORDER = ["updated_at", "name", "active", "role", "created_at", "id", "email"]
WIDE_CHARACTERS = 200
BLOCK_BYTES = 1 << 20


async def run(env: Environment) -> list[Figure]:
    plain = files.users(env, env.size.records)
    figures: list[Figure] = []
    async with timed_import.opened(env, "kinds") as api:
        for kind, write in {**CSV_KINDS, **JSON_KINDS}.items():
            file = _written(plain, kind, write)
            figures += await _compared(env, api, kind, file, file if file.format == "csv" else plain)
            file.path.unlink()
        for compression in ("gzip", "zstd"):
            file = _compressed(plain, compression)
            figures += await _compared(env, api, f"plain, {compression}", file, plain)
            file.path.unlink()
        clean = _written(plain, "other order", _other_order)
        faulty = files.users(env, env.size.records, fault_rate=FAULT_RATE, without=OF_ROWS)
        dirty = _written(faulty, "other order, dirty", _other_order)
        figures += await _compared(env, api, f"other order, {FAULT_RATE:.1%} bad records", dirty, clean, target=0.8)
    return figures


async def _compared(
    env: Environment, api: Api, kind: str, file: File, yardstick: File, *, target: float = 1.0
) -> list[Figure]:
    peaks_mb: list[float] = []

    async def copy() -> float:
        await timed_import.emptied(api, "users")
        return file.records / timed_import.copied(api, yardstick)

    async def import_() -> float:
        await timed_import.emptied(api, "users")
        workers = api.service.workers.children() if memory.IS_KNOWN and api.service.workers else []
        for pid in workers:
            memory.forget_peak(pid)
        rate = file.records / await timed_import.imported(api, file)
        peaks_mb.append(max(map(memory.peak_mb, workers), default=0.0))
        return rate

    rates = await timed_import.rounds(env, kind, "records/s", {r"\copy": copy, "import": import_}, env.size.rounds)
    tool = r"\copy of the file" if yardstick is file else rf"\copy of {yardstick.path.name}"
    return [
        Figure(
            name=f"{kind}, {file.records:,} users, {file.megabytes:.0f} MB",
            unit="records/s",
            samples=rates["import"],
            yardstick=tool,
            yardstick_samples=rates[r"\copy"],
            target=at_least(PLAIN_TARGET if kind == "plain" else target),
        ),
        Figure(name=f"memory of a worker, {kind}", unit="MB", samples=peaks_mb),
    ]


# ── the kinds ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _named(
    name: Callable[[random.Random, str], str], quoting: Literal[0, 1] = csv.QUOTE_MINIMAL
) -> Callable[[list[Row]], str]:
    """CSV whose names are made by `name` of the plain ones."""

    def write(rows: list[Row]) -> str:
        rng = random.Random(SEED)
        return _csv([row | {"name": name(rng, row["name"])} for row in rows], quoting=quoting)

    return write


def _other_order(rows: list[Row]) -> str:
    """As another program exports them: other columns first, some quoted names, CRLF, times with an offset."""
    rng = random.Random(SEED)
    changed = [
        row
        | {"name": _mixed(rng, row["name"])}
        | {name: row[name].replace("Z", ".000000+00:00") for name in ("created_at", "updated_at")}
        for row in rows
    ]
    return _csv([{name: row[name] for name in OTHER_ORDER} for row in changed], lineterminator="\r\n")


def _mixed(rng: random.Random, name: str) -> str:
    """One name in four has a line break, one has quotes."""
    return rng.choice([name, name, name.replace(" ", "\n", 1), f'{name} "{name[:2]}"' if name.strip() else name])


def _csv(rows: list[Row], *, quoting: Literal[0, 1] = csv.QUOTE_MINIMAL, lineterminator: str = "\n") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), quoting=quoting, lineterminator=lineterminator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _escaped(rows: list[Row]) -> str:
    """NDJSON with escapes of all that is not ASCII, spaces, and members in an order that changes."""
    rng = random.Random(SEED)
    lines = []
    for row in rows:
        members = list((row | {"name": rng.choice(ALPHABETS), "active": row["active"] == "true"}).items())
        rng.shuffle(members)
        lines.append(json.dumps(dict(members)))
    return "\n".join(lines) + "\n"


def _compact(rows: list[Row]) -> list[str]:
    records = ({**row, "active": row["active"] == "true"} for row in rows)
    return [json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in records]


CSV_KINDS: dict[str, Callable[[list[Row]], str]] = {
    "plain": _csv,
    "other order": _other_order,
    "other alphabets": _named(lambda rng, _: rng.choice(ALPHABETS)),
    "all quoted": _named(lambda _, name: name, quoting=csv.QUOTE_ALL),
    "commas and quotes": _named(lambda _, name: ", ".join(reversed(name.split())) + f' "{name[0]}"'),
    "line breaks": _named(lambda _, name: name.replace(" ", "\n", 1)),
    "mixed": _named(_mixed),
    "wide": _named(lambda _, name: (name + " ") * (WIDE_CHARACTERS // (len(name) + 1))),
}
JSON_KINDS: dict[str, Callable[[list[Row]], str]] = {
    "NDJSON": lambda rows: "\n".join(_compact(rows)) + "\n",
    "NDJSON, escaped and unordered": _escaped,
    "JSON array": lambda rows: "[" + ",\n".join(_compact(rows)) + "]",
}


# ── the files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _written(plain: File, kind: str, write: Callable[[list[Row]], str]) -> File:
    with plain.path.open(newline="", encoding="utf-8") as lines:
        text = write(list(csv.DictReader(lines)))
    format = "json" if kind == "JSON array" else "ndjson" if kind in JSON_KINDS else "csv"
    path = plain.path.with_name(f"{kind.replace(', ', '-').replace(' ', '-')}.{format}")
    path.write_text(text, encoding="utf-8", newline="")
    return replace(plain, path=path)


def _compressed(plain: File, compression: Compression) -> File:
    path = plain.path.with_name(plain.path.name + EXTENSIONS[compression])
    packer = compressor(compression)
    with plain.path.open("rb") as file, path.open("wb") as to:
        while block := file.read(BLOCK_BYTES):
            to.write(packer.compress(block))
        to.write(packer.flush())
    return replace(plain, path=path)
