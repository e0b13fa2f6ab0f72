"""Copies the records of a chunk into the resource's table: all of them, or those that conflict with no other row."""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple
from uuid import UUID

from db import copy
from db.connections.pool import SESSION, Connection
from db.errors import BLOCKED, REFUSED_ROW
from db.imports import created
from db.merge import conflicts, rows
from db.queue import failpoints
from db.resources.definition import Parsed, Resource

# Which of a chunk's records conflict: none; hardly any but those that share their id or key with another one of the chunk; so
# many others that looking them up costs less than a COPY that fails; or so many that it gains nothing.
ConflictLevel = Literal["none", "few", "some", "many"]

# of the records that are copied at once when an import has conflicts: a COPY that fails has to be repeated
BATCH_RECORDS = 2000

# how often the conflicts of a batch are looked up because another transaction has stored a conflicting row meanwhile
ROUNDS_MAX = 5

# How long a COPY waits for an open transaction that has stored a row with the same id or key, for so many records of a chunk. For
# further ones, and for other locks, it waits as long as the session's lock_timeout allows.
BLOCKED_MILLISECONDS = 2
BLOCKED_MAX = 50


class Copied(NamedTuple):
    """What `copy_free` has found; the indexes are those of records that it has not copied.

    `conflicting`: some may conflict with a stored row. `blocked`: an open transaction has stored a row with their id or key.
    """

    level: ConflictLevel
    conflicting: Sequence[int]
    blocked: Collection[int]


async def copy_all(
    conn: Connection, resource: Resource, import_id: UUID, parsed: Parsed, indexes: Iterable[int], *, undoable: bool
) -> bool:
    """COPYs the records with these indexes in a savepoint; False, and nothing stored, when PostgreSQL refuses one of them."""
    complete = rows.complete(resource, import_id, parsed, indexes)
    ids: dict[int, str] = {}
    try:
        async with conn.transaction():
            await copy.rows(
                conn,
                resource.name,
                *rows.columns(resource),
                created.noting(complete, ids, record=-2) if undoable else complete,
            )
            if undoable:
                await created.remember(conn, import_id, ids)
    except REFUSED_ROW:
        return False
    await failpoints.reach("mid_merge", conn)
    return True


async def copy_free(
    conn: Connection,
    resource: Resource,
    import_id: UUID,
    parsed: Parsed,
    keys: Sequence[str],
    indexes: Sequence[int],
    *,
    looks_first: bool,
    undoable: bool,
) -> Copied:
    """COPYs the records that conflict with no other row. The result is in the order of `indexes`, in which rows are locked.

    The conflicts are looked up first, for all records at once, or only for a batch whose COPY has failed.
    """
    copier = _Copier(conn, resource, import_id, parsed, keys, undoable=undoable)
    staged: set[int] = set()
    if looks_first:
        staged = await copier.conflicting(indexes)
        if len(staged) >= len(indexes) / 2:
            return Copied("many", indexes, ())
    found = len(staged)
    free = [i for i in indexes if i not in staged]
    batches = [free[start : start + BATCH_RECORDS] for start in range(0, len(free), BATCH_RECORDS)]
    await copier.limit_waits(str(BLOCKED_MILLISECONDS))
    for batch in batches:
        if not await copier.copy(batch):
            staged |= await copier.copy_unlike_stored(batch)
            found += 1
    await copier.limit_waits(SESSION["lock_timeout"])
    level: ConflictLevel = "some" if found > len(batches) / 3 else "few"
    if len(staged) >= len(indexes) / 2:
        level = "many"
    return Copied(level, [i for i in indexes if i in staged], copier.blocked)


class _Copier:
    """Copies batches of a chunk's records, and collects those that are `blocked`: waiting for them would stop this worker."""

    def __init__(
        self,
        conn: Connection,
        resource: Resource,
        import_id: UUID,
        parsed: Parsed,
        keys: Sequence[str],
        *,
        undoable: bool,
    ) -> None:
        self.blocked: set[int] = set()
        self._conn = conn
        self._resource = resource
        self._import_id = import_id
        self._parsed = parsed
        self._keys = keys
        self._undoable = undoable
        self._is_limited = False

    async def conflicting(self, indexes: Sequence[int]) -> set[int]:
        return await conflicts.conflicting_rows(self._conn, self._resource, self._parsed.records, self._keys, indexes)

    async def copy(self, indexes: Sequence[int]) -> bool:
        """`copy_all` of the records that are not blocked."""
        while True:
            free = [i for i in indexes if i not in self.blocked]
            try:
                return await copy_all(
                    self._conn, self._resource, self._import_id, self._parsed, free, undoable=self._undoable
                )
            except BLOCKED as error:
                if not self._is_limited:
                    raise
                number = copy.blocked_row(error)
                if number is None or len(self.blocked) >= BLOCKED_MAX:
                    await self.limit_waits(SESSION["lock_timeout"])
                else:
                    self.blocked.add(free[number - 1])

    async def copy_unlike_stored(self, indexes: Sequence[int]) -> set[int]:
        """COPYs the records that conflict with no stored row, unless half of them do; returns the indexes of the others."""
        for _ in range(ROUNDS_MAX):
            indexes = [i for i in indexes if i not in self.blocked]
            conflicting = await self.conflicting(indexes)
            if len(conflicting) >= len(indexes) / 2:
                break
            # a COPY that fails has met a row that was stored since the look-up
            if await self.copy([i for i in indexes if i not in conflicting]):
                return conflicting
        return {*indexes} - self.blocked

    async def limit_waits(self, milliseconds: str) -> None:
        """Limits each wait for a lock, until the end of the transaction."""
        self._is_limited = milliseconds != SESSION["lock_timeout"]
        await self._conn.execute("SELECT set_config('lock_timeout', %(limit)s, true)", {"limit": milliseconds})
