"""Stores the records of a chunk: one binary COPY while nothing conflicts, otherwise by sets through a staging table.

The steps, each a module: `copying` (COPY), `conflicts` (which records conflict), `staging` (the temporary table), `match` (the
verdict of each record), `apply` (UPDATE, INSERT). Records that collide within their import are set aside (`deferred`) and decided
at its end (`duplicates`), with the table of `rivals`. It may import db.imports, db.queue, db.copy and db.resources; only workers
import it.
"""

import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple
from uuid import UUID

from db.connections.pool import Connection
from db.errors import REFUSED_ROW, RETRYABLE, UNAVAILABLE
from db.imports import errors as record_errors
from db.imports.jobs import Mode
from db.merge import apply, conflicts, copying, deferred, duplicates, match, rows, staging
from db.merge.copying import ConflictLevel
from db.queue import Counts, failpoints
from db.resources import RESOURCES
from db.resources.definition import Parsed, RecordError, Resource

# how often a chunk is matched again because another transaction has stored a conflicting row meanwhile
ROUNDS_MAX = 5

# copy: one COPY into the resource's table. copy_free: the same without the conflicting records, which are staged.
# stage: all through the staging table. one_by_one: the same for each record alone, in a savepoint.
Strategy = Literal["copy", "copy_free", "stage", "one_by_one"]


class Merged(NamedTuple):
    """The counts of a chunk, and the conflict level to assume for the next chunk of its import."""

    counts: Counts
    level: ConflictLevel


async def merge(
    conn: Connection,
    resource: Resource,
    import_id: UUID,
    parsed: Parsed,
    *,
    mode: Mode,
    dry_run: bool,
    is_whole_import: bool,
    assumed: ConflictLevel,
    one_by_one: bool = False,
    errors_max: int = 100_000,
    undoable: bool = False,
) -> Merged:
    """Stores the sound records of a chunk and writes its errors, in the caller's transaction.

    `is_whole_import`: there is no other chunk, so duplicates are settled here. `assumed` is the level of the import's earlier
    chunks, `none` for the first; it decides how the records are stored, never which. `one_by_one`: the chunk has failed before,
    so a record that cannot be stored for any reason is refused. `undoable`: the rows that are created are remembered.
    """
    counts = await _refuse_unsound(conn, resource, import_id, parsed, errors_max)
    keys = conflicts.keys(resource, parsed.records)
    all_rows = rows.in_key_order(parsed, keys)
    strategy = "one_by_one" if one_by_one else _strategy(mode, dry_run=dry_run, assumed=assumed)
    if not all_rows or (
        strategy == "copy" and await copying.copy_all(conn, resource, import_id, parsed, all_rows, undoable=undoable)
    ):
        return Merged(counts + Counts(created=len(all_rows)), assumed)

    await staging.use_indexes(conn)
    # a dry run has to match them too
    same = set() if dry_run else conflicts.duplicates(parsed.records, keys, mode)
    counts.deferred += await deferred.insert(conn, resource, import_id, parsed, keys, same)
    distinct = [i for i in all_rows if i not in same]
    level, staged = "many", distinct
    if strategy in ("copy", "copy_free"):
        level, staged, blocked = await copying.copy_free(
            conn, resource, import_id, parsed, keys, distinct, looks_first=assumed == "some", undoable=undoable
        )
        counts += Counts(created=len(distinct) - len(staged) - len(blocked))
        counts.deferred += await deferred.insert(conn, resource, import_id, parsed, keys, blocked)
    merge_staged = _check_staged if dry_run else partial(_store_staged, undoable=undoable)
    if strategy == "one_by_one":
        counts += await _one_by_one(conn, resource, import_id, parsed, mode, distinct, merge_staged)
    elif staged:
        await staging.fill(conn, resource, parsed, staged)
        counts += await merge_staged(conn, resource, import_id, mode)
    if is_whole_import and counts.deferred:
        counts += await duplicates.settle(conn, resource, import_id, mode, dry_run=dry_run, undoable=undoable)
        counts.deferred = 0
    return Merged(counts, level)


def _strategy(mode: Mode, *, dry_run: bool, assumed: ConflictLevel) -> Strategy:
    """The first strategy to try. A COPY that meets a conflict continues as `copy_free`, that as `stage`."""
    # update stores no record without a match, a dry run stores none at all
    if mode == "update" or dry_run or assumed == "many":
        return "stage"
    return "copy" if assumed == "none" else "copy_free"


