"""Private parts of libraries that the code relies on. A failure means that the library has changed; the message names the part.

uvicorn, httptools and psycopg are pinned to minor versions in pyproject.toml. Before a bound is raised these tests and
tests/api/http/test_framing.py, test_limits.py and tests/system/test_shutdown.py must pass.
"""

import inspect

import httptools
import psycopg
import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.server import ServerState


async def app(scope, receive, send):
    """An application that is never called: no test sends a request."""


@pytest.fixture
async def protocol():
    """In an event loop, which the protocol requires."""
    return httptools_impl.HttpToolsProtocol(uvicorn.Config(app), ServerState(), {})


@pytest.mark.parametrize(
    "name",
    [
        "connections",
        "cycle",
        "expect_100_continue",
        "flow",
        "headers",
        "parser",
        "pipeline",
        "timeout_keep_alive_task",
        "timeout_keep_alive_handler",
        "transport",
        "_start_asgi_task",
        "_unset_keepalive_if_required",
    ],
)
async def test_the_connection_of_uvicorn(protocol, name):
    """Attributes of uvicorn's protocol that BoundedHttp reads, sets or overrides."""
    assert hasattr(protocol, name), f"HttpToolsProtocol.{name} is gone: see api/http/protocol.py"


@pytest.mark.parametrize("method", ["on_headers_complete", "on_response_complete"])
def test_each_request_of_uvicorn_is_started_in_one_place(method):
    """There BoundedHttp wraps the application of HTTP/1.0 requests, and stores the request that is being processed."""
    source = inspect.getsource(getattr(httptools_impl.HttpToolsProtocol, method))
    assert "self._start_asgi_task(" in source, f"{method} starts requests elsewhere: see BoundedHttp._start_asgi_task"


async def test_the_request_of_uvicorn():
    """A response is chunked unless `chunked_encoding` was set, and is compared with `expected_content_length`."""
    source = inspect.getsource(httptools_impl.RequestResponseCycle)
    assert "if self.chunked_encoding is None and" in source, "see api/http/http_1_0.py"
    assert "self.expected_content_length -= num_bytes" in source, "see api/http/http_1_0.py"
    for name in ("disconnected", "keep_alive", "message_event", "response_complete", "waiting_for_100_continue"):
        assert f"self.{name}" in source, f"RequestResponseCycle.{name} is gone: see api/http/protocol.py"
    for status in (400, 408, 431, 503):
        assert httptools_impl.STATUS_LINE[status].startswith(b"HTTP/1.1 %d " % status), "see api/http/refusals.py"


@pytest.mark.parametrize("name", ["handle_exit", "on_tick", "startup", "shutdown", "serve"])
def test_the_server_of_uvicorn(name):
    """Methods that the server overrides, and attributes that it sets and reads."""
    assert callable(getattr(uvicorn.Server, name)), f"uvicorn.Server.{name} is gone: see api/http/server.py"
    source = inspect.getsource(uvicorn.Server)
    for used in ("self.should_exit", "self.servers", "self.lifespan.state", "self.server_state"):
        assert used in source, f"{used} is gone from uvicorn.Server: see api/http/server.py"


def test_the_parser_continues_after_an_upgrade():
    """The parser stops behind the head, returns the offset, and accepts the next message."""
    events = []

    class Messages:
        def on_headers_complete(self):
            events.append((parser.get_method(), parser.should_upgrade()))

        def on_body(self, body):
            events.append(body)

    parser = httptools.HttpRequestParser(Messages())
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as stop:
        parser.feed_data(head + b"abc")
    assert stop.value.args[0] == len(head), "see BoundedHttp._feed"
    parser.feed_data(head.replace(b"Upgrade: h2c\r\n", b"") + b"abc")
    assert events == [(b"POST", True), (b"POST", False), b"abc"], "see BoundedHttp._feed"


async def test_each_exchange_of_psycopg_passes_wait(database_url):
    """The watchdog of a connection sets its deadline in `wait`."""
    waits = []

    class Connection(psycopg.AsyncConnection):
        async def wait(self, gen, *arguments, **options):
            waits.append(gen)
            return await super().wait(gen, *arguments, **options)

    async with await Connection.connect(database_url) as conn:
        before = len(waits)
        await conn.execute("SELECT 1")
        assert len(waits) > before, "see db/connections/liveness.py"
        before = len(waits)
        async with conn.cursor().copy("COPY (SELECT 1) TO STDOUT") as copy:
            assert [bytes(block) async for block in copy] == [b"1\n"]
        assert len(waits) > before, "see db/connections/liveness.py"
