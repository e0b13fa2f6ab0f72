"""The Python client against a real service."""

import asyncio
import doctest
import hashlib
import io
import json
import tracemalloc

import pytest

import api.client.client as module
from api.client import (
    Client,
    Conflict,
    Disconnected,
    IncompleteDownload,
    InvalidRequest,
    Job,
    NotFound,
    Unauthorized,
    WaitTimeout,
)
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.fault_proxy import fault_proxy

TWO = b"email,name,role,active\nada@example.org,Ada,admin,true\nfoo@bar,Bo,boss,true\n"


def users(count: int) -> bytes:
    return USERS_HEADER + b"".join(map(user_row, range(count)))


async def test_the_examples_in_the_docstrings(api, tmp_path, monkeypatch):
    """The examples in the client's docstrings run as written, in order."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.csv").write_bytes(TWO.replace(b"ada@", b"eve@"))
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    names = {"url": api.service.url, "Client": Client}
    tests = sorted(finder.find(module.Client, "Client", globs=names), key=lambda test: test.lineno or 0)
    output: list[str] = []
    for test in tests:
        await asyncio.to_thread(runner.run, test, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)
    assert runner.tries > 0


@pytest.mark.parametrize("kind", ["path", "stream", "pipe", "records"])
async def test_a_file_in_each_form(api, client, tmp_path, kind):
    """A path, a file object, a stream that cannot be read twice, and dicts are imported alike."""
    path = tmp_path / "users.csv"
    path.write_bytes(users(250))
    records = [{"email": f"user{n}@example.org", "name": "N", "role": "reader", "active": True} for n in range(250)]

    class Pipe(io.RawIOBase):
        """A stream without a position."""

        def __init__(self) -> None:
            self.content = io.BytesIO(users(250))

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            return self.content.readinto(buffer)

    data = {"path": path, "stream": io.BytesIO(users(250)), "pipe": Pipe(), "records": iter(records)}[kind]
    sent: list[tuple[int, int | None]] = []
    job = await asyncio.to_thread(
        client.import_file,
        data,
        resource="users",
        name="users.csv" if kind != "records" else None,
        on_sent=lambda *numbers: sent.append(numbers),
    )
    job = await asyncio.to_thread(client.wait, job)
    assert (job.status, job.outcome, job.counts["created"]) == ("completed", "success", 250)
    assert job.file["name"] == ("records.ndjson" if kind == "records" else "users.csv")
    assert sent[-1][0] == sent[-1][1] == job.file["bytes"]


async def test_refused_records_and_their_errors(api, client):
    """Errors are iterated one by one; refused records are returned as they were sent."""
    job = await asyncio.to_thread(client.import_file, io.BytesIO(TWO), resource="users", name="two.csv")
    job = await asyncio.to_thread(client.wait, job)
    errors = await asyncio.to_thread(lambda: list(client.errors(job.id)))
    assert [(error["line"], error["field"]) for error in errors] == [(3, "email"), (3, "role")]
    only = await asyncio.to_thread(lambda: list(client.errors(job.id, field="role")))
    assert [error["code"] for error in only] == ["invalid_enum"]
    refused = await asyncio.to_thread(lambda: b"".join(client.refused(job.id)))
    assert refused == b"email,name,role,active\nfoo@bar,Bo,boss,true\n"


async def test_a_repair_has_the_column_names_of_the_file(api, client, tmp_path):
    """The refused records of a file with other column names are corrected and sent back with those names."""

    def steps() -> None:
        columns = {"E-mail": "email", "Notiz": None}
        file = "E-mail,Notiz,name,role,active\nada@example.org,ä,Ada,chief,true\n".encode()
        job = client.wait(client.import_file(io.BytesIO(file), resource="users", name="u.csv", columns=columns))
        assert job.failed == 1
        path = tmp_path / "refused.csv"
        client.refused_to(job.id, path, annotate=True)
        path.write_bytes(path.read_bytes().replace(b"chief", b"reader"))
        assert client.wait(client.repair(job, path)).outcome == "success"

    await asyncio.to_thread(steps)


async def test_repairs_keep_the_lines_of_the_first_file(api, client, tmp_path):
    """Over two rounds errors have the lines of the first file; repaired records are refused, and are not returned again."""

    def steps() -> None:
        rows = [f"u{n}@example.org,U,{'boss' if n % 2 else 'reader'},true\n".encode() for n in range(8)]
        file = io.BytesIO(USERS_HEADER + b"".join(rows))
        first = client.wait(client.import_file(file, resource="users", name="u.csv", mode="upsert"))
        path = tmp_path / "refused.csv"

        def corrected(job: Job, count: int) -> Job:
            client.refused_to(job.id, path, annotate=True)
            path.write_bytes(path.read_bytes().replace(b"boss", b"admin", count))
            return client.wait(client.repair(job, path))

        second = corrected(first, 2)
        assert [error["line"] for error in client.errors(second.id)] == [7, 9]
        assert (second.data["mode"], second.data["parent_id"]) == ("upsert", first.id)
        third = corrected(second, 1)
        assert [error["line"] for error in client.errors(third.id)] == [9]
        with pytest.raises(Conflict) as refusal:
            corrected(first, 4)
        assert (refusal.value.type, refusal.value.document["lines"]) == ("already-repaired", [3, 5, 7])
        assert (client.refused_count(first.id), client.refused_count(first.id, unrepaired=True)) == (4, 0)
        assert b"".join(client.refused(first.id, unrepaired=True)) == USERS_HEADER
        assert client.get(first.id).data["repaired"] == {"imports": 2, "taken": 3, "left": 1}

    await asyncio.to_thread(steps)


async def test_dry_run_commit_retry_cancel_delete(api, client):
    """A dry run is committed; repeated commits return the same job; a final job can be deleted."""

    def steps() -> None:
        check = client.wait(client.import_file(io.BytesIO(users(10)), resource="users", name="u.csv", dry_run=True))
        first = client.wait(client.commit(check.id))
        assert client.commit(check.id).id == first.id
        assert first.counts["created"] == 10
        client.delete(first)
        with pytest.raises(NotFound):
            client.get(first.id)
        rejected = client.wait(client.import_file(io.BytesIO(users(10)), resource="users", name="u2.csv"))
        assert rejected.outcome == "rejected"
        again = client.wait(client.retry(rejected.id))
        assert again.data["parent_id"] == rejected.id

    await asyncio.to_thread(steps)


async def test_events_end_with_done(api, client):
    """`watch` yields the job's progress and ends with the final job."""
    job = await asyncio.to_thread(client.import_file, io.BytesIO(users(2000)), resource="users", name="u.csv")
    events = await asyncio.to_thread(lambda: list(client.watch(job)))
    assert events[-1].name == "done"
    assert events[-1].job.counts["created"] == 2000
    assert {event.name for event in events[:-1]} <= {"progress"}


