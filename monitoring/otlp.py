"""Records spans with the SDK of OpenTelemetry, and exports them from a thread of its own. Needs the extra `tracing`.

The SDK and the exporter read the variables OTEL_* themselves. The queue of ended spans is limited: when the collector is slow or
down, the oldest are dropped. Nothing waits for it but `close`.
"""

import logging
import os
import socket
from threading import Thread
from typing import Literal

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from monitoring import throttle
from monitoring.tracing import Attributes, Kind, Span

log = structlog.get_logger(__name__)


# far more than the end of a recorder without spans takes
CHECK_SECONDS = 10.0


def check() -> None:
    """Raises `ValueError` if a recorder cannot be made, because of one of the variables OTEL_*."""
    Recorder("api").close(CHECK_SECONDS)


class Recorder:
    """The tracer of one process. Its thread does not survive a fork."""

    def __init__(self, process: Literal["api", "workers"]) -> None:
        library = logging.getLogger("opentelemetry")
        library.handlers = [_Throttled()]
        library.propagate = False
        usual = {"service.name": f"bulk-{process}", "service.instance.id": f"{socket.gethostname()}:{os.getpid()}"}
        self._ids = _Ids()
        self._provider = TracerProvider(
            # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have priority
            resource=Resource.create(usual).merge(OTELResourceDetector().detect()),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("bulk")

    def start(
        self,
        name: str,
        parent: str | None,
        *,
        kind: Kind,
        id: str | None = None,
        linked_id: str | None = None,
        started_ns: int | None = None,
    ) -> Span:
        # without a parent empty, for a root: None would stand for the current context
        above = Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(_context(parent)))
        links = [] if parent is None or linked_id is None else [Link(_context(parent, linked_id))]
        self._ids.next_span_id = None if id is None else int(id, 16)
        started = self._tracer.start_span(name, above, kind=SpanKind[kind.upper()], links=links, start_time=started_ns)
        return _Recorded(started, parent)

    def close(self, seconds: float) -> None:
        """Exports the spans that have ended, within `seconds`; afterwards the threads end with the process."""
        closing = Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(seconds)
        if closing.is_alive():
            log.warning("last spans not exported", seconds=seconds)


class _Recorded(Span):
    def __init__(self, span: trace.Span, parent: str | None) -> None:
        context = span.get_span_context()
        # it is not valid if OTEL_SDK_DISABLED is set
        super().__init__(_traceparent(context) if context.is_valid else parent)
        self._span = span

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def fail(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        self._span.end()


class _Ids(RandomIdGenerator):
    """Random ids, but for a span whose id was stored before it starts."""

    def __init__(self) -> None:
        self.next_span_id: int | None = None

    def generate_span_id(self) -> int:
        id, self.next_span_id = self.next_span_id, None
        return id or super().generate_span_id()


class _Throttled(logging.Handler):
    """Passes on what OpenTelemetry logs, equal lines once a minute."""

    def emit(self, record: logging.LogRecord) -> None:
        if throttle.library_filter(record):
            logging.getLogger().handle(record)


def _context(traceparent: str, span_id: str | None = None) -> SpanContext:
    _, trace_id, own_id, flags = traceparent.split("-")
    return SpanContext(
        int(trace_id, 16), int(span_id or own_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
