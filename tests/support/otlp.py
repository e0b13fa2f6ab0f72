"""A collector of spans on a port of its own, which receives them by OTLP over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support.eventually import eventually

# the context of a client: trace id, span id and both with the flag `sampled` as the header
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT_SPAN = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CLIENT_SPAN}-01"


@dataclass(frozen=True)
class Span:
    """A span as it was received. Ids are hexadecimal, and empty where there is none. `links` are pairs of trace and span id."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    started_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    has_failed: bool


@dataclass
class Collector:
    """Holds all spans that it has received. With `hangs` it replies to no request."""

    port: int = 0
    hangs: bool = False
    spans: list[Span] = field(default_factory=list)
    requests: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, object]:
        """The settings of processes that send their spans here, soon after these have ended."""
        return {"otel_exporter_otlp_endpoint": self.url, "otel_bsp_schedule_delay": 50}

    def named(self, name: str, *, trace: str = TRACE) -> list[Span]:
        """The spans of this name in the trace, in no order."""
        return [span for span in self.spans if span.name == name and span.trace == trace]

    async def received(self, name: str, *, count: int = 1, trace: str = TRACE) -> list[Span]:
        """Waits for so many spans of this name in the trace."""
        await eventually(lambda: len(self.named(name, trace=trace)) >= count)
        spans = self.named(name, trace=trace)
        assert len(spans) == count, spans
        return spans

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                assert head.startswith("post /v1/traces http/1.1\r\n"), head
                length = next(line for line in head.splitlines() if line.startswith("content-length:"))
                body = await reader.readexactly(int(length.partition(":")[2]))
                self.requests += 1
                if self.hangs:
                    # until the sender closes the connection
                    await reader.read()
                self.spans += spans_of(body)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        writer.close()


@asynccontextmanager
async def collecting(*, hangs: bool = False) -> AsyncIterator[Collector]:
    collector = Collector(hangs=hangs)
    server = await asyncio.start_server(collector.serve, "127.0.0.1", 0)
    collector.port = server.sockets[0].getsockname()[1]
    try:
        yield collector
    finally:
        server.close()


def spans_of(body: bytes) -> list[Span]:
    return [
        _span(span, str(_values(of_resource.resource.attributes)["service.name"]))
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _span(span: SpanMessage, service: str) -> Span:
    return Span(
        service=service,
        name=span.name,
        kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        has_failed=span.status.code == Status.STATUS_CODE_ERROR,
    )


def _values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in attributes}
