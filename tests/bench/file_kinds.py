r"""Records in files as people have them: other column orders, quotes, line breaks, other alphabets, JSON, packed, dirty.

Every file has the same records but for one text of each: the name of a user, the title of an article, the body of a comment. A
CSV file is compared with `\copy` of itself, a dirty one with `\copy` of the same without faults, every other file with `\copy` of
the plain CSV file. The memory is that of the largest worker.
"""

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from db.compression import compressor
from db.formats import EXTENSIONS, Compression
from tests.bench import files, memory, timed_import
from tests.bench.environment import Environment
from tests.bench.files import FAULT_RATE, File
from tests.bench.report import Figure, at_least
from tests.support.api_client import Api

Row: TypeAlias = dict[str, str]

SEED = 1
# of the rate of `\copy`: of a plain file of users, of another one, and of articles and comments, whose parents are looked up
PLAIN_TARGET = 1.2
TARGET = 1.0
RELATED_TARGET = 1.2
# of users whose e-mail address is that of an earlier one anywhere in the file; the duplicates of a dirty file are close together
REPEAT_RATE = 0.01
# faults that are lost when the file is read and written again
OF_ROWS = ((None, "malformed_row"), (None, "column_count_mismatch"))
ALPHABETS = ["Дарья Ковалёва", "山田 太郎", "Νίκος Παπαδόπουλος", "محمد العلي", "김민준", "Łukasz Żółć"]
# the text that differs between the kinds, and the columns in another order
TEXTS = {"users": "name", "articles": "title", "comments": "body"}
OTHER_ORDER = {
    "users": ["updated_at", "name", "active", "role", "created_at", "id", "email"],
    "articles": ["published_at", "title", "status", "body", "author_id", "id", "slug"],
    "comments": ["created_at", "body", "user_id", "id", "article_id"],
}
WIDE_CHARACTERS = 200
BLOCK_BYTES = 1 << 20


async def run(env: Environment) -> list[Figure]:
    plain = files.users(env, env.size.records)
    figures: list[Figure] = []
    async with timed_import.opened(env, "kinds") as api:
        for kind in (*CSV_KINDS, *JSON_KINDS):
            figures += await _measure(env, api, plain, kind, target=PLAIN_TARGET if kind == "plain" else TARGET)
        for compression in ("gzip", "zstd"):
            file = _compressed(plain, compression)
            figures += await _compared(env, api, f"plain, {compression}", file, plain, target=TARGET)
            file.path.unlink()
        clean = _written(plain, "other order")
        faulty = files.users(env, env.size.records, fault_rate=FAULT_RATE, without=OF_ROWS)
        dirty = _written(faulty, "other order", name="other order, dirty")
        figures += await _compared(env, api, f"other order, {FAULT_RATE:.1%} bad records", dirty, clean, target=0.8)
        repeating = _repeating(plain)
        figures += await _compared(env, api, f"{REPEAT_RATE:.0%} repeat a key", repeating, plain, target=0.8)
    return figures


async def run_related(env: Environment) -> list[Figure]:
    """Articles, then comments on them. The parents are there, as in `foreign_keys`."""
    records = env.size.related_records
    figures: list[Figure] = []
    async with timed_import.opened(env, "related-kinds") as api:
        parents = files.users(env, env.size.records)
        for children in (files.articles(env, records), files.comments(env, records)):
            await timed_import.emptied(api, parents.resource)
            timed_import.copied(api, parents)
            await timed_import.settled(api, parents.resource)
            for kind in (*CSV_KINDS, *JSON_KINDS):
                figures += await _measure(
                    env, api, children, kind, target=RELATED_TARGET, rounds=env.size.rounds_of_long
                )
            parents = children
    return figures


async def _measure(
    env: Environment, api: Api, plain: File, kind: str, *, target: float, rounds: int | None = None
) -> list[Figure]:
    file = _written(plain, kind)
    yardstick = file if file.format == "csv" else plain
    figures = await _compared(env, api, kind, file, yardstick, target=target, rounds=rounds)
    file.path.unlink()
    return figures


async def _compared(
    env: Environment, api: Api, kind: str, file: File, yardstick: File, *, target: float, rounds: int | None = None
) -> list[Figure]:
    peaks_mb: list[float] = []

    async def copy() -> float:
        await timed_import.emptied(api, file.resource)
        return file.records / timed_import.copied(api, yardstick)

    async def import_() -> float:
        await timed_import.emptied(api, file.resource)
        workers = api.service.workers.children() if memory.IS_KNOWN and api.service.workers else []
        for pid in workers:
            memory.forget_peak(pid)
        rate = file.records / await timed_import.imported(api, file)
        peaks_mb.append(max(map(memory.peak_mb, workers), default=0.0))
        return rate

    title = kind if file.resource == "users" else f"{file.resource}, {kind}"
    contenders = {r"\copy": copy, "import": import_}
    rates = await timed_import.rounds(env, title, "records/s", contenders, rounds or env.size.rounds)
    tool = r"\copy of the file" if yardstick is file else rf"\copy of {yardstick.path.name}"
    return [
        Figure(
            name=f"{kind}, {file.records:,} {file.resource}, {file.megabytes:.0f} MB",
            unit="records/s",
            samples=rates["import"],
            yardstick=tool,
            yardstick_samples=rates[r"\copy"],
            target=at_least(target),
        ),
        Figure(name=f"memory of a worker, {title}", unit="MB", samples=peaks_mb),
    ]


