"""What a handler that creates an import needs of its process."""

import asyncio
from typing import NamedTuple

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from api.imports.admission import Admission
from api.imports.turn import Turn
from api.imports.uploads import ActiveUploads
from db.connections.pool import Pool
from db.settings import Settings


class Importing(NamedTuple):
    """One dependency instead of six: the framework starts a task for each of several."""

    pool: Pool
    settings: Settings
    admission: Admission
    active_uploads: ActiveUploads
    turn: Turn
    stopping: asyncio.Event


ImportingHere = NamedDependency[SkipValidation[Importing]]
