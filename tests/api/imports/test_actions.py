"""Actions on processed imports: cancel while chunks are stored, retry, commit."""

from hashlib import sha256
from uuid import uuid4

from tests.support.api_client import PATH, USERS_HEADER, problem, stopped_at_users, user_row
from tests.support.eventually import eventually
from tests.support.refused_files import EACH_FILE, RECORDS, imported, parameters, records_of

WORKERS = 2
SERVICE = {"worker_pool_size": WORKERS, "batch_size": 3, "claim_chunks_max": 1}


@EACH_FILE
async def test_cancel_and_retry(api, file):
    """If an import is cancelled while two chunks are being stored, these are finished, no other is started, and the retry stores
    each of the other records once."""
    early = [record.replace(b"u", b"u0", 1) for record in file.records]
    many = file._replace(records=[*early[:5], early[0], *early[6:], *file.records])
    async with stopped_at_users(api, "u0%") as waiting:

        async def is_held_up() -> bool:
            return await waiting() == WORKERS

        posted = await api.post(many.content, type=file.type, params=parameters(file, mode="skip"))
        await eventually(is_held_up)
        answer = await api.client.post(posted.json()["links"]["cancel"])
        assert (answer.status_code, answer.json()["status"]) == (202, "processing")
        assert (await api.client.post(posted.json()["links"]["cancel"])).status_code == 202
    job = await api.finished(posted)
    assert job["status"] == "cancelled"
    assert job["counts"] == job["counts"] | {"created": 3, "skipped": 1, "failed": 2, "unprocessed": 2 * RECORDS - 6}
    assert await records_of(api, job, "failed") == many.of([many.records[1], many.records[4]])
    assert await records_of(api, job, "unprocessed") == many.of(many.records[6:])

    child = await api.finished(await api.client.post(job["links"]["retry"]))
    assert child["parent_id"] == job["id"]
    assert (child["mode"], child["format"], child["resource"]) == (job["mode"], job["format"], "users")
    left = many.of([many.records[1], many.records[4], *many.records[6:]])
    assert (child["total_records"], child["file"]["bytes"]) == (2 * RECORDS - 4, len(left))
    assert child["file"]["sha256"] == sha256(left).hexdigest()
    sound = {record for record in many.records if b"boss" not in record}
    assert await api.value("SELECT count(*) FROM users") == len(sound)


async def test_retry_after_the_cause_is_corrected(api):
    """Once the missing parent is stored, the retry stores its records. Errors have the line numbers of the first file."""
    author = uuid4()
    header = b"slug,title,body,author_id,status\n"
    row = b"a%d,A,text,%b,draft\n"
    authors = [str(uuid4() if n == 8 else author).encode() for n in range(10)]
    content = header + b"\n".join(row % (n, id) for n, id in enumerate(authors))
    params = {"resource": "articles"}
    job = await api.finished(await api.post(content, type="text/csv", params=params))
    assert (job["outcome"], job["counts"]["failed"]) == ("rejected", 10)
    await api.conn.execute(
        "INSERT INTO users (id, email, name, role, active) VALUES (%s, 'a@example.org', 'A', 'author', true)",
        (author,),
    )
    answer = await api.client.post(job["links"]["retry"])
    child = await api.finished(answer)
    assert (child["outcome"], child["counts"]["created"], child["counts"]["failed"]) == ("partial", 9, 1)
    assert child["parent_id"] == job["id"]
    lines = {error["record"]: error["line"] for error in await api.errors(job["id"])}
    assert [(error["record"], error["line"]) for error in await api.errors(child["id"])] == [(9, lines[9])]
    repeated = await api.client.post(job["links"]["retry"])
    assert (repeated.status_code, repeated.headers["idempotent-replayed"]) == (200, "true")
    assert repeated.json()["id"] == child["id"]
    grandchild = await api.finished(await api.client.post(child["links"]["retry"]))
    assert [error["line"] for error in await api.errors(grandchild["id"])] == [lines[9]]


async def test_nothing_to_retry(api):
    """An import without failed or unprocessed records cannot be retried, and has no link to a retry."""
    job = await api.finished(await api.post(USERS_HEADER + user_row(1), type="text/csv", params={"resource": "users"}))
    assert "retry" not in job["links"]
    problem(await api.client.post(f"{PATH}/{job['id']}/retry"), 409, "nothing-to-retry")


@EACH_FILE
async def test_commit_of_a_dry_run(api, file):
    """A commit imports the same file: no record was stored before, and the counts are those of the dry run. It is done once."""
    dry = await imported(api, file, dry_run="true", max_errors="10")
    assert await api.value("SELECT count(*) FROM users") == 0
    assert await records_of(api, dry, "failed") == file.of(file.refused)
    answer = await api.client.post(dry["links"]["commit"])
    job = await api.finished(answer)
    assert (job["parent_id"], job["dry_run"], job["counts"]) == (dry["id"], False, dry["counts"])
    assert job["file"] == dry["file"]
    assert await api.errors(job["id"]) == await api.errors(dry["id"])
    assert await api.value("SELECT count(*) FROM users") == 13
    assert await api.value("SELECT max_errors FROM import_jobs WHERE id = %s", job["id"]) == 10
    repeated = await api.client.post(dry["links"]["commit"])
    assert (repeated.status_code, repeated.json()["id"]) == (200, job["id"])
    problem(await api.client.post(f"{PATH}/{job['id']}/commit"), 409, "not-committable")


async def test_commit_of_an_empty_dry_run(api):
    """A file without records is a completed import immediately, also as a commit."""
    dry = await api.finished(
        await api.post(USERS_HEADER, type="text/csv", params={"resource": "users", "dry_run": "1"})
    )
    job = (await api.client.post(dry["links"]["commit"])).json()
    assert (job["status"], job["total_records"], job["parent_id"]) == ("completed", 0, dry["id"])
