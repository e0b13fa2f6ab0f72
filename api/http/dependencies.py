"""What the application gives to handlers that ask for it by name; see `api.app.create`."""

import asyncio

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from api.imports.uploads import Uploads
from db.connections.pool import Pool
from db.settings import Settings

PoolHere = NamedDependency[SkipValidation[Pool]]
SettingsHere = NamedDependency[SkipValidation[Settings]]
UploadsHere = NamedDependency[SkipValidation[Uploads]]
StoppingHere = NamedDependency[SkipValidation[asyncio.Event]]
