"""Structured logging, one line per event, for the service and its libraries alike.

Lines never contain bodies, parameter values, keys or personal data. The ids of requests, jobs and chunks are bound with
`structlog.contextvars.bind_contextvars` and are then part of every line of the task.
"""

import logging
import os
import re
import sys
from datetime import datetime
from typing import Literal

import structlog
from structlog.dev import BRIGHT, CYAN, DIM, GREEN, RED, RESET_ALL, YELLOW, Column, KeyValueColumnFormatter
from structlog.types import EventDict, Processor, WrappedLogger

from db.settings import Settings
from monitoring import throttle

# PostgreSQL quotes values of the row in these lines of an error, and a traceback contains the error
_QUOTED_DATA = re.compile(r"^(DETAIL|CONTEXT):.*$", re.MULTILINE)
# control characters, including those that change the direction of writing
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROLS_IN_LINES = re.compile(r"(?!\n)" + _CONTROLS.pattern)

# fields that the console leaves out: honcho prints the process, and the event is more telling than the logger
_CONSOLE_OMITS = ("process", "logger")
# of a longer traceback the console prints the first line and the last lines
TRACEBACK_LINES_MAX = 24
EVENT_WIDTH = 30
LEVEL_COLOURS = {"debug": DIM, "info": GREEN, "warning": YELLOW, "error": RED, "critical": RED}


def setup(settings: Settings, *, process: Literal["api", "worker"]) -> None:
    """Configures structlog and the standard library's logging to write to standard output; `process` is part of every line."""
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
    # it logs the URL of each request, which may contain a token, and at the level of debug the headers of responses
    for library in ("httpx", "httpcore", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("psycopg").addFilter(_is_first_error)
    logging.getLogger("psycopg.pool").addFilter(_pool_filter)


def _is_first_error(record: logging.LogRecord) -> bool:
    """Drops the lines about errors in the cleanup after another error, which is raised and logged where it is handled."""
    return not str(record.msg).startswith("error ignored ")


def _pool_filter(record: logging.LogRecord) -> bool:
    """Drops the lines about failed attempts to connect, which `monitoring.outage` logs, and throttles the others."""
    is_attempt = str(record.msg).startswith(("error connecting in", "reconnection attempt in"))
    return not is_attempt and throttle.library_filter(record)


def _shared(process: str) -> list[Processor]:
    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_process,
    ]


def _rendering(settings: Settings) -> list[Processor]:
    # The text of `format_exc_info` is used: structlog's own tracebacks show local variables, which contain records.
    shared = [structlog.processors.format_exc_info, _without_data]
    if settings.log_format == "console" or (settings.log_format == "auto" and sys.stdout.isatty()):
        return [*shared, _without_controls, _for_console, _console(is_coloured=_is_coloured())]
    return [*shared, structlog.processors.JSONRenderer()]


def _is_coloured() -> bool:
    """NO_COLOR and FORCE_COLOR are the conventions of no-color.org and force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()


def _console(*, is_coloured: bool) -> structlog.dev.ConsoleRenderer:
    """Aligned columns: time, level, event, then the other fields as name=value in the order of the call."""

    def column(name: str, colour: str, width: int = 0, *, has_name: bool = False) -> Column:
        style, reset = (colour, RESET_ALL) if is_coloured else ("", "")
        key_style = (DIM if is_coloured else "") if has_name else None
        return Column(name, KeyValueColumnFormatter(key_style, style, reset, _value, width))

    def level(key: str, value: object) -> str:
        del key
        text = f"{value!s:<7}"
        return f"{LEVEL_COLOURS.get(str(value), '')}{text}{RESET_ALL}" if is_coloured else text

    return structlog.dev.ConsoleRenderer(
        columns=[
            column("timestamp", DIM),
            Column("level", level),
            column("event", BRIGHT, EVENT_WIDTH),
            column("", CYAN, has_name=True),
        ],
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,
    )


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if isinstance(value, str) and (not text or '"' in text) else text


def _for_console(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Local time, no empty fields, a request as one phrase, and a traceback of limited length."""
    for name in (*_CONSOLE_OMITS, *(name for name, value in event.items() if value is None)):
        event.pop(name, None)
    event["timestamp"] = _local_time(event["timestamp"])
    if event["event"] == "request":
        event["event"] = f"{event.pop('method')} {event.pop('route')} {event.pop('status')}"
    if "exception" in event:
        event["exception"] = _shortened(event["exception"])
    return event


def _local_time(timestamp: str) -> str:
    return datetime.fromisoformat(timestamp).astimezone().strftime("%H:%M:%S")


def _shortened(traceback: str) -> str:
    lines = traceback.splitlines()
    if len(lines) <= TRACEBACK_LINES_MAX:
        return traceback
    omitted = len(lines) - TRACEBACK_LINES_MAX
    return "\n".join([lines[0], f"  … {omitted} lines …", *lines[-(TRACEBACK_LINES_MAX - 1) :]])


def _without_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escapes control characters, so that a client's text cannot move the cursor or forge a line. JSON escapes them anyway."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = (_CONTROLS_IN_LINES if name == "exception" else _CONTROLS).sub(_escaped, value)
    return event


def _escaped(control: re.Match[str]) -> str:
    return ascii(control[0])[1:-1]


def _without_data(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if "exception" in event:
        event["exception"] = _QUOTED_DATA.sub(r"\1: (removed)", event["exception"])
    return event
