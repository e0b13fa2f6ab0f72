"""The queue of webhook deliveries: rows that come with the end of a job, claims, leases, results."""

import asyncio
import re
from uuid import UUID, uuid4

import pytest
from psycopg.rows import dict_row

import db.jobs
from db.exports import completion as export_completion
from db.exports import retention as export_retention
from db.imports import actions, completion, jobs, retention
from db.imports.budget import apply_error_budget
from db.webhooks import deliveries
from db.webhooks.endpoints import EVENTS, Endpoint
from tests.support import ROOT
from tests.support.exports import create
from tests.support.factories import blocked, claim, perform, queued, rows, users
from tests.support.webhooks import SECRET

# see tests/README.md
THROUGH_PGBOUNCER = True

LEASE_SECONDS = 30


def endpoint(name: str = "crm", *events: str) -> Endpoint:
    return Endpoint(name=name, url="http://127.0.0.1:1/", secrets=(SECRET,), events=events or EVENTS)


CRM = endpoint()


async def ended(conn, *endpoints: Endpoint, number: int = 1) -> UUID:
    """A completed import."""
    id = await queued(conn, users(1, first=number))
    await perform(conn, await claim(conn))
    await completion.finish(conn, id, endpoints=endpoints)
    return id


async def due(conn, *, slots: int = 10, name: str = "crm") -> list[deliveries.Delivery]:
    return await deliveries.claim(conn, {name: slots}, lease_seconds=LEASE_SECONDS)


async def one_due(conn) -> deliveries.Delivery:
    [delivery] = await due(conn)
    return delivery


async def pass_time(conn, seconds: float) -> None:
    """Makes what is due within so many seconds due now."""
    await conn.execute(
        "UPDATE webhook_deliveries SET next_attempt_at = next_attempt_at - %(seconds)s * interval '1 second'",
        {"seconds": seconds},
    )


async def queued_deliveries(conn) -> list[tuple[str, str]]:
    return await rows(conn, "SELECT endpoint, event FROM webhook_deliveries ORDER BY endpoint, created_at")


async def state(conn, delivery: deliveries.Delivery) -> tuple:
    [row] = await rows(
        conn, "SELECT state, attempts, lease, error FROM webhook_deliveries WHERE id = %(id)s", id=delivery.id
    )
    return row


async def import_ended_as(conn, status: str) -> None:
    records = [{"email": "none"}, *users(1)] if status == "failed" else users(2)
    id = await queued(conn, records, sizes=[1, 1], on_error="stop")
    if status == "cancelled":
        await db.jobs.cancel(conn, "import", id)
    else:
        for _ in range(1 if status == "failed" else 2):
            await perform(conn, await claim(conn))
    await apply_error_budget(conn, id)
    [end] = await completion.finish(conn, id, endpoints=[CRM])
    assert end.status == status


async def export_ended_as(conn, status: str) -> None:
    id = await create(conn, "users")
    if status == "cancelled":
        await db.jobs.cancel(conn, "export", id)
    else:
        await claim(conn)
        await conn.execute(
            """
            UPDATE export_jobs
            SET file_name = 'f', file_bytes = 1, file_records = 1, file_sha256 = ''
            WHERE id = %(id)s
            """,
            {"id": id},
        )
        await conn.execute(
            "UPDATE chunks SET state = %(state)s, finished_at = now() WHERE job_id = %(id)s",
            {"id": id, "state": "done" if status == "completed" else status},
        )
    end = await export_completion.finish(conn, id, endpoints=[CRM])
    assert end is not None
    assert end.status == status


@pytest.mark.parametrize("event", EVENTS)
async def test_each_end_of_a_job_has_its_delivery(conn, event):
    """The end of an import and of an export, in each status, inserts one row for the endpoint."""
    kind, _, status = event.partition(".")
    await (import_ended_as if kind == "import" else export_ended_as)(conn, status)
    assert await queued_deliveries(conn) == [("crm", event)]


async def test_an_endpoint_gets_only_the_events_that_it_asks_for(conn):
    """Of several endpoints those get a row whose events include that of the end."""
    others = endpoint("failures", "import.failed"), endpoint("exports", "export.completed")
    await ended(conn, *others)
    assert await queued_deliveries(conn) == []
    await ended(conn, CRM, *others, endpoint("audit", "import.completed", "import.failed"), number=2)
    assert await queued_deliveries(conn) == [("audit", "import.completed"), ("crm", "import.completed")]


