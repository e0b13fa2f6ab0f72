"""Files of any size for the demo and the benchmarks, the same for the same seed, optionally with planted faults.

A planted record has one fault and so one error, and the others are valid: the errors of an import of such a file are known
beforehand if its table is empty and the parents exist.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, BinaryIO, Literal, TypeAlias
from uuid import UUID

from db.resources.users import USERS

# the field and the code of an error
Fault: TypeAlias = tuple[str | None, str]
Record: TypeAlias = dict[str, Any]
# takes a valid record and an earlier one of the same file, and returns the line with the fault
Spoil: TypeAlias = Callable[[Record, Record], bytes]

# without quotes and commas, like most files
FIRST = ["Ada", "Bo", "Chidi", "Dana", "Emre", "Fay", "Hana", "Inés", "Jun", "Léa", "Marek", "Nour", "Priya", "Søren"]
LAST = ["Adeyemi", "Berg", "Castro", "Dvořák", "Eriksen", "Fischer", "Haddad", "Itō", "Jansen", "Kowalski", "Okafor"]
WORDS = ["a", "file", "counts", "whole", "or", "not", "at", "all", "and", "every", "record", "of", "it", "once"]
TAGS = ["news", "opinion", "how-to", "release"]
ROLES = ["admin", "author", "reader"]
START = datetime(2024, 1, 1, tzinfo=UTC)
# one of this many articles and comments has no id
NO_ID_ONE_IN = 50
# the most ids kept for references, so that memory does not depend on the size of a file
IDS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Made:
    """A file; the number of planted records for each fault; and the ids of its first valid records that have one.

    `data` is empty if the file was written to `to`.
    """

    data: bytes
    records: int
    faults: Counter[Fault] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)


def users(
    count: int, *, seed: int, fault_rate: float = 0.0, without: Collection[Fault] = (), to: BinaryIO | None = None
) -> Made:
    """Users as CSV with all columns; each has an id. Faults in `without` are not planted."""
    rng = _random(seed)
    spoils = {fault: spoil for fault, spoil in USER_FAULTS.items() if fault not in without}
    header = _row(list(USERS.columns))
    return _file(count, rng, lambda n: _user(rng, n), _user_row, spoils, fault_rate, header=header, to=to)


def articles(
    count: int,
    *,
    authors: Sequence[str],
    seed: int,
    fault_rate: float = 0.0,
    format: Literal["ndjson", "csv"] = "ndjson",
    to: BinaryIO | None = None,
) -> Made:
    """Articles with bodies of about 300 bytes; `authors` are ids of users.

    As CSV they can also be loaded by COPY: all have an id, none has tags (COPY has another syntax for lists), and none has a
    fault.
    """
    rng = _random(seed)
    if format == "csv":
        return _plain(count, rng, lambda n: _without(_article(rng, n, authors), "tags"), to=to)
    return _file(
        count,
        rng,
        lambda n: _perhaps_without_id(rng, _article(rng, n, authors)),
        _line,
        ARTICLE_FAULTS,
        fault_rate,
        to=to,
    )


def comments(
    count: int,
    *,
    articles: Sequence[str],
    users: Sequence[str],
    seed: int,
    fault_rate: float = 0.0,
    format: Literal["ndjson", "csv"] = "ndjson",
    to: BinaryIO | None = None,
) -> Made:
    """Comments, half of the ids with `cm_` before the UUID. As CSV all have an id and none has a fault."""
    rng = _random(seed)
    if format == "csv":
        return _plain(count, rng, lambda n: _comment(rng, n, articles, users), to=to)
    return _file(
        count,
        rng,
        lambda n: _perhaps_without_id(rng, _comment(rng, n, articles, users)),
        _line,
        COMMENT_FAULTS,
        fault_rate,
        to=to,
    )


def _plain(count: int, rng: Random, make: Callable[[int], Record], *, to: BinaryIO | None) -> Made:
    """CSV without faults; None is an empty cell."""
    return _file(count, rng, make, lambda record: _row([*record.values()]), {}, 0.0, header=_row([*make(0)]), to=to)


def _file(
    count: int,
    rng: Random,
    make: Callable[[int], Record],
    write: Callable[[Record], bytes],
    spoils: Mapping[Fault, Spoil],
    fault_rate: float,
    *,
    header: bytes = b"",
    to: BinaryIO | None,
) -> Made:
    out = io.BytesIO() if to is None else to
    out.write(header)
    faults, ids = Counter[Fault](), list[str]()
    kinds = list(spoils)
    earlier = make(0)
    for n in range(1, count + 1):
        record = make(n)
        # the first record is always valid, so that a duplicate has one to repeat
        if n > 1 and rng.random() < fault_rate:
            fault = rng.choice(kinds)
            faults[fault] += 1
            out.write(spoils[fault](record, earlier))
            continue
        out.write(write(record))
        if "id" in record and len(ids) < IDS_MAX:
            ids.append(record["id"])
        if n == 1 or rng.random() < 0.1:
            earlier = record
    return Made(out.getvalue() if isinstance(out, io.BytesIO) else b"", count, faults, ids)


def _user(rng: Random, n: int) -> Record:
    at = _time(rng)
    return {
        "id": _uuid(rng),
        "email": f"user{n}.{rng.randrange(10_000)}@example.org",
        "name": f"{rng.choice(FIRST)} {rng.choice(LAST)}",
        "role": rng.choice(ROLES),
        "active": "true" if rng.random() < 0.8 else "false",
        "created_at": at,
        "updated_at": at,
    }


def _article(rng: Random, n: int, authors: Sequence[str]) -> Record:
    is_draft = rng.random() < 0.3
    return {
        "id": _uuid(rng),
        "slug": f"{rng.choice(WORDS)}-{rng.choice(WORDS)}-{n}",
        "title": _text(rng, 6).capitalize(),
        "body": _text(rng, 68),
        "author_id": rng.choice(authors),
        "tags": rng.sample(TAGS, 2),
        "status": "draft" if is_draft else "published",
        "published_at": None if is_draft else _time(rng),
    }


def _comment(rng: Random, n: int, articles: Sequence[str], users: Sequence[str]) -> Record:
    return {
        "id": ("cm_" if n % 2 else "") + _uuid(rng),
        "article_id": rng.choice(articles),
        "user_id": rng.choice(users),
        "body": _text(rng, 20),
        "created_at": _time(rng),
    }


def _random(seed: int) -> Random:
    return Random(seed)  # the same numbers for the same seed are intended


def _perhaps_without_id(rng: Random, record: Record) -> Record:
    if rng.randrange(NO_ID_ONE_IN) == 0:
        del record["id"]
    return record


def _uuid(rng: Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def _time(rng: Random) -> str:
    return (START + timedelta(seconds=rng.randrange(60_000_000))).isoformat().replace("+00:00", "Z")


def _text(rng: Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def _row(cells: list[str | None]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _user_row(user: Record) -> bytes:
    # no cell of a valid user needs quotes
    return (",".join(user.values()) + "\n").encode()


def _line(record: Record) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


def _without(record: Record, name: str) -> Record:
    return {key: value for key, value in record.items() if key != name}


# an id that no record has
NOBODY = str(UUID(int=1, version=4))

USER_FAULTS: dict[Fault, Spoil] = {
    ("email", "invalid_format"): lambda user, _: _row([*(user | {"email": "foo@bar"}).values()]),
    ("role", "invalid_enum"): lambda user, _: _row([*(user | {"role": "manager"}).values()]),
    ("active", "invalid_type"): lambda user, _: _row([*(user | {"active": "maybe"}).values()]),
    ("name", "missing_required"): lambda user, _: _row([*(user | {"name": ""}).values()]),
    ("email", "duplicate_in_file"): lambda user, other: _row([*(user | {"email": other["email"].upper()}).values()]),
    ("id", "duplicate_in_file"): lambda user, other: _row([*(user | {"id": other["id"]}).values()]),
    (None, "column_count_mismatch"): lambda user, _: _row([*user.values(), "one cell too many"]),
    (None, "malformed_row"): lambda user, _: _user_row(user | {"name": 'an "unquoted" quote'}),
}

ARTICLE_FAULTS: dict[Fault, Spoil] = {
    ("slug", "invalid_format"): lambda article, _: _line(article | {"slug": "Not A Slug!"}),
    ("slug", "duplicate_in_file"): lambda article, other: _line(article | {"slug": other["slug"]}),
    ("author_id", "foreign_key_not_found"): lambda article, _: _line(article | {"author_id": NOBODY}),
    ("published_at", "conflicting_fields"): lambda article, _: _line(
        article | {"status": "draft", "published_at": "2024-05-01T12:00:00Z"}
    ),
    ("title", "missing_required"): lambda article, _: _line(_without(article, "title")),
    (None, "invalid_json"): lambda article, _: _line(article)[:-20] + b"\n",
}

COMMENT_FAULTS: dict[Fault, Spoil] = {
    ("article_id", "foreign_key_not_found"): lambda comment, _: _line(comment | {"article_id": NOBODY}),
    ("user_id", "foreign_key_not_found"): lambda comment, _: _line(comment | {"user_id": NOBODY}),
    ("body", "too_many_words"): lambda comment, _: _line(comment | {"body": "word " * 600}),
    ("body", "missing_required"): lambda comment, _: _line(_without(comment, "body")),
    ("body", "too_short"): lambda comment, _: _line(comment | {"body": " "}),
    ("id", "invalid_format"): lambda comment, _: _line(comment | {"id": "comment-12"}),
    (None, "invalid_json"): lambda comment, _: _line(comment)[:-20] + b"\n",
}
