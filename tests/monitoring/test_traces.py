"""Spans of real processes, received by a collector: imports, exports, webhooks, interrupted chunks, collectors that fail."""

import asyncio
import os
import signal
from uuid import UUID

import httpx

from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.eventually import PATIENCE_SECONDS, eventually, in_time
from tests.support.exports import EXPORTS, STREAM, completed
from tests.support.factories import chunk, queued, rows, stored_user, user, users
from tests.support.otlp import CLIENT_SPAN, TRACE, TRACEPARENT, Span, collecting
from tests.support.service import Service
from tests.support.webhooks import receiving, response, setting
from tests.support.workers import HELD, ended, started, stuck

HEADERS = {"traceparent": TRACEPARENT, "content-type": "text/csv"}
# longer than any test lasts
LONG_SECONDS = 600


def client_of(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=service.url, timeout=PATIENCE_SECONDS)


async def test_an_import_is_one_trace(service, conn):
    """The spans of upload, chunks, settling and end are in the client's trace, below the span of the request."""
    file = USERS_HEADER + b"".join(map(user_row, [1, 2, 3])) + b"nobody,,,\n" + user_row(1)
    async with collecting() as collector:
        running = await service(worker_pool_size=2, batch_size=2, claim_chunks_max=1, **collector.settings)
        async with client_of(running) as client:
            posted = await client.post(PATH, params={"resource": "users"}, content=file, headers=HEADERS)
        assert posted.status_code == 202
        id = posted.json()["id"]
        [end] = await collector.received("import end")
        chunks = await collector.received("import chunk", count=3)
        [settle] = await collector.received("import settle")
        [upload] = await collector.received(f"POST {PATH}")

    assert (upload.parent, upload.kind, upload.service, upload.has_failed) == (CLIENT_SPAN, "server", "bulk-api", False)
    assert upload.attributes == {
        "http.request.method": "POST",
        "http.route": PATH,
        "url.path": PATH,
        "url.scheme": "http",
        "http.response.status_code": 202,
        "http.request.body.size": len(file),
        "http.response.body.size": len(posted.content),
        "bulk.job.id": id,
        "bulk.job.kind": "import",
        "bulk.resource": "users",
        "bulk.records": 5,
        "bulk.outcome": "created",
    }
    below = [*chunks, settle, end]
    assert {(span.parent, span.service, span.has_failed) for span in below} == {(upload.id, "bulk-workers", False)}
    assert len({span.id for span in below}) == len(below)
    assert all(span.attributes["bulk.job.id"] == id and span.attributes["bulk.resource"] == "users" for span in below)
    assert all(span.started_ns <= span.ended_ns and span.links == [] for span in below)
    # the two records with the same key are in the first chunk and the last; the settling decides between them
    assert {span.attributes["bulk.chunk.number"]: _counts(span) for span in chunks} == {1: (2, 0), 2: (2, 1), 3: (1, 0)}
    assert {span.attributes["bulk.outcome"] for span in [*chunks, settle]} == {"done"}
    assert settle.attributes["bulk.chunk.number"] == 4
    assert (end.attributes["bulk.outcome"], _counts(end)) == ("partial", (5, 2))
    [request] = [line for line in running.api.logged("request") if line["route"] == PATH]
    [finished] = running.workers.logged("import finished")
    assert request["trace_id"] == finished["trace_id"] == TRACE
    assert await rows(conn, "SELECT traceparent FROM import_jobs") == [(f"00-{TRACE}-{upload.id}-01",)]


def _counts(span: Span) -> tuple[int, int]:
    return span.attributes["bulk.records"], span.attributes["bulk.refused"]


async def test_a_request_without_a_context_begins_a_trace(service):
    """So does one whose traceparent is malformed. Probes have no span, and a path that is not a route is not recorded."""
    async with collecting() as collector:
        running = await service(run=["api"], otel_service_name="crm-bulk", **collector.settings)
        async with client_of(running) as client:
            await client.get("/ready", headers={"traceparent": TRACEPARENT})
            await client.get("/grace@example.org?name=Grace", headers={"traceparent": TRACEPARENT[:-1]})
            await client.get(PATH)
        await eventually(lambda: len(collector.spans) >= 2)
        assert await running.api.stop() == 0
    unknown, known = sorted(collector.spans, key=lambda span: span.name)
    assert (unknown.name, unknown.parent, known.name, known.parent) == ("GET", "", f"GET {PATH}", "")
    assert len({TRACE, unknown.trace, known.trace}) == 3
    assert unknown.attributes["http.response.status_code"] == 404
    assert not {"url.path", "http.route"} & unknown.attributes.keys()
    assert "grace" not in str(collector.spans).lower()
    assert {span.service for span in collector.spans} == {"crm-bulk"}


