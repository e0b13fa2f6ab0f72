"""A database that is away, as the log has it: told at once, then once a minute, and when it is back."""

import time

import structlog

from monitoring.throttle import EVERY_SECONDS

log = structlog.get_logger(__name__)


class Outage:
    """What one process, or one worker, knows of one database. `database` is its word in the log, `names` stand in each line."""

    def __init__(self, database: str = "database", **names: object) -> None:
        self._away, self._back = f"{database} is away", f"{database} is back"
        self.names = names
        # attempts that have failed since it was there last
        self.failures = 0
        self._since = 0.0
        self._told_at = 0.0
        self._told: set[str] = set()

    @property
    def seconds(self) -> float | None:
        """For how long it has been away; None while it is there."""
        return time.monotonic() - self._since if self.failures else None

    def away(self, error: Exception) -> None:
        """An attempt has failed. A reason that was not told in this outage is told at once."""
        now = time.monotonic()
        if self.failures == 0:
            self._since = now
        self.failures += 1
        reason = first_line(error)
        if reason not in self._told or now - self._told_at >= EVERY_SECONDS:
            self._told.add(reason)
            self._told_at = now
            log.warning(
                self._away,
                **self.names,
                error=reason,
                attempts=self.failures,
                seconds=round(now - self._since, 1),
            )

    def back(self) -> None:
        """An attempt has succeeded."""
        if self.failures:
            log.info(self._back, **self.names, seconds=round(time.monotonic() - self._since, 1))
            self.failures = 0
            self._told.clear()


def first_line(error: Exception) -> str:
    """What happened, without the detail lines, in which PostgreSQL quotes values of the row, and without paths of files.

    It is the reason that the client of a failed export is told.
    """
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {told.splitlines()[0] if told else ''}"
