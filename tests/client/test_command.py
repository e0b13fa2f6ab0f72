"""The command `bulk` in scripts: exit codes, pipes, JSON, files, configuration."""

import asyncio
import json
import stat
import sys
import zipfile

import pytest

from api.console import zipapp
from tests.client.conftest import TWO, Bulk
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.eventually import eventually, in_time
from tests.support.xlsx import written


def users(count: int) -> bytes:
    return USERS_HEADER + b"".join(map(user_row, range(count)))


async def test_an_import_reports_refused_records(bulk, two):
    """Counts and causes go to stdout, suggestions to stderr; with refused records the exit code is 3."""
    result = await bulk("import", two, "-r", "users")
    assert result.code == 3
    assert "1   created" in result.out
    assert "invalid_enum" in result.out
    assert "next: bulk fix" in result.err


async def test_all_accepted_is_0(bulk):
    """Valid records from stdin."""
    result = await bulk("import", "-", "-r", "users", "--format", "csv", stdin=users(3))
    assert (result.code, "3   created" in result.out) == (0, True), result
    allowed = await bulk("import", "-", "-r", "users", "--allow-refused", stdin=TWO)
    assert allowed.code == 0


async def test_json_is_one_document(bulk, two):
    """`--json` prints the job as in the API's response, and nothing else on stdout."""
    result = await bulk("import", two, "-r", "users", "--json")
    job = json.loads(result.out)
    assert (job["status"], job["counts"]["failed"]) == ("completed", 1)
    shown = await bulk("show", "--json")
    assert json.loads(shown.out)["id"] == job["id"]
    events = await bulk("watch", "--json")
    assert [json.loads(line)["event"] for line in events.out.splitlines()] == ["done"]
    assert events.code == 3


async def test_columns_are_mapped(bulk, tmp_path, api):
    """--map names the field of a column, or none; --map-file is the same as JSON, and --map takes precedence."""
    file = tmp_path / "kunden.csv"
    file.write_bytes("E-Mail;Größe=Name;Rolle;Aktiv;Notiz\nada@example.org;Ada;admin;true;x\n".encode())
    options = ("-r", "users", "--delimiter", ";")
    refused = await bulk("import", str(file), *options)
    assert refused.code == 2
    saved = tmp_path / "columns.json"
    saved.write_text(json.dumps({"E-Mail": "email", "Größe=Name": "role", "Rolle": "role", "Aktiv": "active"}))
    result = await bulk(
        "import", str(file), *options, "--map-file", str(saved), "--map", "Größe=Name=name", "--map", "Notiz=", "--json"
    )
    assert (result.code, json.loads(result.out)["columns"]["Notiz"]) == (0, None)
    assert await api.value("SELECT name FROM users") == "Ada"
    for wrong in (("--map", "email"), ("--map-file", str(file))):
        assert (await bulk("import", str(file), *options, *wrong)).code == 2


async def test_quiet_prints_nothing(bulk, two):
    """With `-q` only the exit code shows the result."""
    result = await bulk("import", two, "-r", "users", "-q")
    assert (result.code, result.out, result.err) == (3, "", "")


async def test_the_same_command_finds_the_same_job(bulk, two, api):
    """A second call imports nothing; with `--key-for-retry new` it imports again."""
    first = await bulk("import", two, "-r", "users", "--json")
    second = await bulk("import", two, "-r", "users", "--json")
    assert json.loads(second.out)["id"] == json.loads(first.out)["id"]
    assert "imported before" in second.err
    third = await bulk("import", two, "-r", "users", "--key-for-retry", "new", "--json")
    assert json.loads(third.out)["id"] != json.loads(first.out)["id"]
    assert await api.value("SELECT count(*) FROM import_jobs") == 2


async def test_errors_and_refused_records(bulk, two, tmp_path):
    """As a table, as CSV, by field; refused records on stdout and in a file."""
    await bulk("import", two, "-r", "users")
    table = await bulk("errors")
    assert "not a valid e-mail address" in table.out
    only = await bulk("errors", "--field", "role", "--csv")
    assert len(only.out.splitlines()) == 2
    refused = await bulk("refused")
    assert refused.out.encode() == b"email,name,role,active\nfoo@bar,Bo,boss,true\n"
    await bulk("refused", "-o", str(tmp_path / "refused.csv"), "--annotate")
    assert (tmp_path / "refused.csv").read_text().startswith("_line,_errors,email")


async def test_results(bulk, two, api):
    """Line, record, id and outcome of the records that were not refused, as CSV or as JSON lines."""
    await bulk("import", two, "-r", "users")
    id = str(await api.value("SELECT id FROM users"))
    assert (await bulk("results")).out == f"line,record,id,outcome\n2,1,{id},created\n"
    lines = await bulk("results", "last", "--ndjson")
    assert json.loads(lines.out) == {"line": 2, "record": 1, "id": id, "outcome": "created"}


