"""How the records of a chunk come into their table: straight when nothing is in the way, else staged and merged by sets.

The clean way is one binary COPY into the table, in a savepoint. Once a unique index or a foreign key has refused something
there, each chunk is looked through first (see `db.collisions`): what nothing is in the way of is still copied straight, and the
rest goes the other way: COPY into a temporary table, and from there set by set, each record to its place: stored, refused, or
deferred because it collides with another record of its own import (see `db.settle`).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
from psycopg.errors import DataError, IntegrityError

from db import copy
from db.connections.pool import Connection
from db.imports import errors as record_errors
from db.merge import apply, conflicts, duplicates, match, staging
from db.merge.staging import Mode
from db.queue import Counts, failpoints
from db.resources.definition import Parsed, RecordError, Resource

# how often a merge looks again at records that something was in the way of
ROUNDS_MAX = 5


# of a chunk's records: had none something in its way, some, or so many that looking for them first is no gain
Obstacles = Literal["none", "some", "many"]


class Stored(NamedTuple):
    """What became of a chunk, and what was in its way, which is what to expect of its import's next chunk."""

    counts: Counts
    obstacles: Obstacles


async def merge(
    conn: Connection,
    resource: Resource,
    import_id: UUID,
    parsed: Parsed,
    *,
    mode: Mode,
    dry_run: bool,
    is_alone: bool,
    expected: Obstacles,
) -> Stored:
    """Stores the sound records of one chunk and writes all of its errors, in the caller's transaction.

    `is_alone`: the import has no other chunk, so what collides within it is settled at once. `expected` is what was found with
    the import's earlier chunks, `none` with the first; it decides how, never what.
    """
    errors = await _with_missing_parents(conn, resource, parsed)
    await record_errors.insert(conn, import_id, errors)
    refused = Counts(failed=len({error.record for error in errors}), codes=Counter(error.code for error in errors))
    # every mode but update stores what matches nothing
    if mode == "update" or dry_run:
        expected = "many"
    keys = conflicts.keys(resource, parsed.records)
    everything = _key_order(parsed, keys)
    if not everything or (expected == "none" and await _copy_straight(conn, resource, import_id, parsed, everything)):
        return Stored(refused + Counts(created=len(everything)), expected)

    await staging.use_indexes(conn)
    twins = conflicts.twins(parsed.records, keys)
    hindered: Collection[int] = everything
    for _ in range(0 if expected == "many" else ROUNDS_MAX):
        found = twins | await conflicts.find(conn, resource, parsed.records, keys)
        expected = "some" if len(found) < len(everything) / 2 else "many"
        if expected == "many":
            break
        # if one of them meets a row that was not there when we looked: look again
        if await _copy_straight(conn, resource, import_id, parsed, [i for i in everything if i not in found]):
            hindered = found
            break
    await staging.fill(conn, resource, parsed, hindered, twins=twins)
    counts = await (_rehearse if dry_run else _merge_staged)(conn, resource, import_id, mode)
    if is_alone and counts.deferred:
        counts += await duplicates.settle(conn, resource, import_id, mode, dry_run=dry_run)
        counts.deferred = 0
    return Stored(refused + counts + Counts(created=len(everything) - len(hindered)), expected)


async def _merge_staged(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    counts = Counts(codes=await match.mark_orphans(conn, resource, import_id))
    for _ in range(ROUNDS_MAX):
        await match.match(conn, resource, import_id, mode)
        counts += await match.refuse(conn, resource, import_id, mode)
        counts.deferred += await apply.defer(conn, resource, import_id)
        try:
            async with conn.transaction():
                stored = await apply.update(conn, resource, import_id)
                stored += await apply.insert(conn, resource, import_id)
                await failpoints.reach("mid_merge", conn)
        except (IntegrityError, DataError):
            break
        counts += stored
        # what is left met a row that was not there when we looked: look again
        if not await staging.remaining(conn, resource):
            return counts
    return counts + await apply.store_singly(conn, resource, import_id)


async def _rehearse(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    """A dry run: refuses like the real run; the sound records are decided together at the end, by their keys alone."""
    counts = Counts(codes=await match.mark_orphans(conn, resource, import_id))
    await match.match(conn, resource, import_id, mode)
    counts += await match.refuse(conn, resource, import_id, mode)
    return counts + Counts(deferred=await apply.defer_all(conn, resource, import_id))


async def _copy_straight(
    conn: Connection, resource: Resource, import_id: UUID, parsed: Parsed, indexes: Iterable[int]
) -> bool:
    """COPYs the records that have these indexes; False when one met a conflict, and then nothing of it is left."""
    try:
        async with conn.transaction():
            await copy.rows(
                conn,
                resource.name,
                [*resource.columns, "import_id", "import_record", "import_action"],
                [*resource.column_types, "uuid", "int8", "text"],
                _complete(resource, import_id, parsed, indexes),
            )
    except (IntegrityError, DataError):
        return False
    await failpoints.reach("mid_merge", conn)
    return True


async def _with_missing_parents(conn: Connection, resource: Resource, parsed: Parsed) -> list[RecordError]:
    """The chunk's own errors and, of its suspects, those whose parent is missing; in the order of the records."""
    if not parsed.suspects:
        return parsed.errors
    missing: set[tuple[str | None, str | None]] = set()
    for field, parent in resource.references.items():
        ids = {UUID(suspect.value) for suspect in parsed.suspects if suspect.field == field}
        missing.update((field, str(id)) for id in await conflicts.missing_parents(conn, parent, ids))
    found = [suspect for suspect in parsed.suspects if (suspect.field, suspect.value) in missing]
    return sorted([*parsed.errors, *found], key=lambda error: error.record)


def _complete(resource: Resource, import_id: UUID, parsed: Parsed, indexes: Iterable[int]) -> Iterator[Sequence[Any]]:
    """The row of each of the records, with what the service fills in: a missing id, the time, and where it came from."""
    now = datetime.now(UTC)
    stamped = [resource.columns.index(column) for column in resource.stamped]
    for i in indexes:
        row = [*msgspec.structs.astuple(parsed.records[i]), import_id, parsed.numbers[i], "created"]
        if row[0] is None:
            row[0] = resource.new_id()
        for column in stamped:
            if row[column] is None:
                row[column] = now
        yield row


def _key_order(parsed: Parsed, keys: Sequence[str]) -> Sequence[int]:
    """The indexes of the records in the order of their unique key: chunks that collide then seldom deadlock."""
    by = keys or [str(record.id or "") for record in parsed.records]
    return sorted(range(len(by)), key=by.__getitem__)
