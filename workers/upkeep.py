"""The periodic chores of the queue. Any worker may do them, at any time, side by side with others."""

import structlog

from db import imports
from db.pool import Connection
from db.settings import Settings
from workers import ends

log = structlog.get_logger()


async def run_once(conn: Connection, settings: Settings) -> None:
    """Sweeps uploads that were left behind, and ends jobs whose last worker died before it could."""
    swept = await imports.sweep_uploads(conn, grace_seconds=settings.upload_grace_seconds)
    if swept:
        log.warning("uploads swept", uploads=swept)
    for id in await imports.unfinished(conn):
        await ends.end_import(conn, id)
