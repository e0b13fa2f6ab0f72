"""Duplicates inside a file: decided in one step, called settle, when all chunks of the import are done.

The file alone defines the winners: among the sound records each natural key goes to the first record that has it (modes insert,
skip) or to the last (upsert, update); then, among the records that won their key, each id in the same way. All rivals for a key
or id are among the import's deferred records and the rows that the import has written, so this step decides them correctly
whatever order the chunks ran in.

One exception protects other data: a stored row that another table refers to by now is not removed.
"""

from uuid import UUID

from db.connections import liveness
from db.connections.pool import Connection
from db.errors import REFUSED_ROW
from db.imports.jobs import Mode
from db.merge import apply, deferred, match, rivals, staging
from db.merge.sql import cached_sql
from db.queue import Counts
from db.resources.definition import Resource

# how often the records are ranked again because another transaction has stored a conflicting row meanwhile
ROUNDS_MAX = 5

SETTLE_SECONDS_MAX = 3600


class _Conflict(Exception):
    """A transaction outside of the import has stored a row that conflicts with a winner."""


async def settle(
    conn: Connection, resource: Resource, import_id: UUID, mode: Mode, *, dry_run: bool, undoable: bool
) -> Counts:
    """Decides the deferred records of an import, in the caller's transaction; returns the corrections of its counters.

    They may be negative: a stored row that loses to a deferred record is removed or overwritten. A dry run has deferred all
    of its sound records and stores none. `undoable`: remembers the rows that are created, and forgets those that are removed.
    """
    await staging.use_indexes(conn)
    # each step is one statement over all deferred records
    await liveness.allow_long_statements(conn, SETTLE_SECONDS_MAX)
    if dry_run:
        return await _settle_dry_run(conn, resource, import_id, mode)
    for _ in range(ROUNDS_MAX):
        try:
            async with conn.transaction():
                return await _attempt(conn, resource, import_id, mode, one_by_one=False, undoable=undoable)
        except _Conflict:
            continue
        except REFUSED_ROW:
            break
    return await _attempt(conn, resource, import_id, mode, one_by_one=True, undoable=undoable)


async def _attempt(
    conn: Connection, resource: Resource, import_id: UUID, mode: Mode, *, one_by_one: bool, undoable: bool
) -> Counts:
    """Raises `_Conflict` when a winner cannot be stored; `one_by_one` refuses such a record instead."""
    await deferred.stage(conn, resource, import_id)
    # parents and rows of others may have come and gone since the records were deferred
    counts = await match.decide(conn, resource, import_id, mode)
    await rivals.rank(conn, resource, import_id, mode)
    counts += await rivals.refuse_losers(conn, resource, import_id, mode)
    counts += await rivals.remove_losers(conn, resource, import_id, undoable=undoable)
    counts += await rivals.correct_counts(conn, resource, import_id)
    await rivals.keep_winners(conn, resource)
    if one_by_one:
        counts += await apply.store_one_by_one(conn, resource, import_id, undoable=undoable)
    else:
        counts += await apply.store(conn, resource, import_id, undoable=undoable)
        if await staging.remaining(conn, resource):
            raise _Conflict
    await deferred.clear(conn, import_id)
    await rivals.drop(conn)
    return counts


async def _settle_dry_run(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    await deferred.stage(conn, resource, import_id)
    await rivals.rank(conn, resource, import_id, mode)
    counts = await rivals.refuse_losers(conn, resource, import_id, mode)
    await rivals.keep_winners(conn, resource)
    cursor = await conn.execute(
        cached_sql(
            resource,
            """
            SELECT count(*) FILTER (WHERE verdict = 'insert'),
                count(*) FILTER (WHERE verdict = 'update' AND (is_different OR NOT is_only_match)),
                count(*) FILTER (WHERE verdict = 'update' AND NOT is_different AND is_only_match)
            FROM {staged} AS staged
            """,
        )
    )
    created, updated, unchanged = await cursor.fetchone() or (0, 0, 0)
    await deferred.clear(conn, import_id)
    await rivals.drop(conn)
    return counts + Counts(created=created, updated=updated, unchanged=unchanged)
