"""The application: the routes, and what their handlers are given."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.di import Provide

from api import health, resources, tickets
from api.console import routes as console
from api.exports import actions, routes, stream
from api.exports.admission import StreamAdmission
from api.http import openapi, problems
from api.http.auth import AccessControl
from api.http.middleware import Observed
from api.imports import actions as repairs
from api.imports import routes as imports
from api.imports.admission import Admission
from api.imports.uploads import ActiveUploads
from db.connections import pool
from db.connections.pool import Pool
from db.settings import Settings
from monitoring.outage import Outage

# for handlers that read their body whole; those that stream lift it and count for themselves
BODY_MAX_BYTES = 1024 * 1024

ROUTE_HANDLERS = [
    *health.HANDLERS,
    *resources.HANDLERS,
    *tickets.HANDLERS,
    *imports.HANDLERS,
    *repairs.HANDLERS,
    *stream.HANDLERS,
    *routes.HANDLERS,
    *actions.HANDLERS,
    *console.HANDLERS,
]


def create(settings: Settings) -> Litestar:
    """The application. Handlers may ask for what it is `given`, and for `request_id`, all by name.

    `draining` is set when the process is told to stop, `stopping` when it has closed its listener: a handler that answers
    without end must end its answer then.
    Raises `SettingsError` when DATABASE_URL is not set.
    """
    draining, stopping = asyncio.Event(), asyncio.Event()
    outage = Outage()
    db_pool = pool.create(settings, name="bulk api", monitor=outage)
    # the same outage as that of the first pool, so that it is logged once
    primary_streams = pool.create_for_streams(settings, name="bulk api streams", monitor=outage)
    standby = pool.create_standby(settings, name="bulk api streams", monitor=Outage("standby"))
    given = {
        "db_pool": db_pool,
        # where streaming exports read, in the order of preference
        "stream_pools": [standby, primary_streams] if standby else [primary_streams],
        "stream_admission": StreamAdmission(settings),
        "settings": settings,
        "draining": draining,
        "stopping": stopping,
        "schema": health.RequiredSchema(db_pool),
        "probe": health.Probe(db_pool, settings, draining),
        "admission": Admission(settings, stopping),
        "active_uploads": ActiveUploads(db_pool, settings),
    }
    app = Litestar(
        ROUTE_HANDLERS,
        state=State(given),
        dependencies={name: _from_state(name) for name in given}
        | {"db_pool": Provide(_migrated_pool), "request_id": Provide(_request_id, sync_to_thread=False)},
        exception_handlers=problems.HANDLERS,
        lifespan=[_connected],
        openapi_config=openapi.config(settings, version=health.version()),
        request_max_body_size=BODY_MAX_BYTES,
        # ours, in monitoring.logging
        logging_config=None,
    )
    # around the router, which is where the framework's own middleware does not reach
    app.asgi_handler = Observed(AccessControl(app.asgi_handler, settings), draining)
    return app


@asynccontextmanager
async def _connected(app: Litestar) -> AsyncIterator[None]:
    # without waiting: a database that is away is a matter of readiness, not of starting
    pools = [app.state.db_pool, *app.state.stream_pools]
    for db_pool in pools:
        await db_pool.open(wait=False)
    tasks = [
        asyncio.create_task(app.state.active_uploads.keep_alive()),
        asyncio.create_task(app.state.probe.pauses.run()),
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


def _request_id(request: Request[Any, Any, Any]) -> str:
    return problems.request_id(request.scope)