async def test_a_problem_is_a_typed_exception(api, client):
    """There is a class for each status; `errors` has the fields, and the message names them."""

    def steps() -> None:
        with pytest.raises(InvalidRequest, match="mode: ") as raised:
            client.import_file(io.BytesIO(TWO), resource="users", name="t.csv", mode="merge")
        assert raised.value.status == 400
        assert raised.value.type == "invalid-request"
        assert raised.value.errors[0]["field"] == "mode"
        with pytest.raises(NotFound):
            client.get("01890000-0000-7000-8000-000000000000")

    await asyncio.to_thread(steps)


async def test_wait_has_a_limit(service):
    """Without workers no job becomes final: the wait times out, and the exception names the job."""
    started = await service(run=("api",))

    def steps() -> None:
        with Client(started.url) as client:
            job = client.import_file(io.BytesIO(users(3)), resource="users", name="u.csv")
            with pytest.raises(WaitTimeout) as raised:
                client.wait(job, seconds=0.2)
            assert raised.value.job_id == job.id
            assert client.cancel(job).status == "cancelled"

    await asyncio.to_thread(steps)


async def test_exports_of_each_kind(api, client, tmp_path):
    """A stream of records, a streamed file, and a background export with its digest."""

    def steps() -> None:
        client.wait(client.import_file(io.BytesIO(users(300)), resource="users", name="u.csv"))
        records = list(client.export_records("users", fields=["email"]))
        assert len(records) == 300
        assert set(records[0]) == {"email"}
        client.export_to(tmp_path / "users.csv", "users", format="csv", role=["reader", "admin"])
        assert (tmp_path / "users.csv").read_bytes().count(b"\n") == 301
        job = client.wait(client.start_export("users", format="ndjson", filters={"active": True}))
        client.download(job.id, tmp_path / "users.ndjson")
        content = (tmp_path / "users.ndjson").read_bytes()
        assert hashlib.sha256(content).hexdigest() == job.file["sha256"]
        assert len(content.splitlines()) == 300
        assert not list(tmp_path.glob("*.part"))

    await asyncio.to_thread(steps)


