"""How the records of a chunk come into their table: straight when nothing is in the way, else staged and merged by sets.

The clean way is one binary COPY into the table, in a savepoint. Whatever a unique index or a foreign key refuses there sends
the chunk the other way: COPY into a temporary table, and from there set by set, each record to its place: stored, refused,
or deferred because it collides with another record of its own import (see `db.settle`).
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.errors import DataError, IntegrityError

from db import matching, placing, record_errors, settle, staging
from db.pool import Connection
from db.queue import Counts
from db.resource import Parsed, RecordError, Resource
from db.staging import Mode

# how often a merge looks again at records that something was in the way of
ROUNDS_MAX = 5


class Stored(NamedTuple):
    """What became of a chunk, and whether anything was in its way (then its import's next chunk had better be staged at once)."""

    counts: Counts
    collided: bool


async def merge(
    conn: Connection,
    resource: Resource,
    import_id: UUID,
    parsed: Parsed,
    *,
    mode: Mode,
    dry_run: bool,
    is_alone: bool,
    is_clean_so_far: bool,
) -> Stored:
    """Stores the sound records of one chunk and writes all of its errors, in the caller's transaction.

    `is_alone`: the import has no other chunk, so what collides within it is settled at once.
    """
    errors = await _with_missing_parents(conn, resource, parsed)
    await record_errors.insert(conn, import_id, errors)
    refused = Counts(failed=len({error.record for error in errors}), codes=Counter(error.code for error in errors))
    if not parsed.records:
        return Stored(refused, collided=False)

    twins = _twins(resource, parsed)
    # every mode but update stores what matches nothing
    is_promising = is_clean_so_far and not twins and mode != "update" and not dry_run
    if is_promising and await _copy_straight(conn, resource, import_id, parsed):
        return Stored(refused + Counts(created=len(parsed.records)), collided=False)

    await staging.fill(conn, resource, parsed, twins=twins)
    counts = await (_rehearse if dry_run else _merge_staged)(conn, resource, import_id, mode)
    if is_alone and counts.deferred:
        counts += await settle.settle(conn, resource, import_id, mode, dry_run=dry_run)
        counts.deferred = 0
    return Stored(refused + counts, collided=True)


async def _merge_staged(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    counts = Counts(codes=await matching.mark_orphans(conn, resource, import_id))
    for _ in range(ROUNDS_MAX):
        await matching.match(conn, resource, import_id, mode)
        counts += await matching.refuse(conn, resource, import_id, mode)
        counts.deferred += await placing.defer(conn, resource, import_id)
        try:
            async with conn.transaction():
                stored = await placing.update(conn, resource, import_id)
                stored += await placing.insert(conn, resource, import_id)
        except (IntegrityError, DataError):
            break
        counts += stored
        # what is left met a row that was not there when we looked: look again
        if not await staging.remaining(conn):
            return counts
    return counts + await placing.store_singly(conn, resource, import_id)


async def _rehearse(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    """A dry run: refuses like the real run; the sound records are decided together at the end, by their keys alone."""
    counts = Counts(codes=await matching.mark_orphans(conn, resource, import_id))
    await matching.match(conn, resource, import_id, mode)
    counts += await matching.refuse(conn, resource, import_id, mode)
    return counts + Counts(deferred=await placing.defer_all(conn, resource, import_id))


async def _copy_straight(conn: Connection, resource: Resource, import_id: UUID, parsed: Parsed) -> bool:
    """The optimistic first step; False when it met a conflict, and then nothing of it is left."""
    columns = [*resource.columns, "import_id", "import_record", "import_action"]
    try:
        async with (
            conn.transaction(),
            conn.cursor().copy(
                sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
                    sql.Identifier(resource.name), staging.names(columns)
                )
            ) as copy,
        ):
            copy.set_types([*resource.column_types, "uuid", "int8", "text"])
            for values, number in _complete(resource, parsed):
                await copy.write_row((*values, import_id, number, "created"))
    except (IntegrityError, DataError):
        return False
    return True


async def _with_missing_parents(conn: Connection, resource: Resource, parsed: Parsed) -> list[RecordError]:
    """The chunk's own errors and, of its suspects, those whose parent is missing; in the order of the records."""
    if not parsed.suspects:
        return parsed.errors
    missing: set[tuple[str | None, str | None]] = set()
    for field, parent in resource.references.items():
        cursor = await conn.execute(
            sql.SQL(
                """
                SELECT wanted.id::text
                FROM unnest(%(ids)s::uuid[]) AS wanted (id)
                WHERE NOT EXISTS (SELECT FROM {} AS parent WHERE parent.id = wanted.id)
                """
            ).format(sql.Identifier(parent)),
            {"ids": [suspect.value for suspect in parsed.suspects if suspect.field == field]},
        )
        missing.update((field, id) for (id,) in await cursor.fetchall())
    found = [suspect for suspect in parsed.suspects if (suspect.field, suspect.value) in missing]
    return sorted([*parsed.errors, *found], key=lambda error: error.record)


def _complete(resource: Resource, parsed: Parsed) -> Iterator[tuple[tuple[Any, ...], int]]:
    """The values of each record, with what the service fills in (a missing id, the time), and its number.

    In the order of the unique key: chunks that collide then seldom deadlock.
    """
    now = datetime.now(UTC)
    stamped = [resource.columns.index(column) for column in resource.stamped]
    for i in _key_order(resource, parsed):
        values = msgspec.structs.astuple(parsed.records[i])
        if None in values:
            complete = list(values)
            if complete[0] is None:
                complete[0] = resource.new_id()
            for column in stamped:
                if complete[column] is None:
                    complete[column] = now
            values = tuple(complete)
        yield values, parsed.numbers[i]


def _twins(resource: Resource, parsed: Parsed) -> set[int]:
    """The records, by index, that share their id or their natural key with another one of the chunk."""
    twins = _repeated([record.id if record.id is not None else i for i, record in enumerate(parsed.records)])
    if resource.key is not None:
        twins |= _repeated([resource.key_of(getattr(record, resource.key)) for record in parsed.records])
    return twins


def _repeated(values: Sequence[Hashable]) -> set[int]:
    counts = Counter(values) if len(set(values)) < len(values) else {}
    return {i for i, value in enumerate(values) if counts[value] > 1} if counts else set()


def _key_order(resource: Resource, parsed: Parsed) -> Sequence[int]:
    """The indexes of the records in the order of their unique key: chunks that collide then seldom deadlock."""
    key = resource.key
    if key is None:
        return sorted(range(len(parsed.records)), key=lambda i: parsed.records[i].id or "")
    return sorted(range(len(parsed.records)), key=lambda i: resource.key_of(getattr(parsed.records[i], key)))
