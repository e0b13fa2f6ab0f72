"""XLSX files through the whole service: stored rows, errors by the rows of the sheet, refused files, limits."""

import asyncio
import csv
import gzip
import hashlib
import io
import sys
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import openpyxl
import pytest

from api.http.problems import Problem
from api.imports.parameters import ImportParameters
from api.imports.sheets.conversion import SheetConversion
from db.settings import Settings
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.xlsx import MEDIA_TYPE, package, saved, written

SERVICE = {"worker_pool_size": 2, "batch_size": 2}
HEADER = ("email", "name", "role", "active", "created_at")
MOMENT = datetime(2024, 1, 31, 12, 30)


def workbook() -> bytes:
    """Two sound users, and three that are refused for an error cell, a formula without a value, and a role."""
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.append(HEADER)
    sheet.append(("ada@example.org", 1815, "admin", True, MOMENT))
    sheet["A4"], sheet["B4"], sheet["C4"], sheet["D4"] = "err@example.org", "#N/A", "reader", True
    sheet["A6"], sheet["B6"], sheet["C6"], sheet["D6"] = "sum@example.org", "=1+1", "reader", True
    sheet["A7"], sheet["B7"], sheet["C7"], sheet["D7"] = "bob@example.org", "two\nlines", "boss", "yes"
    sheet["A9"], sheet["B9"], sheet["C9"], sheet["D9"] = "eve@example.org", "'=1+1", "reader", "FALSE"
    return saved(book)


@pytest.mark.parametrize("form", ["media type", "parameter", "packed", "form", "form with a type"])
async def test_users(api, form):
    """Each way to send the file: records have the types of the resource, errors and refused records the rows of the sheet."""
    file, params, data = workbook(), {"resource": "users"}, {"resource": "users"}
    posted = {
        "media type": lambda: api.post(file, type=MEDIA_TYPE, params=params),
        "parameter": lambda: api.post(file, type="application/octet-stream", params=params | {"format": "xlsx"}),
        "packed": lambda: api.post(
            gzip.compress(file), type=MEDIA_TYPE, headers={"Content-Encoding": "gzip"}, params=params
        ),
        "form": lambda: api.post(files={"file": ("Users.XLSX", file, "application/octet-stream")}, data=data),
        "form with a type": lambda: api.post(files={"file": ("users", file, MEDIA_TYPE)}, data=data),
    }
    job = await api.finished(await posted[form]())
    assert (job["format"], job["total_records"], job["counts"]["created"], job["counts"]["failed"]) == ("csv", 5, 2, 3)
    assert job["file"]["bytes"] == len(file)
    assert job["file"]["sha256"] == hashlib.sha256(file).hexdigest()
    found = [(error["line"], error["field"], error["code"], error["value"]) for error in await api.errors(job["id"])]
    assert found == [
        (4, "name", "invalid_type", "#N/A"),
        (6, "name", "invalid_type", "#FORMULA (not calculated: open and save the file in a spreadsheet program)"),
        (7, "role", "invalid_enum", "boss"),
        (7, "active", "invalid_type", "yes"),
    ]
    assert (await api.errors(job["id"]))[0]["message"] == "the cell of the sheet has the error #N/A"
    rows = await (await api.conn.execute("SELECT email, name, active, created_at FROM users ORDER BY email")).fetchall()
    assert rows[0] == ("ada@example.org", "1815", True, MOMENT.replace(tzinfo=UTC))
    assert rows[1][:3] == ("eve@example.org", "'=1+1", False)

    refused = await api.get(f"/{job['id']}/failed-records", params={"annotate": "true"})
    name = "users-failed" if form != "form" else "Users-failed"
    assert refused.headers["content-disposition"] == f'attachment; filename="{name}.csv"'
    lines = [*csv.reader(io.StringIO(refused.text))]
    assert lines[0] == ["_line", "_errors", *HEADER]
    assert [(row[0], row[2], row[3]) for row in lines[1:]][2] == ("7", "bob@example.org", "two\nlines")


async def test_a_repair(api):
    """Refused records that were corrected in a spreadsheet are a repair: `_line` names the rows of the first file."""
    job = await api.finished(await api.post(workbook(), type=MEDIA_TYPE, params={"resource": "users"}))
    refused = (await api.get(f"/{job['id']}/failed-records", params={"annotate": "true"})).text
    header, *rows = csv.reader(io.StringIO(refused))
    corrected = [
        (int(row[0]), row[1], row[2], "Corrected", "reader", row[2][0] != "b" or "maybe", None) for row in rows
    ]
    params = {"repairs": job["id"]}
    repaired = await api.finished(await api.post(written(tuple(header), *corrected), type=MEDIA_TYPE, params=params))
    assert (repaired["counts"]["created"], repaired["counts"]["failed"]) == (2, 1)
    assert [(error["line"], error["field"]) for error in repaired["errors"]] == [(7, "active")]


async def test_a_dry_run_and_its_commit(api):
    """A dry run of a sheet is committed without the file."""
    dry = await api.finished(
        await api.post(workbook(), type=MEDIA_TYPE, params={"resource": "users", "dry_run": "true"})
    )
    committed = await api.finished(await api.client.post(f"/api/v1/imports/{dry['id']}/commit"))
    assert dry["counts"] == committed["counts"]
    assert await api.value("SELECT count(*) FROM users") == 2


async def test_columns_and_types(api):
    """Columns with other names have the types of their fields."""
    file = written(("Mail", "name", "role", "active", "Since"), ("a@example.org", "A", "reader", True, MOMENT.date()))
    params = {"resource": "users", "columns": '{"Mail": "email", "Since": "created_at"}'}
    job = await api.finished(await api.post(file, type=MEDIA_TYPE, params=params))
    assert job["outcome"] == "success"
    assert await api.value("SELECT created_at FROM users") == datetime(2024, 1, 31, tzinfo=UTC)


