"""One line an event, structured, from our own code and from the libraries alike.

What is never in a line: bodies, values of parameters, keys, anything personal. Ids of requests, jobs and chunks are bound
once, with `structlog.contextvars.bind_contextvars`, and then stand in every line of that task.
"""

import logging
import re
import sys
from typing import Literal

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from db.settings import Settings
from monitoring import throttle

# PostgreSQL quotes the offending row in these lines of its errors, and tracebacks quote the error
_QUOTED_DATA = re.compile(r"^(DETAIL|CONTEXT):.*$", re.MULTILINE)
# also those that turn the direction of writing
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROLS_IN_LINES = re.compile(r"(?!\n)" + _CONTROLS.pattern)


def setup(settings: Settings, *, process: Literal["api", "worker"]) -> None:
    """Sets up structlog and the standard library's logging; `process` stands in every line. Writes to standard output."""
    shared = _shared(process)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(settings)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    logging.getLogger("psycopg.pool").addFilter(_of_the_pool)


def _of_the_pool(record: logging.LogRecord) -> bool:
    """Each attempt to connect is told in two lines, of which `monitoring.outage` makes few; the others do repeat, but seldom."""
    is_attempt = str(record.msg).startswith(("error connecting in", "reconnection attempt in"))
    return not is_attempt and throttle.of_a_library(record)


def _shared(process: str) -> list[Processor]:
    def named(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        named,
    ]


def _rendering(settings: Settings) -> list[Processor]:
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stdout.isatty())
    if console:
        # it prints the text that `format_exc_info` made: its own pretty tracebacks show local variables, which hold records
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        return [structlog.processors.format_exc_info, _without_data, _without_controls, renderer]
    return [structlog.processors.format_exc_info, _without_data, structlog.processors.JSONRenderer()]


def _without_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """What came from outside cannot move the cursor, nor begin a line that looks like one of ours; JSON escapes it anyway."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = (_CONTROLS_IN_LINES if name == "exception" else _CONTROLS).sub(_escaped, value)
    return event


def _escaped(control: re.Match[str]) -> str:
    return ascii(control[0])[1:-1]


def _without_data(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if "exception" in event:
        event["exception"] = _QUOTED_DATA.sub(r"\1: (left out)", event["exception"])
    return event
