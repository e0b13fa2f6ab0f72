"""The PostgreSQL that runs when DATABASE_URL is unset."""

import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from db import embedded, migrate
from tests.support import ROOT, postgres
from tests.support.eventually import PATIENCE_SECONDS, eventually


@pytest.fixture
def data_path():
    """A DATA_DIR, whose server is stopped in the end if the test has not done so."""
    with postgres.open_folder(in_memory=True) as folder:
        yield folder
        with suppress(embedded.NotRunning):
            embedded.stop(folder)


def start(data_path: Path) -> str:
    return embedded.start(data_path, options=postgres.FAST, bin_dir=postgres.bin_dir())


def command(data_path: Path, *words: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return subprocess.Popen(
        [sys.executable, "-m", "db.embedded", *words],
        cwd=ROOT,
        env=environment | {"DATA_DIR": str(data_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def is_ready(run: subprocess.Popen) -> bool:
    """Waits until the command has written the line `ready`."""
    readable, _, _ = select.select([run.stdout], [], [], PATIENCE_SECONDS)
    return bool(readable) and run.stdout.readline() == "ready\n"


def query(url: str, sql: str):
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(sql)
        return cursor.fetchall() if cursor.description else None


def test_a_second_start_finds_the_data(data_path):
    """Committed data is there after a stop and a start, and a stop leaves no process running."""
    query(start(data_path), "CREATE TABLE kept AS SELECT 1 AS n")
    embedded.stop(data_path)
    with pytest.raises(embedded.NotRunning, match=str(data_path)):
        embedded.url(data_path)
    assert query(start(data_path), "SELECT n FROM kept") == [(1,)]


def test_a_server_that_runs_is_used(data_path):
    """A start beside a running server gives the server's own URL, and so does url()."""
    url = start(data_path)
    assert start(data_path) == url == embedded.url(data_path)


def test_nothing_listens_but_a_private_socket(data_path):
    """No TCP, no password in the URL; the socket, the data and the log can be reached by their owner only."""
    url = embedded.start(data_path, bin_dir=postgres.bin_dir())
    assert "password" not in conninfo_to_dict(url)
    listening = "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
    assert query(url, listening) == [("", f'"{data_path / "socket"}"')]
    assert query(url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]
    for path in ("socket", "postgres", "postgres.log"):
        assert (data_path / path).stat().st_mode & 0o077 == 0, path
    assert data_path.stat().st_mode & 0o066 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_cannot_connect(data_path):
    """Another user cannot connect, even with the URL."""
    url = embedded.start(data_path, bin_dir=postgres.bin_dir())
    done = subprocess.run(
        [
            shutil.which("python3", path="/usr/bin:/bin") or sys.executable,
            "-c",
            SOCKET_SCRIPT,
            str(data_path / "socket" / ".s.PGSQL.5432"),
        ],
        user=65534,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert "PermissionError" in done.stderr
    assert query(url, "SELECT 1") == [(1,)]


SOCKET_SCRIPT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


def test_the_log_holds_no_values(data_path):
    """An error of a statement is the client's, which logs it without values; the server's log does not repeat it."""
    url = embedded.start(data_path, bin_dir=postgres.bin_dir())
    query(url, "CREATE TABLE people (email text PRIMARY KEY)")
    query(url, "INSERT INTO people VALUES ('ada@example.com')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        query(url, "INSERT INTO people VALUES ('ada@example.com')")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        query(url, "SELECT 'ada@example.com'::uuid")
    assert "ada@" not in (data_path / "postgres.log").read_text()


def test_a_large_log_is_rotated(data_path):
    """A start rotates a large log and keeps the previous one."""
    (data_path / "postgres.log").write_bytes(b"old\n" * 2**19)
    start(data_path)
    assert (data_path / "postgres.log").stat().st_size < 2**20
    assert (data_path / "postgres.log.1").stat().st_size == 2**21


def test_a_path_too_long_for_a_socket_is_named(data_path):
    with pytest.raises(embedded.EmbeddedError, match=r"DATA_DIR: the path .* is too long for a Unix socket"):
        embedded.start(data_path / ("long" * 25), bin_dir=postgres.bin_dir())


def test_over_tcp_a_password_is_required(data_path):
    """The form that tests use, which connect through proxies."""
    url = start(data_path)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(url, password="guessed")  # noqa: S106
    assert (data_path / "postgres.password").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("has_crashed", [False, True])
def test_a_data_folder_of_an_earlier_version_is_tightened(data_path, has_crashed):
    """The service's role was the superuser in an earlier version. It becomes an ordinary role that owns the database.

    So does it at the next start if the first one has crashed on the way.
    """
    url = start(data_path)
    migrate.up(url)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 1 AS n")
        conn.execute("CREATE ROLE temporary LOGIN SUPERUSER")
        if has_crashed:
            conn.execute("CREATE ROLE bulk_upgrade LOGIN SUPERUSER")
    admin = f"host={data_path / 'socket'} port={conninfo_to_dict(embedded.url(data_path))['port']} user=temporary dbname=postgres"
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute("ALTER DATABASE bulk OWNER TO postgres")
    with psycopg.connect(admin, dbname="bulk", autocommit=True) as conn:
        conn.execute("REASSIGN OWNED BY bulk TO postgres")
        conn.execute("DROP OWNED BY bulk")
        conn.execute("DROP ROLE bulk")
        conn.execute("ALTER ROLE postgres RENAME TO bulk")
    embedded.stop(data_path)
    (data_path / "postgres" / "pg_hba.conf").write_text("local all all scram-sha-256\n")
    url = embedded.start(data_path, bin_dir=postgres.bin_dir())
    assert query(url, "SELECT n, current_user FROM kept") == [(1, "bulk")]
    roles = "SELECT rolname, rolsuper FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'temporary' ORDER BY rolname"
    assert query(url, roles) == [("bulk", False), ("postgres", True)]
    # an owner alone may do this
    while migrate.down(url):
        pass
    migrate.up(url)
    query(url, "DROP TABLE kept")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="is about root, where unshare is")
def test_root_can_run_it_below_a_folder_of_mode_700(data_path):
    """No other user reaches such a folder, and PostgreSQL refuses root."""
    data_path.chmod(0o700)
    assert query(start(data_path), "SELECT 1") == [(1,)]


@pytest.mark.parametrize("pid_is_taken", [False, True])
def test_a_crash_does_not_stop_the_next_start(data_path, pid_is_taken):
    """After a kill -9 the server starts again, also when another process has been given the old one's pid since."""
    query(start(data_path), "CREATE TABLE kept AS SELECT 1 AS n")
    pid_file = data_path / "postgres" / "postmaster.pid"
    pid, rest = pid_file.read_text().split("\n", 1)
    os.kill(int(pid), signal.SIGKILL)
    if pid_is_taken:
        pid_file.write_text(f"{os.getppid()}\n{rest}")
    with psycopg.connect(start(data_path)) as conn:
        assert conn.execute("SELECT n FROM kept").fetchall() == [(1,)]


def test_an_incomplete_data_folder_is_recreated(data_path):
    """After a killed initdb the next start creates a complete data folder."""
    (data_path / "postgres.new").mkdir(mode=0o700)
    (data_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    assert query(start(data_path), "SELECT 1") == [(1,)]


def test_run_gives_the_command_a_database(data_path):
    """The command gets DATABASE_URL, its exit code is returned, and afterwards the server is stopped."""
    script = "import os, psycopg, sys; sys.exit(psycopg.connect(os.environ['DATABASE_URL']).execute('SELECT 7').fetchone()[0])"
    run = command(data_path, "run", "--", sys.executable, "-c", script)
    _, errors = run.communicate(timeout=PATIENCE_SECONDS)
    assert (run.returncode, errors) == (7, "")
    with pytest.raises(embedded.NotRunning):
        embedded.url(data_path)


def test_run_leaves_a_server_that_it_did_not_start(data_path):
    """A second command can run at the same time; its end does not stop the server of the first."""
    url = start(data_path)
    run = command(data_path, "run", "--", "true")
    run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 0
    assert query(url, "SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    ("signum", "whole_group"), [(signal.SIGTERM, False), (signal.SIGHUP, True), (signal.SIGINT, True)]
)
def test_run_ends_its_command_before_the_server(data_path, signum, whole_group):
    """TERM, a hang-up and Ctrl-C end the command, which still has its database then."""
    script = """
import os, psycopg, signal, sys
conn = psycopg.connect(os.environ["DATABASE_URL"])
def end(signum, frame):
    print(signal.Signals(signum).name, conn.execute("SELECT 'has a database'").fetchone()[0], flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
print("ready", flush=True)
while True:
    signal.pause()
"""
    run = command(data_path, "run", "--", sys.executable, "-c", script)
    assert is_ready(run)
    (os.killpg if whole_group else os.kill)(run.pid, signum)
    output, _ = run.communicate(timeout=PATIENCE_SECONDS)
    name = "SIGINT" if signum == signal.SIGINT else "SIGTERM"
    assert (output, run.returncode) == (f"{name} has a database\n", 0)
    with pytest.raises(embedded.NotRunning):
        embedded.url(data_path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to find them")
def test_a_hang_up_ends_what_the_command_started(data_path):
    """Also processes in sessions of their own, when the command does not pass the signal on."""
    script = """
import signal, subprocess
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
print(child.wait())
"""
    run = command(data_path, "run", "--", sys.executable, "-c", script)
    assert is_ready(run)
    os.killpg(run.pid, signal.SIGHUP)
    output, _ = run.communicate(timeout=PATIENCE_SECONDS)
    assert (output, run.returncode) == (f"{-signal.SIGTERM}\n", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent dies")
async def test_a_killed_wrapper_leaves_nothing_running(data_path):
    """After a kill -9 of the wrapper both its command and its server end."""
    run = command(
        data_path, "run", "--", sys.executable, "-c", "import signal; print('ready', flush=True); signal.pause()"
    )
    assert is_ready(run)
    assert embedded.url(data_path)
    run.kill()
    # the pipe ends when the command, who holds its other end, has ended
    run.communicate(timeout=PATIENCE_SECONDS)

    def gone() -> bool:
        try:
            embedded.url(data_path)
        except embedded.NotRunning:
            return True
        return False

    await eventually(gone)


def test_with_a_database_url_the_command_just_runs(data_path, server_url):
    """With DATABASE_URL set nothing is started."""
    environment = os.environ | {"DATABASE_URL": server_url, "DATA_DIR": str(data_path)}
    script = "import os, sys; sys.stdout.write(os.environ['DATABASE_URL'])"
    words = [sys.executable, "-m", "db.embedded", "run", "--", sys.executable, "-c", script]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    assert done.stdout == server_url
    assert list(data_path.iterdir()) == []