async def test_a_trace_that_is_not_sampled_is_not_recorded(service, conn):
    """Neither the request nor its import has a span, and the job keeps the client's decision."""
    async with collecting() as collector:
        running = await service(worker_pool_size=1, **collector.settings)
        async with client_of(running) as client:
            for flags in ("00", "01"):
                headers = HEADERS | {"traceparent": TRACEPARENT[:-2] + flags}
                content = USERS_HEADER + user_row(int(flags))
                posted = await client.post(PATH, params={"resource": "users"}, content=content, headers=headers)
                await ended(conn, UUID(posted.json()["id"]))
        await collector.received("import end")
        await collector.received(f"POST {PATH}")
        await collector.received("import chunk")


async def test_every_kind_of_job_keeps_the_context(service, conn):
    """An import, its repair, a retry, a dry run, its commit, an export; also while spans are not recorded. Others have none."""
    running = await service(worker_pool_size=1)
    file = USERS_HEADER + user_row(1) + b"nobody,,,\n"
    headers = dict(HEADERS)
    async with client_of(running) as client:

        async def post(path: str, content: bytes = b"", **params: str) -> str:
            posted = await client.post(path, params=params, content=content, headers=headers)
            assert posted.status_code == 202, posted.text
            await ended(conn, UUID(posted.json()["id"]))
            return posted.json()["id"]

        parent = await post(PATH, file, resource="users")
        refused = await client.get(f"{PATH}/{parent}/failed-records", params={"annotate": "true"})
        await post(PATH, refused.content, repairs=parent)
        other = await post(PATH, file, resource="users")
        await post(f"{PATH}/{other}/retry")
        dry_run = await post(PATH, file, resource="users", dry_run="true")
        await post(f"{PATH}/{dry_run}/commit")
        await client.post(EXPORTS, json={"resource": "users"}, headers={"traceparent": TRACEPARENT})
        assert await rows(conn, "SELECT relation, traceparent FROM import_jobs ORDER BY relation") == [
            (relation, TRACEPARENT) for relation in ("commit", "repair", "retry", None, None, None)
        ]
        assert await rows(conn, "SELECT traceparent FROM export_jobs") == [(TRACEPARENT,)]
        headers["traceparent"] = TRACEPARENT[:-1]
        malformed = await post(PATH, file, resource="users")
    assert await rows(conn, "SELECT id::text FROM import_jobs WHERE traceparent IS NULL") == [(malformed,)]
    assert await rows(conn, "SELECT FROM chunks WHERE first_span_id IS NOT NULL") == []


async def test_exports_have_spans(service, conn):
    """A background export: the request, the attempt of a worker, the end. A stream: the request, until its last byte."""
    await stored_user(conn, 1)
    async with collecting() as collector:
        running = await service(worker_pool_size=1, **collector.settings)
        async with client_of(running) as client:
            created = await client.post(EXPORTS, json={"resource": "users"}, headers={"traceparent": TRACEPARENT})
            job = await completed(client, created.headers["location"])
            await client.get(STREAM.format("users"), headers={"traceparent": TRACEPARENT})
        [stream] = await collector.received("GET /api/v1/exports/{resource}/stream")
        [request] = await collector.received(f"POST {EXPORTS}")
        [attempt] = await collector.received("export chunk")
        [end] = await collector.received("export end")
    assert (stream.parent, request.parent) == (CLIENT_SPAN, CLIENT_SPAN)
    assert (attempt.parent, end.parent) == (request.id, request.id)
    for span, outcome in ((stream, "done"), (attempt, "done"), (end, "completed")):
        assert (span.attributes["bulk.outcome"], span.attributes["bulk.records"]) == (outcome, 1)
        assert span.attributes["bulk.resource"] == "users"
    assert {span.attributes["bulk.job.id"] for span in (request, attempt, end)} == {job["id"]}
    assert stream.attributes["url.path"] == STREAM.format("users")


async def test_webhooks_have_spans(service, conn):
    """One for each attempt at a delivery, in the trace of the job."""
    async with collecting() as collector, receiving(response(500), response(204)) as receiver:
        await service(run=["workers"], worker_pool_size=1, webhooks=setting(receiver.endpoint()), **collector.settings)
        await queued(conn, users(1), traceparent=TRACEPARENT)
        await collector.received("webhook delivery")
        await eventually(lambda: rows(conn, "SELECT FROM webhook_deliveries WHERE state = 'pending'"))
        await conn.execute("UPDATE webhook_deliveries SET next_attempt_at = now()")
        spans = await collector.received("webhook delivery", count=2)
    failed, delivered = sorted(spans, key=lambda span: span.attributes["bulk.attempt"])
    assert (failed.has_failed, failed.attributes["http.response.status_code"]) == (True, 500)
    assert (delivered.has_failed, delivered.attributes["http.response.status_code"]) == (False, 204)
    assert (delivered.attributes["bulk.attempt"], delivered.attributes["bulk.webhook.endpoint"]) == (2, "crm")
    assert "traceparent" not in receiver.requests[1].headers