async def test_files_of_an_import(bulk, two, tmp_path):
    """`--refused` and `--errors` write files in addition to the result."""
    result = await bulk("import", two, "-r", "users", "--refused", str(tmp_path / "r"), "--errors", str(tmp_path / "e"))
    assert result.code == 3
    assert b"foo@bar" in (tmp_path / "r").read_bytes()
    assert b"invalid_enum" in (tmp_path / "e").read_bytes()


async def test_a_workbook(bulk, tmp_path):
    """An .xlsx file is recognised by its name; refused records come as CSV, and their errors have the rows of the sheet."""
    path = tmp_path / "users.xlsx"
    header = ("email", "name", "role", "active")
    path.write_bytes(
        written(header, ("ada@example.org", "Ada", "admin", True), (), ("b@example.org", "Bo", "boss", True))
    )
    result = await bulk("import", str(path), "--sheet", "Sheet1", "--refused", str(tmp_path / "refused.csv"))
    assert (result.code, "1   created" in result.out) == (3, True), result
    header, row = (tmp_path / "refused.csv").read_text().splitlines()
    assert (header, row[:2]) == ("_line,_errors,email,name,role,active", "4,")
    assert json.loads((await bulk("errors", "--json")).out.splitlines()[0])["line"] == 4
    other = await bulk("import", str(path), "--sheet", "Other")
    assert (other.code != 0, "'Sheet1'" in other.err) == (True, True), other


async def test_check_then_commit(bulk, two):
    """`--check` stores nothing; `--check-first` stores a valid file but not a faulty one."""
    checked = await bulk("import", two, "-r", "users", "--check")
    assert (checked.code, "would be created" in checked.out) == (3, True)
    first = await bulk("import", two, "-r", "users", "--check-first", "--key-for-retry", "new")
    assert first.code == 3
    assert (await bulk("export", "users", "-o", "-")).out == ""
    sound = await bulk("import", "-", "-r", "users", "--check-first", stdin=users(5))
    assert sound.code == 0, sound
    assert len((await bulk("export", "users", "-o", "-")).out.splitlines()) == 5


async def test_detach_watch_and_wait(service, environment, tmp_path):
    """`--detach` prints the id; a timeout exits with 5 and prints how to continue; cancelling exits with 0."""
    started = await service(run=("api",))
    bulk = Bulk(environment(started.url))
    detached = await bulk("import", "-", "-r", "users", "--detach", stdin=users(1))
    assert detached.code == 0
    id = detached.out.strip()
    late = await bulk("import", "-", "-r", "users", "--wait", "1s", stdin=users(1))
    assert late.code == 5
    assert f"bulk watch {id}" in late.err
    assert (await bulk("cancel")).code == 0
    assert (await bulk("watch", id)).code == 1


async def test_exports(bulk, api, tmp_path):
    """To stdout, to a file whose extension determines the format, compressed, filtered, and in the background."""
    await bulk("import", "-", "-r", "users", stdin=users(50))
    assert len((await bulk("export", "users")).out.splitlines()) == 50
    files = {
        "users.csv": [],
        "users.ndjson.gz": ["--gzip"],
        "marked.csv": ["--bom"],
        "users.xlsx": [],
        "users.parquet": [],
        "background.csv": ["--background"],
        "one.csv": ["--where", "email=user7@example.org", "--fields", "email,name"],
    }
    for name, options in files.items():
        result = await bulk("export", "users", "-o", str(tmp_path / name), *options)
        assert result.code == 0, result
    assert (tmp_path / "users.csv").read_bytes().count(b"\n") == 51
    assert (tmp_path / "users.ndjson.gz").read_bytes().startswith(b"\x1f\x8b")
    assert (tmp_path / "marked.csv").read_bytes() == b"\xef\xbb\xbf" + (tmp_path / "users.csv").read_bytes()
    assert (tmp_path / "users.xlsx").read_bytes().startswith(b"PK")
    assert (tmp_path / "users.parquet").read_bytes().startswith(b"PAR1")
    assert (tmp_path / "background.csv").read_bytes() == (tmp_path / "users.csv").read_bytes()
    assert (tmp_path / "one.csv").read_bytes() == b"email,name\nuser7@example.org,User 7\n"
    assert (await bulk("export", "users", "--background", "-o", "-")).code == 2
    assert (await bulk("export", "users", "--where", "shoe=44", "-o", "-")).code == 2


@pytest.mark.parametrize("options", [["-o", "-"], ["-o", "out.ndjson"], ["-o", "out.ndjson", "--background"]])
async def test_exports_since_the_last_one(bulk, api, tmp_path, monkeypatch, options):
    """With --since each export has what was stored since the last complete one, and a failed one keeps its watermark."""
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "users.mark"

    async def export(*more: str) -> int:
        """Returns the number of records."""
        result = await bulk("export", "users", "--since", "users.mark", *options, *more)
        assert result.code == 0, result
        return len((result.out if "-" in options else (tmp_path / "out.ndjson").read_text()).splitlines())

    async def is_empty() -> bool:
        """At some time: a transaction of any database of the server repeats records."""
        return await export() == 0

    await bulk("import", "-", "-r", "users", stdin=users(5))
    assert await export() == 5
    await eventually(is_empty)
    await bulk("import", "-", "-r", "users", "--mode", "skip", stdin=users(7))
    kept = mark.read_text()
    assert (await bulk("export", "users", "--since", "users.mark", "--where", "shoe=44", *options)).code == 2
    assert mark.read_text() == kept
    assert await export() == 2
    await eventually(is_empty)
    mark.write_text("0123456789ab-7\n")
    refused = await bulk("export", "users", "--since", "users.mark", *options)
    assert (refused.code, "Export all records again" in refused.err.replace("\n", " ")) == (2, True)


