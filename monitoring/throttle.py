"""What would be said again and again is said once, then once a minute, with the number of times that it was left out."""

import logging
import time

from structlog.stdlib import BoundLogger

EVERY_SECONDS = 60.0
# lines that are told apart; should there ever be more, all of them are told anew
_KINDS_MAX = 1000

# what was told: when, and how often it was left out since
_told: dict[object, tuple[float, int]] = {}


def warning(log: BoundLogger, event: str, **fields: object) -> None:
    """Warns of `event`, unless the same was told with the same `fields` within the last minute."""
    left_out = due((event, *fields.items()))
    if left_out is not None:
        log.warning(event, **fields, **({"left_out": left_out} if left_out else {}))


def due(line: object) -> int | None:
    """How often `line`, told apart by equality, was left out since it was told last; None: leave it out this time too."""
    now = time.monotonic()
    if len(_told) > _KINDS_MAX:
        _told.clear()
    told_at, left_out = _told.get(line, (float("-inf"), 0))
    if now - told_at < EVERY_SECONDS:
        _told[line] = (told_at, left_out + 1)
        return None
    _told[line] = (now, 0)
    return left_out


def of_a_library(record: logging.LogRecord) -> bool:
    """A filter for the logger of a library, whose lines are told apart by their text without its arguments."""
    return due((record.name, record.msg)) is not None
