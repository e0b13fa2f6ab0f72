"""The PostgreSQL that runs when DATABASE_URL is unset; `python -m db.embedded` is its command line."""

from db.embedded.binaries import EmbeddedError
from db.embedded.server import NotRunning, die_with_parent, has_crashed, running, start, stop, url

__all__ = ["EmbeddedError", "NotRunning", "die_with_parent", "has_crashed", "running", "start", "stop", "url"]
