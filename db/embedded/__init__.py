"""The PostgreSQL for development and small machines; `python -m db.embedded` is its command line.

`run` starts it, runs a command with DATABASE_URL set, and stops it. The service only reads DATABASE_URL: nothing but tests
imports this package. It may import `db.settings`.
"""

from db.embedded.access import TCP
from db.embedded.binaries import EmbeddedError
from db.embedded.server import NotRunning, die_with_parent, has_crashed, running, start, stop, url

__all__ = ["TCP", "EmbeddedError", "NotRunning", "die_with_parent", "has_crashed", "running", "start", "stop", "url"]
