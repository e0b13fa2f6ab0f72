"""The application: the routes and the dependencies of their handlers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.di import Provide

import api.console.routes
import api.exports.actions
import api.exports.routes
import api.exports.stream
import api.imports.actions
import api.imports.routes
import api.imports.undo
import api.imports.upload_urls
from api import health, resources, service, tickets
from api.http import openapi, problems
from api.http.auth import AccessControl
from api.http.middleware import Observed
from api.http.stream_admission import StreamAdmission
from api.imports.admission import Admission
from api.imports.importing import Importing
from api.imports.turn import Turn
from api.imports.uploads import ActiveUploads
from db.connections import pool
from db.connections.pool import Pool
from db.settings import Settings
from monitoring.outage import Outage

# for handlers that read the whole body; the import route, which streams it, has its own limits
BODY_MAX_BYTES = 1024 * 1024

ROUTE_HANDLERS = [
    *health.HANDLERS,
    *resources.HANDLERS,
    *tickets.HANDLERS,
    *service.HANDLERS,
    *api.imports.routes.HANDLERS,
    *api.imports.actions.HANDLERS,
    *api.imports.undo.HANDLERS,
    *api.imports.upload_urls.HANDLERS,
    *api.exports.stream.HANDLERS,
    *api.exports.routes.HANDLERS,
    *api.exports.actions.HANDLERS,
    *api.console.routes.HANDLERS,
]


def create(settings: Settings) -> Litestar:
    """The application. Handlers get `dependencies` and `request_id` as arguments, by name.

    `draining` is set on the signal to stop, `stopping` when the listener is closed: a handler whose response has no end must
    end it then. Raises `SettingsError` when DATABASE_URL is not set.
    """
    draining, stopping = asyncio.Event(), asyncio.Event()
    outage = Outage()
    db_pool = pool.create(settings, name="bulk api", monitor=outage)
    # the same outage as that of the first pool, so that it is logged once
    primary_streams = pool.create_for_streams(settings, name="bulk api streams", monitor=outage)
    standby = pool.create_standby(settings, name="bulk api streams", monitor=Outage("standby"))
    dependencies = {
        "db_pool": db_pool,
        # the pools of streaming exports, in the order of preference
        "stream_pools": [standby, primary_streams] if standby else [primary_streams],
        "stream_admission": StreamAdmission(settings),
        "settings": settings,
        "draining": draining,
        "stopping": stopping,
        "schema": health.RequiredSchema(db_pool),
        "probe": health.Probe(db_pool, settings, draining),
        "admission": Admission(settings, stopping),
        "active_uploads": ActiveUploads(db_pool, settings),
        "turn": Turn(db_pool, settings),
    }
    app = Litestar(
        ROUTE_HANDLERS,
        state=State(dependencies),
        dependencies={name: _from_state(name) for name in dependencies}
        | {
            "db_pool": Provide(_migrated_pool),
            "importing": Provide(_importing),
            "request_id": Provide(_request_id, sync_to_thread=False),
        },
        exception_handlers=problems.HANDLERS,
        lifespan=[_connected],
        openapi_config=openapi.config(settings, version=health.version()),
        request_max_body_size=BODY_MAX_BYTES,
        # monitoring.logging configures it
        logging_config=None,
    )
    # around the router: the framework's own middleware does not see requests that match no route
    app.asgi_handler = Observed(AccessControl(app.asgi_handler, settings), draining)
    return app


@asynccontextmanager
async def _connected(app: Litestar) -> AsyncIterator[None]:
    # without waiting: while the database is unavailable the process runs, and is not ready
    pools = [app.state.db_pool, *app.state.stream_pools]
    for db_pool in pools:
        await db_pool.open(wait=False)
    tasks = [
        asyncio.create_task(app.state.active_uploads.keep_alive()),
        asyncio.create_task(app.state.probe.run()),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for db_pool in pools:
            await db_pool.close(timeout=1)


def _from_state(name: str) -> Provide:
    def provide(request: Request[Any, Any, Any]) -> Any:
        return request.app.state[name]

    return Provide(provide, sync_to_thread=False)


async def _migrated_pool(request: Request[Any, Any, Any]) -> Pool:
    """The pool. Raises `MigrationsMissing`, before the handler has read or stored anything."""
    await request.app.state.schema.check()
    return request.app.state.db_pool


async def _importing(request: Request[Any, Any, Any]) -> Importing:
    """Raises as `_migrated_pool`."""
    state = request.app.state
    return Importing(
        pool=await _migrated_pool(request),
        settings=state.settings,
        admission=state.admission,
        active_uploads=state.active_uploads,
        turn=state.turn,
        stopping=state.stopping,
    )


def _request_id(request: Request[Any, Any, Any]) -> str:
    return problems.request_id(request.scope)
