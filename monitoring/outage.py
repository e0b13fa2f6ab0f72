"""Logs an outage of a database: at once, then once a minute, and when the database is reachable again."""

import time

import structlog

from monitoring.throttle import INTERVAL_SECONDS

log = structlog.get_logger(__name__)


class Outage:
    """The outage of one database as seen by one process. `database` is its name in the log; `fields` are added to each line."""

    def __init__(self, database: str = "database", **fields: object) -> None:
        self._unreachable, self._reachable = f"{database} is unreachable", f"{database} is reachable again"
        self._fields = fields
        # failed attempts since the last success
        self.failures = 0
        self._since = 0.0
        self._logged_at = 0.0
        self._logged_reasons: set[str] = set()

    @property
    def seconds(self) -> float | None:
        """The duration of the outage so far; None if the last attempt succeeded."""
        return time.monotonic() - self._since if self.failures else None

    def failed(self, error: Exception) -> None:
        """Records a failed attempt to connect. A reason that is new in this outage is logged at once."""
        now = time.monotonic()
        if self.failures == 0:
            self._since = now
        self.failures += 1
        reason = first_line(error)
        if reason not in self._logged_reasons or now - self._logged_at >= INTERVAL_SECONDS:
            self._logged_reasons.add(reason)
            self._logged_at = now
            log.warning(
                self._unreachable,
                **self._fields,
                error=reason,
                attempts=self.failures,
                seconds=round(now - self._since, 1),
            )

    def succeeded(self) -> None:
        """Records a successful attempt."""
        if self.failures:
            log.info(self._reachable, **self._fields, seconds=round(time.monotonic() - self._since, 1))
            self.failures = 0
            self._logged_reasons.clear()


def first_line(error: Exception) -> str:
    """The error without its detail lines, in which PostgreSQL quotes values of the row, and without file names.

    It is also the reason in the problem document of a failed export.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
