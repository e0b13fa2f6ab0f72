"""Spans, exported by OTLP if an endpoint for them is set. Otherwise none is recorded, and OpenTelemetry is not imported.

A span's context is the text of the header `traceparent` (W3C Trace Context). That of a request is stored with the job that it
creates, so that the spans of the workers belong to its trace. `tracestate` is not read. README.md lists spans and attributes.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from db.settings import Settings, SettingsError

if TYPE_CHECKING:
    from monitoring.otlp import Recorder

Kind = Literal["internal", "server", "client", "consumer"]
# of attributes; those that are None are left out
Attributes: TypeAlias = Mapping[str, str | int | float | bool | None]

EXTRA = "tracing"
# of STOP_SECONDS, in which the last spans are exported
FLUSH_SHARE = 1 / 8

# version, trace id, span id and flags; ids of zeros and version ff are invalid, later versions may have more fields
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

_recorder: "Recorder | None" = None


class Span:
    """A span that is not recorded. `traceparent` is its own context, or its parent's if it has none."""

    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent

    def rename(self, name: str) -> None:
        pass

    def set(self, attributes: Attributes) -> None:
        pass

    def fail(self, error_type: str) -> None:
        """Marks the span as failed. `error_type` is from a short list, and never a message, which may quote a record."""

    def end(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.fail(kind.__name__)
        self.end()


def require(settings: Settings) -> None:
    """Raises `SettingsError` if spans are to be exported, and OpenTelemetry is not installed or refuses its variables.

    Starts nothing that would not survive a fork.
    """
    if settings.traces_variable is None:
        return
    try:
        # it reads some variables when it is imported
        from monitoring.otlp import check

        check()
    except ModuleNotFoundError:
        raise SettingsError(
            f"{settings.traces_variable}: needs OpenTelemetry, which is not installed; it is in the extra {EXTRA}"
        ) from None
    except ValueError as error:
        raise SettingsError(f"OTEL_*: OpenTelemetry refuses one of its variables: {error}") from None


@contextmanager
def recording(settings: Settings, *, process: Literal["api", "workers"]) -> Iterator[None]:
    """Records the spans of this process while the block runs, if an endpoint is set. Starts a thread: call it after a fork."""
    global _recorder
    if settings.traces_variable is None:
        yield
        return
    from monitoring.otlp import Recorder

    recorder = _recorder = Recorder(process)
    try:
        yield
    finally:
        _recorder = None
        recorder.close(FLUSH_SHARE * settings.stop_seconds)


def received(headers: Sequence[str]) -> str | None:
    """The context in the values of the header `traceparent`. None if there is none, several, or it is malformed."""
    match = _TRACEPARENT.fullmatch(headers[0]) if len(headers) == 1 else None
    if match is None or (match[1] == "00" and match[4]):
        return None
    # of the flags, those that this version knows: sampled, and a random trace id
    return f"00-{match[2]}-{int(match[3], 16) & 3:02x}"


def log_fields(traceparent: str | None) -> dict[str, str]:
    """The field of log lines about what belongs to this trace."""
    return {} if traceparent is None else {"trace_id": traceparent.split("-")[1]}


def new_span_id() -> str | None:
    """An id for a span that is started later. None if no spans are recorded."""
    return None if _recorder is None else f"{random.getrandbits(64) or 1:016x}"


def server_span(name: str, parent: str | None) -> Span:
    """The span of a request. It begins a trace if the request does not belong to one."""
    return Span(parent) if _recorder is None else _recorder.start(name, parent, kind="server")


def span(
    name: str,
    parent: str | None,
    attributes: Attributes,
    *,
    kind: Kind = "internal",
    id: str | None = None,
    linked_id: str | None = None,
    started_ns: int | None = None,
) -> Span:
    """A span in the trace of `parent`; without one it is not recorded. To be used in a `with` statement.

    `id`: its span id, from `new_span_id`. `linked_id`: that of another span of the trace, to which it has a link.
    """
    if _recorder is None or parent is None:
        return Span(parent)
    started = _recorder.start(name, parent, kind=kind, id=id, linked_id=linked_id, started_ns=started_ns)
    started.set(attributes)
    return started
