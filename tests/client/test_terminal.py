"""The command `bulk` at a terminal: progress, colours, questions, Ctrl-C."""

import json

import pytest

from tests.client import terminal
from tests.client.conftest import Bulk
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.eventually import in_time

FAULTY = b"email,name,role,active\nada@example.org,Ada,admin,true\nfoo@bar,Bo,boss,true\n"
ESCAPE = b"\x1b["


@pytest.fixture
def faulty(tmp_path):
    path = tmp_path / "users.csv"
    path.write_bytes(FAULTY)
    return str(path)


async def run(bulk: Bulk, *words: str, **variables: str) -> tuple[int, bytes]:
    with terminal.opened() as (screen, slave):
        process = await terminal.start(bulk, slave, *words, **variables)
        code = await in_time(process.wait())
        return code, screen.read()


async def test_colours_on_a_terminal_only(bulk, faulty):
    """A terminal gets colours; NO_COLOR, TERM=dumb and a pipe do not."""
    code, coloured = await run(bulk, "import", faulty, "-r", "users")
    assert code == 3
    assert b"\x1b[31m" in coloured
    _, plain = await run(bulk, "import", faulty, "-r", "users", NO_COLOR="1")
    assert b"\x1b[31m" not in plain
    _, dumb = await run(bulk, "show", TERM="dumb")
    assert ESCAPE not in dumb
    piped = await bulk("show")
    assert "\x1b" not in piped.out + piped.err


async def test_progress_is_drawn_and_erased(bulk, api, tmp_path):
    """While the job runs there is a bar; at the end the result replaces it."""
    path = tmp_path / "many.csv"
    path.write_bytes(USERS_HEADER + b"".join(map(user_row, range(2_000))))
    with terminal.opened() as (screen, slave):
        async with api.conn.transaction():
            # the workers cannot store a record while this lock is held
            await api.conn.execute("LOCK TABLE users IN SHARE MODE")
            process = await terminal.start(bulk, slave, "import", str(path), "-r", "users")
            await screen.shows("import processing")
            await screen.shows("of 2,000 records")
        assert await in_time(process.wait()) == 0
        assert b"created" in screen.read()


async def test_ctrl_c_leaves_the_job_running(service, environment):
    """The id and the command to continue are printed, the exit code is 130, and the job still exists."""
    started = await service(run=("api",))
    bulk = Bulk(environment(started.url))
    await bulk("import", "-", "-r", "users", "--detach", stdin=FAULTY)
    with terminal.opened() as (screen, slave):
        process = await terminal.start(bulk, slave, "watch")
        await screen.shows("import pending")
        screen.write(terminal.CTRL_C)
        assert await in_time(process.wait()) == 130
        await screen.shows("bulk watch ")
    assert json.loads((await bulk("show", "--json")).out)["status"] == "pending"


async def test_ctrl_c_can_cancel(service, environment, tmp_path):
    """With --cancel-on-interrupt the job is cancelled."""
    started = await service(run=("api",))
    bulk = Bulk(environment(started.url))
    path = tmp_path / "users.csv"
    path.write_bytes(FAULTY)
    with terminal.opened() as (screen, slave):
        process = await terminal.start(bulk, slave, "import", str(path), "-r", "users", "--cancel-on-interrupt")
        await screen.shows("import pending")
        screen.write(terminal.CTRL_C)
        assert await in_time(process.wait()) == 130
    assert json.loads((await bulk("show", "--json")).out)["status"] == "cancelled"


async def test_delete_asks(bulk, faulty):
    """At a terminal a question names the number of records; after "no" nothing is deleted."""
    await bulk("import", faulty, "-r", "users")
    with terminal.opened() as (screen, slave):
        process = await terminal.start(bulk, slave, "delete")
        await screen.shows("of 2 users? [y/N]")
        screen.write(b"n\n")
        assert await in_time(process.wait()) == 130
    assert (await bulk("show")).code == 0