async def test_a_stream_that_breaks_leaves_no_file(api, client, tmp_path):
    """A connection that breaks during a stream raises `IncompleteDownload`, and no file appears."""
    await asyncio.to_thread(
        lambda: client.wait(client.import_file(io.BytesIO(users(5_000)), resource="users", name="u.csv"))
    )
    async with fault_proxy(api.service.url) as proxy:
        proxy.answer_bytes_max = [100_000]
        with Client(f"http://127.0.0.1:{proxy.port}", retry_seconds=0) as through, pytest.raises(IncompleteDownload):
            await asyncio.to_thread(through.export_to, tmp_path / "users.ndjson", "users")
    assert list(tmp_path.iterdir()) == []


async def test_a_broken_download_is_resumed(api, client, tmp_path):
    """After two broken connections a background export is complete; by ranges, without sending any byte twice."""

    def prepare():
        client.wait(client.import_file(io.BytesIO(users(5_000)), resource="users", name="u.csv"))
        return client.wait(client.start_export("users", format="csv"))

    job = await asyncio.to_thread(prepare)
    sizes: list[int] = []
    async with fault_proxy(api.service.url) as proxy:
        # the first connection serves the request for the job and the begin of the download
        proxy.answer_bytes_max = [100_000, 100_000]
        retried: list[str] = []
        with Client(f"http://127.0.0.1:{proxy.port}", on_retry=retried.append) as through:
            await asyncio.to_thread(
                lambda: through.download(
                    job.id, tmp_path / "users.csv", on_received=lambda size, _total: sizes.append(size)
                )
            )
    assert hashlib.sha256((tmp_path / "users.csv").read_bytes()).hexdigest() == job.file["sha256"]
    assert len(retried) == 2
    assert sizes == sorted(sizes)
    assert [path.name for path in tmp_path.iterdir()] == ["users.csv"]


async def test_a_lost_response_creates_no_second_job(api):
    """The service accepts an upload but its response is lost; the repeated request returns the same job."""
    async with fault_proxy(api.service.url) as proxy:
        proxy.answer_bytes_max = [0]
        retried: list[str] = []
        with Client(f"http://127.0.0.1:{proxy.port}", on_retry=retried.append) as through:
            job = await asyncio.to_thread(through.import_file, io.BytesIO(users(500)), resource="users", name="u.csv")
            job = await asyncio.to_thread(through.wait, job)
    assert retried
    assert job.counts["created"] == 500
    assert await api.value("SELECT count(*) FROM import_jobs") == 1


async def test_no_service():
    """Without a service the client raises `Disconnected`, immediately if it is not to retry."""
    with Client("http://127.0.0.1:9", retry_seconds=0) as client, pytest.raises(Disconnected, match="refused"):
        await asyncio.to_thread(client.get, "x")


async def test_keys(service):
    """A wrong key is `Unauthorized`; the right one is sent as a bearer token."""
    started = await service(api_keys="a-key-that-is-long-enough", run=("api",))

    def steps() -> None:
        with Client(started.url, api_key="wrong") as client, pytest.raises(Unauthorized):
            list(client.jobs())
        with Client(started.url, api_key="a-key-that-is-long-enough") as client:
            assert list(client.jobs()) == []

    await asyncio.to_thread(steps)


async def test_memory_does_not_grow_with_the_file(api, client, tmp_path):
    """Sending 64 MB and reading back 20,000 records keeps only a few blocks in memory."""
    path = tmp_path / "users.ndjson"
    line = json.dumps({"email": "x", "name": "n" * 900, "role": "reader", "active": True}).encode() + b"\n"
    with path.open("wb") as file:
        for _ in range(64):
            file.write(line * 1_000)

    def peak() -> int:
        tracemalloc.start()
        client.import_file(path, resource="users", on_error="stop")
        _, found = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return found

    assert await asyncio.to_thread(peak) < 8_000_000
