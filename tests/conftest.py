"""One server and one migrated template database a session, one copy of it a test."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager

import hypothesis
import psycopg
import pytest
import pytest_asyncio
from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier

from db import migrate
from db.connections import pool
from db.embedded import EmbeddedError
from tests.support import ROOT, api_client, pgbouncer, postgres, programs, workers
from tests.support.api_client import Api
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.pgbouncer import Bouncer
from tests.support.service import Service, running_service

# how long an example takes depends on what else the machine does
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

SERVER = pytest.StashKey[dict[str, str]]()
TEARDOWN = pytest.StashKey[ExitStack]()
# fixtures that start processes
PROCESS_FIXTURES = {"service", "shared", "browser"}


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long bytes are not in a test's name: those of an archive may contain the time, and the test processes must agree on it."""
    return argname if isinstance(val, bytes) and len(val) > 40 else None


def pytest_configure(config: pytest.Config) -> None:
    """Starts the server, in the controller if there are several processes, which hands it on to the others."""
    # shells ignore Ctrl-C for what they start in the background; what a test starts would inherit that
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if workerinput := getattr(config, "workerinput", None):
        config.stash[SERVER] = workerinput["server"]
        return
    if config.option.collectonly:
        return
    stack = config.stash[TEARDOWN] = ExitStack()
    try:
        url = stack.enter_context(postgres.server())
        config.stash[SERVER] = {"url": url, "template": stack.enter_context(_template(url))}
    except (EmbeddedError, migrate.MigrateError, psycopg.Error) as error:
        stack.close()
        raise pytest.UsageError(f"no database to test with: {error}") from error


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    node.workerinput["server"] = node.config.stash[SERVER]


def pytest_unconfigure(config: pytest.Config) -> None:
    if TEARDOWN in config.stash:
        config.stash[TEARDOWN].close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """In a module with THROUGH_PGBOUNCER each test that uses `conn` runs twice: directly, and through PgBouncer."""
    if getattr(metafunc.module, "THROUGH_PGBOUNCER", False) and "bouncer" in metafunc.fixturenames:
        marks = [pytest.mark.needs("pgbouncer"), pytest.mark.processes]
        metafunc.parametrize("bouncer", ["direct", pytest.param("pgbouncer", marks=marks)], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by what they cost: see tests/README.md. Each has ten times the patience of a wait, a slow one thirty times."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            waits = 30 if item.get_closest_marker("slow") else 10
            item.add_marker(pytest.mark.timeout(waits * PATIENCE_SECONDS))
        if item.path.is_relative_to(ROOT / "tests" / "system"):
            item.add_marker("system")
        if PROCESS_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("processes")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            programs.check(program)


def pytest_terminal_summary(terminalreporter) -> None:
    """Shows the property `summary` of passed tests, and a line for each missing program."""
    reasons = (report.longrepr[2] for report in terminalreporter.getreports("skipped"))
    for line in programs.summary(reasons):
        terminalreporter.write_line(line)
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == "summary":
                terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> str:
    """A server on which the tests may create databases."""
    return request.config.stash[SERVER]["url"]


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database without any table."""
    yield from _database(server_url, "template1")


@pytest.fixture
def database_url(request: pytest.FixtureRequest, server_url: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    yield from _database(server_url, request.config.stash[SERVER]["template"])


@pytest.fixture
def new_database(request: pytest.FixtureRequest, server_url: str) -> Iterator[Callable[[], str]]:
    """`new_database()` is the URL of one more migrated database, for tests that need several."""
    template = request.config.stash[SERVER]["template"]
    with ExitStack() as stack:
        yield lambda: stack.enter_context(contextmanager(_database)(server_url, template))


@pytest.fixture(scope="module")
def running_bouncer(server_url: str) -> Iterator[Bouncer]:
    """A PgBouncer in transaction mode before the server."""
    with pgbouncer.prepared(server_url) as prepared:
        asyncio.run(prepared.start())
        yield prepared


@pytest.fixture
def bouncer(request: pytest.FixtureRequest) -> Bouncer | None:
    """The PgBouncer that `conn` and `other` connect through; None for a direct connection, as in most modules."""
    return request.getfixturevalue("running_bouncer") if getattr(request, "param", "") == "pgbouncer" else None


@pytest.fixture
async def conn(database_url: str, bouncer: Bouncer | None) -> AsyncIterator[pool.Connection]:
    """A connection in autocommit, with the session limits of the service."""
    async with _connection(database_url, "conn", bouncer) as connection:
        yield connection


@pytest.fixture
async def other(database_url: str, bouncer: Bouncer | None) -> AsyncIterator[pool.Connection]:
    """A second connection, which runs concurrently with the first."""
    async with _connection(database_url, "other", bouncer) as connection:
        yield connection


@pytest.fixture
async def third(database_url: str) -> AsyncIterator[pool.Connection]:
    """A third connection, which has no time limits."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def service(tmp_path, database_url: str) -> AsyncIterator[Callable]:
    """`await service(worker_pool_size=2, …)` starts the API and the workers on the test's database; see `running_service`."""
    started: list[Service] = []
    async with AsyncExitStack() as stack:

        async def start(**arguments) -> Service:
            folder = tmp_path / f"service-{len(started)}"
            folder.mkdir()
            started.append(await stack.enter_async_context(running_service(folder, database_url, **arguments)))
            return started[-1]

        yield start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(request: pytest.FixtureRequest, server_url: str, tmp_path_factory) -> AsyncIterator[Service]:
    """One service for all tests of a module, with a database of its own. SERVICE of the module is its settings."""
    folder = tmp_path_factory.mktemp("service")
    async with api_client.service(server_url, folder, **request.module.SERVICE) as started:
        yield started


@pytest.fixture
async def api(shared: Service) -> AsyncIterator[Api]:
    """A client of the module's service, whose tables are emptied first."""
    async with api_client.connected(shared) as connected:
        yield connected


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3-compatible server."""
    # here, because its libraries take a second to import
    from tests.support import bucket

    with bucket.server() as url:
        yield url


@pytest.fixture
def bucket(s3: str, request: pytest.FixtureRequest, monkeypatch):
    """A bucket of the test's own, which the test's process may use too."""
    from tests.support import bucket

    for name, value in (bucket.KEYS | {"aws_endpoint_url": s3}).items():
        monkeypatch.setenv(name.upper(), value)
    return bucket.create(s3, request.node.name)


@pytest.fixture
async def hold(conn, database_url: str) -> Callable[[str], AbstractAsyncContextManager[None]]:
    """`async with hold(HELD):` stops the workers in the middle of a chunk, at the record of the user of that name."""
    return await workers.install_hold(conn, database_url)


@asynccontextmanager
async def _connection(url: str, name: str, bouncer: Bouncer | None) -> AsyncIterator[pool.Connection]:
    if bouncer is not None:
        async with await pgbouncer.connected(bouncer.url(url), name) as connection:
            yield connection
        return
    async with await AsyncConnection.connect(url, autocommit=True, application_name=name) as connection:
        await pool.configure(connection)
        yield connection


def _database(server_url: str, template: str) -> Iterator[str]:
    name = postgres.create_database(server_url, template=template)
    yield postgres.database_url(server_url, name)
    postgres.drop_database(server_url, name)


@contextmanager
def _template(server_url: str) -> Iterator[str]:
    """A migrated database that accepts no connections, so that any number of tests can copy it at the same time."""
    name = postgres.create_database(server_url)
    migrate.up(postgres.database_url(server_url, name))
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(Identifier(name)))
    yield name
    postgres.drop_database(server_url, name)
