"""The PostgreSQL for development and small machines; `python -m db.embedded` is its command line.

`run` starts it around a command with DATABASE_URL set, which is all that the rest of the service knows of it: no other package
but tests imports this one. May import `db.settings`.
"""

from db.embedded.access import TCP
from db.embedded.binaries import EmbeddedError
from db.embedded.server import NotRunning, die_with_parent, has_crashed, running, start, stop, url

__all__ = ["TCP", "EmbeddedError", "NotRunning", "die_with_parent", "has_crashed", "running", "start", "stop", "url"]