async def _store_staged(conn: Connection, resource: Resource, import_id: UUID, mode: Mode, *, undoable: bool) -> Counts:
    counts = Counts()
    if mode in ("upsert", "update"):
        counts += await _update_unmoved(conn, resource, import_id)
        if not await staging.remaining(conn, resource):
            return counts
    for _ in range(ROUNDS_MAX):
        counts += await match.decide(conn, resource, import_id, mode)
        counts.deferred += await deferred.move_colliding(conn, resource, import_id)
        try:
            async with conn.transaction():
                stored = await apply.store(conn, resource, import_id, undoable=undoable)
                await failpoints.reach("mid_merge", conn)
        except REFUSED_ROW:
            break
        counts += stored
        # what is left has met a row that was stored since `match`
        if not await staging.remaining(conn, resource):
            return counts
    return counts + await apply.store_one_by_one(conn, resource, import_id, undoable=undoable)


async def _update_unmoved(conn: Connection, resource: Resource, import_id: UUID) -> Counts:
    """Nothing, when PostgreSQL refuses one of the rows: then all records are matched."""
    try:
        async with conn.transaction():
            counts = await apply.update_unmoved(conn, resource, import_id)
            await failpoints.reach("mid_merge", conn)
            return counts
    except REFUSED_ROW:
        return Counts()


async def _check_staged(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    """Dry run: refuses what the real run would; the sound records are all deferred and decided at the end."""
    counts = await match.decide(conn, resource, import_id, mode)
    return counts + Counts(deferred=await deferred.move_all(conn, resource, import_id))


async def _one_by_one(
    conn: Connection,
    resource: Resource,
    import_id: UUID,
    parsed: Parsed,
    mode: Mode,
    indexes: Sequence[int],
    merge_staged: Callable[[Connection, Resource, UUID, Mode], Awaitable[Counts]],
) -> Counts:
    """Refuses each record whose merge fails for a reason other than the state of the server or another transaction."""
    counts = Counts()
    await staging.create(conn, resource)
    for i in indexes:
        try:
            async with conn.transaction():
                await staging.fill(conn, resource, parsed, [i])
                merged = await merge_staged(conn, resource, import_id, mode)
        except Exception as error:
            if not isinstance(error, REFUSED_ROW) and isinstance(error, (*RETRYABLE, *UNAVAILABLE)):
                raise
            record = parsed.records[i]
            refused = RecordError(
                line=parsed.lines[i],
                record=parsed.numbers[i],
                id=None if record.id is None else str(record.id),
                key=getattr(record, resource.key) if resource.key else None,
                field=None,
                code="constraint_violation",
                message=apply.refusal(error),
                value=None,
            )
            await record_errors.insert(conn, import_id, [refused], unlisted=[], errors_max=sys.maxsize)
            merged = Counts(failed=1, codes=Counter(constraint_violation=1))
        counts += merged
    return counts


async def _refuse_unsound(
    conn: Connection, resource: Resource, import_id: UUID, parsed: Parsed, errors_max: int
) -> Counts:
    """Stores and counts the errors of the records that are not sound."""
    errors = await _with_missing_parents(conn, resource, parsed)
    omitted = await record_errors.insert(conn, import_id, errors, unlisted=parsed.unlisted, errors_max=errors_max)
    return Counts(
        failed=len({error.record for error in errors}) + len(parsed.unlisted),
        codes=Counter([*(error.code for error in errors), *parsed.omitted]),
        errors_omitted=omitted + len(parsed.omitted),
    )


async def _with_missing_parents(conn: Connection, resource: Resource, parsed: Parsed) -> list[RecordError]:
    """The chunk's errors and those of its suspects whose parent is missing, in the order of the records."""
    if not parsed.suspects:
        return parsed.errors
    missing: set[tuple[str | None, str | None]] = set()
    for field, parent in resource.references.items():
        values = {suspect.value or "" for suspect in parsed.suspects if suspect.field == field}
        ids = set(map(UUID, values)) if RESOURCES[parent].column_types[0] == "uuid" else values
        missing.update((field, str(id)) for id in await conflicts.missing_parents(conn, parent, ids))
    found = [suspect for suspect in parsed.suspects if (suspect.field, suspect.value) in missing]
    return sorted([*parsed.errors, *found], key=lambda error: error.record)