async def test_the_sheet(api):
    """`sheet` names the sheet, also after the file of a form; a wrong name is answered with the names of the file."""
    book = openpyxl.Workbook()
    book.worksheets[0].append(("notes",))
    sheet = book.create_sheet("People")
    sheet.append(HEADER[:4])
    sheet.append(("a@example.org", "A", "reader", True))
    file = saved(book)
    form = {"resource": (None, "users"), "file": ("a.xlsx", file), "sheet": (None, "People")}
    job = await api.finished(await api.post(files=form))
    assert job["outcome"] == "success"

    wrong = await api.post(file, type=MEDIA_TYPE, params={"resource": "users", "sheet": "people"})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (400, "sheet")
    assert "'Sheet', 'People'" in wrong.json()["detail"]
    first = await api.post(file, type=MEDIA_TYPE, params={"resource": "users"})
    assert (first.status_code, first.json()["errors"][-1]["code"]) == (400, "unknown_field")
    no_sheet = await api.post(b"email\n", type="text/csv", params={"resource": "users", "sheet": "People"})
    assert (no_sheet.status_code, no_sheet.json()["errors"][0]["code"]) == (400, "conflicting_values")


async def test_idempotency(api):
    """A repeated request returns the job; with another sheet or another file the key is refused."""
    headers, params = {"Idempotency-Key": "key"}, {"resource": "users"}
    file = workbook()
    job = await api.finished(await api.post(file, type=MEDIA_TYPE, headers=headers, params=params))
    again = await api.post(file, type=MEDIA_TYPE, headers=headers, params=params)
    assert (again.status_code, again.json()["id"]) == (200, job["id"])
    for content, more in ((file, {"sheet": "Sheet"}), (written(HEADER), {})):
        other = await api.post(content, type=MEDIA_TYPE, headers=headers, params=params | more)
        assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")


@pytest.mark.parametrize(
    ("file", "detail"),
    [
        (b"email,name\n", "it is not an XLSX file, or is incomplete."),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "it is encrypted with a password, or an .xls file"),
        (package("", sheet1="<worksheet><sheetData><row></worksheet>"), "not valid XML"),
        (written(("email", None, "role")), "column 2 of the header has no name (line 1)"),
        (written(("email", "email")), "the header has the column 'email' twice (line 1)"),
    ],
)
async def test_files_that_are_refused(api, file, detail):
    """A file that cannot be read is answered 400 with the reason, and leaves nothing."""
    answer = await api.post(file, type=MEDIA_TYPE, params={"resource": "users"})
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-request")
    assert answer.json()["detail"].startswith("The file cannot be read: ")
    assert detail in answer.json()["detail"]
    assert await api.has_nothing()


async def test_an_xlsx_file_with_another_type(api):
    """A file that is sent as CSV by mistake is answered with the parameter to set."""
    answer = await api.post(workbook(), type="text/csv", params={"resource": "users"})
    assert (answer.status_code, "format=xlsx" in answer.json()["detail"]) == (400, True)


async def test_an_empty_sheet(api):
    """A sheet without rows is an import of no records, as an empty CSV file is."""
    job = await api.finished(await api.post(written(), type=MEDIA_TYPE, params={"resource": "users"}))
    assert (job["status"], job["total_records"]) == ("completed", 0)


async def test_limits(service):
    """The size of the file, the memory and the CPU time of the process have limits, each answered 413."""
    small = await service(worker_pool_size=1, xlsx_max_bytes=5000, unpack_ratio_max=2000)
    answer = await post(small, workbook() * 3)
    assert (answer["status"], answer["limit_bytes"]) == (413, 5000)

    limited = await service(
        worker_pool_size=1, xlsx_memory_bytes=128 * 1024 * 1024, xlsx_seconds=1, unpack_ratio_max=2000
    )
    text = package("", shared=f"<si><t>{'x' * 150_000_000}</t></si>")
    answer = await post(limited, text)
    assert (answer["status"], "XLSX_MEMORY_BYTES" in answer["detail"]) == (413, True)
    answer = await post(limited, package("<row><c/></row>" * 2_000_000))
    assert (answer["status"], "XLSX_SECONDS" in answer["detail"]) == (413, True)


async def post(service, file: bytes) -> dict:
    async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE_SECONDS) as client:
        answer = await client.post(
            "/api/v1/imports", content=file, headers={"Content-Type": MEDIA_TYPE}, params={"resource": "users"}
        )
        return {"status": answer.status_code} | answer.json()


def children() -> set[str]:
    """The ids of the processes that this one has started."""
    return {id for task in Path("/proc/self/task").iterdir() for id in (task / "children").read_text().split()}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_process_ends_with_the_upload():
    """An upload that ends before the sheet was read leaves no process."""

    async def body():
        yield package("<row><c t='str'><v>x</v></c></row>" * 100_000)

    before = children()
    conversion = SheetConversion(Settings(), asyncio.Semaphore(1), lambda: ImportParameters(resource="users"))
    async with aclosing(conversion.rows(body())) as rows:
        await anext(rows)
        assert len(children() - before) == 1
    await eventually(lambda: not children() - before)


async def test_a_resource_is_required_before_the_sheet_is_read():
    """Without a resource the types of the columns are unknown."""

    async def body():
        yield workbook()

    conversion = SheetConversion(Settings(), asyncio.Semaphore(1), ImportParameters)
    with pytest.raises(Problem, match="resource"):
        await anext(conversion.rows(body()))