async def test_a_closed_pipe_ends_it_silently(bulk, api):
    """`bulk export users -o - | head -1` prints one line and no error."""
    await bulk("import", "-", "-r", "users", "-q", stdin=users(20_000))
    command = f"{sys.executable} -m api.client export users -o - | head -n 1"
    process = await asyncio.create_subprocess_shell(
        command, env=bulk.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await in_time(process.communicate())
    assert (out.count(b"\n"), err) == (1, b"")


async def test_jobs_and_delete(bulk, two):
    """The list has both kinds, newest first; it does not have a deleted job."""
    await bulk("import", two, "-r", "users")
    await bulk("export", "users", "-o", two + ".out", "--background")
    listed = json.loads((await bulk("jobs", "--json")).out)
    assert [job["kind"] for job in listed[:2]] == ["export", "import"]
    assert (await bulk("jobs", "--running")).out.strip() == "No jobs."
    assert (await bulk("delete", "last")).code == 0
    assert (await bulk("show", listed[0]["id"])).code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["expot"], "Did you mean 'export'"),
        (["import"], "bulk import --help"),
        (["import", "missing.csv", "-r", "users"], "There is no file missing.csv."),
        (["import", "-", "-r", "users", "--mode", "merge"], "insert"),
        (["import", "-", "-r", "users", "--wait", "soon"], "write 90s, 10m or 2h"),
        (["import", "-", "-r", "users", "--max-errors", "some"], "write 100 or 1%"),
        (["import", "-", "-r", "shoes"], "resource"),
        (["show", "last"], "bulk jobs"),
        (["show", "no-such-id"], ""),
        (["export", "users", "--where", "role"], "--where role=admin,author"),
        (["status", "--profile", "home"], "bulk profile list"),
    ],
)
async def test_wrong_usage_is_one_sentence(bulk, words, message):
    """Exit code 2, no traceback, and a suggestion."""
    result = await bulk(*words, stdin=b"x")
    assert result.code == 2, result
    assert result.out == ""
    assert message in result.err
    assert result.err.startswith("bulk: ")
    assert len(result.err.splitlines()) <= 2


async def test_no_service(bulk):
    """An unreachable service is reported in one sentence, with exit code 1."""
    result = await bulk("status", "--url", "http://127.0.0.1:9")
    assert result.code == 1
    assert "connection refused" in result.err


async def test_keys_and_profiles(service, environment, tmp_path):
    """A key comes from the environment, a profile or a command, never from an argument; its file is private."""
    started = await service(api_keys="a-key-that-is-long-enough", run=("api",))
    without = Bulk(environment("") | {"BULK_URL": ""})
    assert (await without("jobs", "--url", started.url)).code == 4
    added = await without(
        "profile", "add", "here", "--url", started.url, "--key-stdin", stdin=b"a-key-that-is-long-enough\n"
    )
    assert added.code == 0, added
    file = tmp_path / ".config" / "bulk" / "config.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (await without("jobs")).code == 0
    command = "printf a-key-that-is-long-enough"
    await without("profile", "add", "there", "--url", started.url, "--key-command", command)
    assert (await without("jobs", "--profile", "there")).code == 0
    assert (await without("profile", "list")).out.splitlines() == [f"* here\t{started.url}", f"  there\t{started.url}"]
    file.chmod(0o644)
    refused = await without("jobs")
    assert (refused.code, "chmod 600" in refused.err) == (2, True)
    by_variable = Bulk(
        environment(started.url) | {"BULK_API_KEY": "a-key-that-is-long-enough", "XDG_CONFIG_HOME": "/none"}
    )
    assert (await by_variable("jobs")).code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion(bulk, shell):
    """There is a script for each shell."""
    result = await bulk("completion", shell)
    assert "_BULK_COMPLETE" in result.out


async def test_the_command_is_one_file(api, tmp_path, environment):
    """The zipapp runs on a Python without installed packages, and imports a file."""
    file = tmp_path / "bulk.pyz"
    file.write_bytes(zipapp.build())
    names = zipfile.ZipFile(file).namelist()
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith(("db/", "workers/", "psycopg", "litestar"))]
    variables = environment(api.service.url)
    del variables["PYTHONPATH"]
    process = await asyncio.create_subprocess_exec(
        *("python3", "-I", str(file), "import", "-", "-r", "users", "--json"),
        env=variables,
        cwd=tmp_path,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await in_time(process.communicate(users(2)))
    assert json.loads(out)["counts"]["created"] == 2