async def test_imports_that_end_with_another_have_deliveries_too(conn):
    """An import that fails because the one that it waits for is cancelled ends in the same call."""
    id = await queued(conn, users(1))
    await queued(conn, users(1, first=2), after_id=id)
    await db.jobs.cancel(conn, "import", id)
    ends = await completion.finish(conn, id, endpoints=[CRM])
    assert [end.status for end in ends] == ["cancelled", "failed"]
    assert sorted(await queued_deliveries(conn)) == [("crm", "import.cancelled"), ("crm", "import.failed")]


async def test_of_two_concurrent_ends_one_has_deliveries(conn, other):
    """The one that makes the job final; one whose transaction is rolled back leaves neither end nor delivery."""
    id = await queued(conn, users(1))
    await perform(conn, await claim(conn))
    async with conn.transaction(force_rollback=True):
        await completion.finish(conn, id, endpoints=[CRM])
        assert await queued_deliveries(conn) == [("crm", "import.completed")]
    assert await queued_deliveries(conn) == []
    async with conn.transaction():
        await completion.finish(conn, id, endpoints=[CRM])
        second = asyncio.create_task(completion.finish(other, id, endpoints=[CRM]))
        await blocked(other, by=conn)
    assert await second == []
    assert await queued_deliveries(conn) == [("crm", "import.completed")]


async def test_without_endpoints_the_end_is_the_same_statement(conn):
    """No row is inserted, and the statement is not extended."""
    assert deliveries.with_deliveries("SELECT", "import", []) == ("SELECT", {})
    await ended(conn)
    assert await queued_deliveries(conn) == []


async def test_a_delivery_is_claimed_once(conn, other):
    """Concurrent claims skip each other's rows, and a claimed delivery is not due before its lease is over."""
    ids = {await ended(conn, CRM, number=number) for number in range(1, 4)}
    async with conn.transaction():
        [first] = await due(conn, slots=1)
        others = await due(other)
    assert {first.job_id, *(delivery.job_id for delivery in others)} == ids
    assert len(others) == 2
    assert await due(conn) == []
    assert await due(conn, name="unknown") == []


async def test_the_slots_of_each_endpoint_are_its_own(conn):
    """A claim takes at most so many deliveries of each endpoint; one without slots does not delay the others."""
    await ended(conn, CRM, endpoint("audit"))
    await ended(conn, CRM, endpoint("audit"), number=2)
    claimed = await deliveries.claim(conn, {"crm": 0, "audit": 1, "none": 5}, lease_seconds=LEASE_SECONDS)
    assert [delivery.endpoint for delivery in claimed] == ["audit"]


async def test_the_delivery_of_a_dead_process_is_claimed_again(conn):
    """After its lease with the same id. What the dead one would store is then ignored."""
    await ended(conn, CRM)
    lost = await one_due(conn)
    await pass_time(conn, LEASE_SECONDS)
    again = await one_due(conn)
    assert (again.id, again.lease, again.attempts) == (lost.id, lost.lease + 1, 2)
    assert not await deliveries.finish(conn, lost, response_status=200)
    assert not await deliveries.retry(conn, lost, response_status=None, error="lost", delay_seconds=1)
    await deliveries.give_back(conn, lost)
    assert await state(conn, again) == ("sending", 2, 2, None)
    assert await deliveries.finish(conn, again, response_status=204)
    assert not await deliveries.finish(conn, again, response_status=204)
    assert await state(conn, again) == ("delivered", 2, 2, None)


async def test_a_failed_attempt_is_due_after_its_delay(conn):
    """Until the last one, after which the delivery is failed and never due again."""
    await ended(conn, CRM)
    delivery = await one_due(conn)
    assert await deliveries.retry(conn, delivery, response_status=500, error="HTTP 500", delay_seconds=60)
    assert await state(conn, delivery) == ("pending", 1, 1, "HTTP 500")
    assert await due(conn) == []
    await pass_time(conn, 60)
    last = await one_due(conn)
    assert await deliveries.retry(conn, last, response_status=None, error="ConnectError", delay_seconds=None)
    assert await state(conn, last) == ("failed", 2, 2, "ConnectError")
    await conn.execute("UPDATE webhook_deliveries SET created_at = created_at - interval '1 year'")
    assert await due(conn) == []


