"""Rate-limited warnings: the first is logged, repeats at most once a minute with the number of those suppressed."""

import logging
import time

from structlog.stdlib import BoundLogger

INTERVAL_SECONDS = 60.0
# distinct lines that are remembered; beyond that all are forgotten
LINES_MAX = 1000

# when each line was logged last, and how often it was suppressed since
_logged: dict[object, tuple[float, int]] = {}


def warning(log: BoundLogger, event: str, **fields: object) -> None:
    """Logs a warning, unless the same event with the same fields was logged within the last minute."""
    suppressed = due((event, *fields.items()))
    if suppressed is not None:
        log.warning(event, **fields, **({"suppressed": suppressed} if suppressed else {}))


def due(line: object) -> int | None:
    """How often an equal `line` was suppressed since it was logged last; None if it is to be suppressed again."""
    now = time.monotonic()
    if len(_logged) > LINES_MAX:
        _logged.clear()
    logged_at, suppressed = _logged.get(line, (float("-inf"), 0))
    if now - logged_at < INTERVAL_SECONDS:
        _logged[line] = (logged_at, suppressed + 1)
        return None
    _logged[line] = (now, 0)
    return suppressed


def library_filter(record: logging.LogRecord) -> bool:
    """A filter for the logger of a library. Two records are equal if their format strings are."""
    return due((record.name, record.msg)) is not None
