"""Dependencies of handlers: an argument with one of these names and types is provided by `api.app.create`."""

import asyncio

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from db.connections.pool import Pool
from db.settings import Settings

PoolHere = NamedDependency[SkipValidation[Pool]]
SettingsHere = NamedDependency[SkipValidation[Settings]]
StoppingHere = NamedDependency[SkipValidation[asyncio.Event]]