async def test_a_delivery_that_is_given_back_has_made_no_attempt(conn):
    """It is due again immediately."""
    await ended(conn, CRM)
    delivery = await one_due(conn)
    await deliveries.give_back(conn, delivery)
    assert (await one_due(conn)).attempts == 1


async def test_a_failed_delivery_can_be_sent_again(conn):
    """By the statement of db/README.md: with the same id, and with all attempts before it."""
    id = await ended(conn, CRM)
    failed = await one_due(conn)
    await deliveries.retry(conn, failed, response_status=410, error="HTTP 410", delay_seconds=None)
    text = (ROOT / "db" / "README.md").read_text()
    [statement] = re.findall(r"^UPDATE webhook_deliveries\n.+?;", text, re.DOTALL | re.MULTILINE)
    await conn.execute(statement.replace("…", str(id)))
    again = await one_due(conn)
    assert (again.id, again.attempts, again.created_at > failed.created_at) == (failed.id, 1, True)


async def test_deliveries_are_deleted_with_their_job(conn):
    """By a request, and after the retention time, also if they are not final."""
    await actions.delete(conn, await ended(conn, CRM))
    assert await queued_deliveries(conn) == []
    id = await ended(conn, CRM, number=2)
    await export_ended_as(conn, "cancelled")
    await retention.prune(conn, retention_seconds=0)
    assert await jobs.get(conn, id) is None
    assert await queued_deliveries(conn) == [("crm", "export.cancelled")]
    [old] = await export_retention.old(conn, retention_seconds=0)
    await export_retention.delete(conn, old.id)
    assert await queued_deliveries(conn) == []


async def test_what_waits_is_counted_by_endpoint(conn):
    """With the age of the oldest one; 0 where nothing waits. Endpoints that are not asked for are left out."""
    await ended(conn, CRM, endpoint("removed"))
    await ended(conn, CRM, number=2)
    await conn.execute("UPDATE webhook_deliveries SET created_at = created_at - interval '1 hour'")
    numbers = {found.endpoint: found for found in await deliveries.waiting(conn, [CRM, endpoint("audit")])}
    assert {name: found.deliveries for name, found in numbers.items()} == {"crm": 2, "audit": 0}
    assert numbers["crm"].oldest_seconds >= 3600
    assert numbers["audit"].oldest_seconds == 0


async def test_the_deliveries_of_a_job_have_their_state(conn):
    """Of this job only, by endpoint."""
    id = await ended(conn, endpoint("b"), endpoint("a"))
    await ended(conn, CRM, number=2)
    shown = await deliveries.of_job(conn, "import", id)
    assert [(found.endpoint, found.event, found.state, found.attempts) for found in shown] == [
        ("a", "import.completed", "pending", 0),
        ("b", "import.completed", "pending", 0),
    ]
    assert await deliveries.of_job(conn, "export", id) == []
    assert await deliveries.of_job(conn, "import", uuid4()) == []


async def test_the_view_names_the_endpoints_that_do_not_receive(conn):
    """`webhook_health` has one row for each endpoint, with the last error."""
    await ended(conn, CRM, endpoint("audit"))
    [delivered] = await due(conn, name="audit")
    await deliveries.finish(conn, delivered, response_status=200)
    for error in ("HTTP 500", "ConnectError: refused"):
        delivery = await one_due(conn)
        await deliveries.retry(conn, delivery, response_status=None, error=error, delay_seconds=0)
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute("SELECT * FROM webhook_health ORDER BY endpoint")
    audit, crm = await cursor.fetchall()
    assert (audit["waiting"], audit["delivered"], audit["failed"], audit["last_error"]) == (0, 1, 0, None)
    assert audit["last_delivered_at"] is not None
    assert (crm["waiting"], crm["delivered"], crm["failed"]) == (1, 0, 0)
    assert (crm["last_error"], crm["oldest_waiting_for"].total_seconds() > 0) == ("ConnectError: refused", True)