async def test_a_reclaimed_chunk_has_a_link_to_its_first_attempt(service, conn, hold):
    """The span of a worker that was killed is lost. Those of the next attempts at all its chunks have links to it."""
    # three chunks that one worker claims together
    records = [user(1), user(2, name=HELD), user(3)]
    async with collecting() as collector:
        id = await queued(conn, records, sizes=[1, 1, 1], traceparent=TRACEPARENT)
        async with hold(HELD):
            await started(service, workers=1, claim_grace_seconds=0.5, **collector.settings)
            victim = await stuck(conn, id, 1)
            [(first, chunks)] = await rows(
                conn, "SELECT first_span_id, count(*) FROM chunks WHERE state = 'running' GROUP BY first_span_id"
            )
            assert chunks == 3
            os.kill(victim, signal.SIGKILL)
        assert (await ended(conn, id)).created == 3
        reclaimed = await collector.received("import chunk", count=3)
    assert sorted(span.attributes["bulk.chunk.number"] for span in reclaimed) == [1, 2, 3]
    for span in reclaimed:
        assert span.links == [(TRACE, first)]
        assert (span.attributes["bulk.attempt"], span.attributes["bulk.crashes"]) == (2, 1)
        assert (span.attributes["bulk.outcome"], span.parent) == ("done", CLIENT_SPAN)
    assert first not in {span.id for span in collector.spans}
    assert (await chunk(conn, id, 2))["first_span_id"] == first


async def test_the_last_spans_are_exported_at_the_stop(service, conn, hold):
    """A worker that stops gives its chunk back, and exports the span of that attempt, to which the next one has a link."""
    async with collecting() as collector:
        id = await queued(conn, [user(1, name=HELD)], traceparent=TRACEPARENT)
        settings = collector.settings | {"otel_bsp_schedule_delay": LONG_SECONDS * 1000}
        async with hold(HELD):
            processes = await started(service, workers=1, **settings)
            await stuck(conn, id, 1)
            assert collector.spans == []
            assert await processes.stop() == 0
        [first] = await collector.received("import chunk")
        processes = await started(service, workers=1, **settings)
        await ended(conn, id)
        assert await processes.stop() == 0
        spans = await collector.received("import chunk", count=2)
    [second] = [span for span in spans if span != first]
    assert (first.attributes["bulk.outcome"], first.links) == ("interrupted", [])
    assert (second.attributes["bulk.outcome"], second.links) == ("done", [(TRACE, first.id)])


async def test_a_chunk_that_fails_has_the_reason(service, conn):
    """An attempt after which the chunk was given back has failed; the reason is the name of the error, without its message."""
    await conn.execute(
        """
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'grace@example.org' USING ERRCODE = 'XX000'; END $$;
        CREATE TRIGGER fail BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION fail()
        """
    )
    async with collecting() as collector:
        id = await queued(conn, users(1), traceparent=TRACEPARENT)
        await started(service, workers=1, attempts_max=1, **collector.settings)
        assert (await ended(conn, id)).status == "failed"
        [attempt] = await collector.received("import chunk")
        [end] = await collector.received("import end")
    assert (attempt.has_failed, attempt.attributes["bulk.outcome"]) == (True, "failed")
    assert attempt.attributes["error.type"] == "InternalError_"
    assert (end.has_failed, end.attributes["bulk.outcome"]) == (True, "failed")
    assert "grace" not in str(collector.spans)


async def test_a_collector_that_hangs_hinders_nothing(service, conn):
    """Imports go on while no span can be exported, and both processes end in time, without having exported the last spans."""
    async with collecting(hangs=True) as collector:
        running = await service(
            worker_pool_size=2,
            otel_exporter_otlp_timeout=LONG_SECONDS,
            # others are dropped
            otel_bsp_max_queue_size=4,
            otel_bsp_max_export_batch_size=2,
            **collector.settings,
        )
        await _imports_and_ends(running, conn)
        # each process waits for the reply to one request
        assert 1 <= collector.requests <= 3
    assert running.api.logged("last spans not exported")
    assert running.workers.logged("last spans not exported")


async def test_a_collector_that_is_down_hinders_nothing(service, conn):
    """The same if nothing listens on the address of the collector. The reason is logged."""
    running = await service(
        worker_pool_size=2, otel_exporter_otlp_endpoint="http://127.0.0.1:1", otel_bsp_schedule_delay=50
    )
    await _imports_and_ends(running, conn)
    reasons = [line for line in running.workers.log_lines() if line["logger"].startswith("opentelemetry.")]
    assert any("Connection refused" in line["event"] for line in reasons)


async def _imports_and_ends(running: Service, conn) -> None:
    async with client_of(running) as client:
        for n in range(10):
            posted = await client.post(
                PATH, params={"resource": "users"}, content=USERS_HEADER + user_row(n), headers=HEADERS
            )
            assert posted.status_code == 202
            assert (await ended(conn, UUID(posted.json()["id"]))).created == 1
    codes = await asyncio.gather(in_time(running.api.stop()), in_time(running.workers.stop()))
    assert codes == [0, 0]
    assert not running.workers.logged("worker did not stop in time, killed")
