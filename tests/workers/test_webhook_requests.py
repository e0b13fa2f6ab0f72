"""What is sent to the receiver of a webhook, and when."""

from db.exports import completion as export_completion
from tests.support.eventually import eventually
from tests.support.exports import create
from tests.support.factories import claim, rows
from tests.support.webhooks import LONG_SECONDS, OTHER_SECRET, SECRET, decoded, delivering, delivery, ended, receiving


async def test_the_end_of_an_import_is_sent(conn, database_url):
    """The body has the type, the time and the short view of the job; its signature is accepted by another implementation."""
    async with receiving() as receiver, delivering(database_url, receiver.endpoint()):
        id = await ended(conn, receiver.endpoint(), file_name="private.csv", created_by="ada")
        [request] = await receiver.received(1)
        assert await delivery(conn, "delivered", attempts=1) == (204, None)
    assert request.line == "POST /hook?token=t0ken HTTP/1.1"
    assert (request.headers["content-type"], "cookie" in request.headers) == ("application/json", False)
    event = request.event()
    [(delivery_id,)] = await rows(conn, "SELECT id::text FROM webhook_deliveries")
    assert request.id == delivery_id
    data = event.pop("data")
    assert event == {"type": "import.completed", "timestamp": data["finished_at"]}
    assert [data.pop(name) is None for name in ("created_at", "started_at", "finished_at")] == [False] * 3
    path = f"/api/v1/imports/{id}"
    assert data == {
        "id": str(id),
        "kind": "import",
        "resource": "users",
        "status": "completed",
        "outcome": "partial",
        "mode": "insert",
        "dry_run": False,
        "parent_id": None,
        "total_records": 2,
        "counts": {"created": 1, "updated": 0, "unchanged": 0, "skipped": 0, "failed": 1, "unprocessed": 0},
        "error_count": data["error_count"],
        "problem": None,
        "links": {"self": path, "errors": f"{path}/errors", "failed_records": f"{path}/failed-records"},
    }
    assert data["error_count"] > 0
    assert not [word for word in (b"private", b"ada", b"example.com", b"none") if word in request.body]


async def test_the_process_is_notified(conn, database_url):
    """It sends a delivery when the job ends, not at its next poll."""
    async with receiving() as receiver, delivering(database_url, receiver.endpoint(), poll_seconds=4 * LONG_SECONDS):
        # it has looked for deliveries, and waits
        await eventually(lambda: rows(conn, IDLE))
        await ended(conn, receiver.endpoint())
        await receiver.received(1)


IDLE = """
    SELECT 1
    FROM pg_stat_activity
    WHERE datname = current_database()
        AND application_name LIKE 'bulk webhooks %%'
        AND state = 'idle'
        AND query LIKE '%%UPDATE webhook_deliveries%%'
"""


async def test_while_a_secret_is_replaced_both_sign(conn, database_url):
    """A request has a signature of each secret, so that a receiver may know either of them."""
    async with receiving() as receiver:
        crm = receiver.endpoint(secrets=[SECRET, OTHER_SECRET])
        async with delivering(database_url, crm):
            await ended(conn, crm)
            [request] = await receiver.received(1)
    assert request.event(SECRET) == request.event(OTHER_SECRET)


async def test_a_failed_export_names_its_problem_without_detail(conn, database_url):
    """The detail may quote values. The status is that of the end, and there is no link to a file."""
    async with receiving() as receiver, delivering(database_url, receiver.endpoint()):
        id = await create(conn, "users")
        await claim(conn)
        await conn.execute("UPDATE chunks SET state = 'failed', finished_at = now(), last_error = 'ada@example.org'")
        await export_completion.finish(conn, id, endpoints=decoded(receiver.endpoint()))
        [request] = await receiver.received(1)
    data = request.event()["data"]
    assert (data["kind"], data["status"], data["records"], data["bytes"]) == ("export", "failed", None, None)
    assert data["problem"] == {"type": "/problems/export-failed", "title": "The export could not be written"}
    assert data["links"] == {"self": f"/api/v1/exports/{id}"}
    assert b"ada@example.org" not in request.body