# ── the kinds: the text of a file by its resource and its rows ────────────────────────────────────────────────────────


def _plain(_: str, rows: list[Row]) -> str:
    return _csv(rows)


def _all_quoted(_: str, rows: list[Row]) -> str:
    """Empty cells are not quoted, because a quoted one is a text."""
    lines = [[*rows[0]], *(row.values() for row in rows)]
    quoted = ([cell and '"' + cell.replace('"', '""') + '"' for cell in line] for line in lines)
    return "".join(",".join(line) + "\n" for line in quoted)


def _texts(text: Callable[[random.Random, str], str]) -> Callable[[str, list[Row]], str]:
    """CSV whose texts are made by `text` of the plain ones."""

    def write(resource: str, rows: list[Row]) -> str:
        rng = random.Random(SEED)
        field = TEXTS[resource]
        return _csv([row | {field: text(rng, row[field])} for row in rows])

    return write


def _other_order(resource: str, rows: list[Row]) -> str:
    """As another program exports them: other columns first, some quoted texts, CRLF, times with an offset."""
    rng = random.Random(SEED)
    field = TEXTS[resource]
    changed = [
        row
        | {field: _mixed(rng, row[field])}
        | {name: cell.replace("Z", ".000000+00:00") for name, cell in row.items() if name.endswith("_at")}
        for row in rows
    ]
    return _csv([{name: row[name] for name in OTHER_ORDER[resource]} for row in changed], lineterminator="\r\n")


def _mixed(rng: random.Random, text: str) -> str:
    """One text in four has a line break, one has quotes."""
    return rng.choice([text, text, text.replace(" ", "\n", 1), f'{text} "{text[:2]}"' if text.strip() else text])


def _csv(rows: list[Row], *, lineterminator: str = "\n") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=lineterminator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _ndjson(_: str, rows: list[Row]) -> str:
    return "\n".join(_compact(rows)) + "\n"


def _array(_: str, rows: list[Row]) -> str:
    return "[" + ",\n".join(_compact(rows)) + "]"


def _escaped(resource: str, rows: list[Row]) -> str:
    """NDJSON with escapes of all that is not ASCII, spaces, and members in an order that changes."""
    rng = random.Random(SEED)
    lines = []
    for row in rows:
        members = list((_typed(row) | {TEXTS[resource]: rng.choice(ALPHABETS)}).items())
        rng.shuffle(members)
        lines.append(json.dumps(dict(members)))
    return "\n".join(lines) + "\n"


def _compact(rows: list[Row]) -> list[str]:
    return [json.dumps(_typed(row), ensure_ascii=False, separators=(",", ":")) for row in rows]


def _typed(row: Row) -> dict[str, str | bool | None]:
    """The values in JSON: an empty cell is null."""
    return {name: cell == "true" if name == "active" else cell or None for name, cell in row.items()}


CSV_KINDS: dict[str, Callable[[str, list[Row]], str]] = {
    "plain": _plain,
    "other order": _other_order,
    "other alphabets": _texts(lambda rng, _: rng.choice(ALPHABETS)),
    "all quoted": _all_quoted,
    "commas and quotes": _texts(lambda _, text: ", ".join(reversed(text.split())) + f' "{text[0]}"'),
    "line breaks": _texts(lambda _, text: text.replace(" ", "\n", 1)),
    "mixed": _texts(_mixed),
    "wide": _texts(lambda _, text: (text + " ") * max(1, WIDE_CHARACTERS // (len(text) + 1))),
}
JSON_KINDS: dict[str, Callable[[str, list[Row]], str]] = {
    "NDJSON": _ndjson,
    "NDJSON, escaped and unordered": _escaped,
    "JSON array": _array,
}


# ── the files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _written(plain: File, kind: str, *, name: str | None = None) -> File:
    """The file of this kind with the records of the plain one. `name`: of the file, if it is not that of the kind."""
    with plain.path.open(newline="", encoding="utf-8") as lines:
        text = {**CSV_KINDS, **JSON_KINDS}[kind](plain.resource, list(csv.DictReader(lines)))
    format = "json" if kind == "JSON array" else "ndjson" if kind in JSON_KINDS else "csv"
    path = plain.path.with_name(f"{(name or kind).replace(', ', '-').replace(' ', '-')}.{format}")
    path.write_text(text, encoding="utf-8", newline="")
    return replace(plain, path=path)


def _repeating(users: File) -> File:
    """The same users, of whom some have the e-mail address of an earlier one."""
    rng = random.Random(SEED)
    with users.path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    emails: list[str] = []
    for row in rows:
        if emails and rng.random() < REPEAT_RATE:
            row["email"] = rng.choice(emails)
        else:
            emails.append(row["email"])
    path = users.path.with_name("repeating.csv")
    path.write_text(_csv(rows), encoding="utf-8", newline="")
    return replace(users, path=path, faults=Counter({("email", "duplicate_in_file"): len(rows) - len(emails)}))


def _compressed(plain: File, compression: Compression) -> File:
    path = plain.path.with_name(plain.path.name + EXTENSIONS[compression])
    packer = compressor(compression)
    with plain.path.open("rb") as file, path.open("wb") as to:
        while block := file.read(BLOCK_BYTES):
            to.write(packer.compress(block))
        to.write(packer.flush())
    return replace(plain, path=path)
