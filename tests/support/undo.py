"""Imports that can be undone, and their undos."""

from uuid import UUID

from db import audit
from db.imports import undo
from tests.support import factories
from tests.support.factories import queued


async def imported(conn, records, **parameters) -> UUID:
    """A finished undoable import of these records."""
    id = await queued(conn, records, undoable=True, **parameters)
    await factories.run(conn, id)
    return id


async def run_undo(conn, id: UUID) -> undo.Undo | None:
    """Works on the undo until it is finished, however long that takes."""
    return await undo.run(conn, id, seconds=3600)


async def undone(conn, id: UUID) -> undo.Undo:
    """The finished undo of the import, whose numbers balance."""
    async with conn.transaction():
        await undo.start(conn, id)
    await run_undo(conn, id)
    state = await undo.get(conn, id)
    assert state is not None
    assert state.finished_at is not None
    assert await audit.violations(conn, import_id=id) == []
    return state


def numbers(state: undo.Undo) -> dict[str, int]:
    return {name: n for name in ("removed", "missing", "changed", "referred_to") if (n := getattr(state, name))}


async def kept(conn, id: UUID) -> list[tuple[int, str]]:
    async with conn.transaction():
        return [(row.record, row.reason) async for part in undo.kept(conn, id) for row in part]
