"""Errors over HTTP: each is a problem document, with the information for the client and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import httpx
import msgspec
import pytest
import structlog
from litestar import Litestar, Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.response import Stream

from api import app
from api.http import parameters
from api.http.problems import Fault, Problem
from api.http.server import Server, listen
from db.connections.pool import Pool
from db.settings import Settings
from tests.support.eventually import PATIENCE_SECONDS, broken_off, eventually


class Parameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    resource: Literal["users", "articles"]
    limit: int = 100
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.dry_run and self.limit == 1:
            raise ValueError("limit=1 and dry_run exclude each other")


@get("/t/problem")
async def problem() -> None:
    raise Problem("payload-too-large", "Too much.", headers={"X-Limit": "7"}, limit_bytes=7)


@get("/t/failing")
async def failing() -> None:
    raise RuntimeError("the secret of the house")


@get("/t/database")
async def database(db_pool: NamedDependency[Pool]) -> None:
    async with db_pool.connection(timeout=0.2):
        pass


@get("/t/parameters")
async def parsed(request: Request) -> Parameters:
    return parameters.parse(request.query_params.multi_items(), Parameters)


@get("/t/items/{item:int}")
async def item(item: FromPath[int]) -> int:
    return item


@post("/t/json")
async def json_body(data: JSONBody[dict[str, int]]) -> dict[str, int]:
    return data


@get("/t/broken-stream")
async def broken_stream() -> Stream:
    async def blocks() -> AsyncIterator[bytes]:
        yield b"one block"
        await asyncio.sleep(0)
        raise RuntimeError("half way")

    return Stream(blocks())


@post("/t/upload", request_max_body_size=None)
async def upload(request: Request) -> int:
    return sum([len(block) async for block in request.stream()])


@pytest.fixture
def settings(tmp_path) -> Settings:
    # no server listens on port 1: the database is unreachable
    return Settings(
        http_port=0, database_url="postgresql://127.0.0.1:1/none", data_dir=str(tmp_path), export_dir=str(tmp_path)
    )


@pytest.fixture
def application(settings) -> Litestar:
    made = app.create(settings)
    for handler in (problem, failing, database, parsed, item, json_body, broken_stream, upload):
        made.register(handler)
    return made


@pytest.fixture
async def client(application, settings) -> AsyncIterator[httpx.AsyncClient]:
    server = Server(application, settings, listen(settings))
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started or serving.done())
    assert server.started, serving.exception()
    port = server.listeners[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client:
        yield client
    server.should_exit = True
    await serving


def assert_problem(response: httpx.Response, status: int, slug: str) -> dict:
    """The response is a whole problem document of this kind."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["type"] == f"/problems/{slug}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["instance"] == response.request.url.path
    assert document["request_id"] == response.headers["x-request-id"]
    return document


async def test_a_problem_carries_its_headers_and_further_members(client):
    """Headers and further members that a handler adds are in the response."""
    response = await client.get("/t/problem")
    assert assert_problem(response, 413, "payload-too-large")["limit_bytes"] == 7
    assert response.headers["x-limit"] == "7"


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/t/items/nine", 404, "not-found"),
        ("DELETE", "/t/problem", 405, "method-not-allowed"),
        ("POST", "/t/json", 400, "invalid-request"),
    ],
)
async def test_errors_of_the_framework_are_problems(client, method, path, status, slug):
    """Errors that the framework raises are problem documents too."""
    assert_problem(await client.request(method, path), status, slug)


async def test_a_wrong_method_is_answered_with_the_allowed_ones(client):
    """405 names the allowed methods."""
    response = await client.delete("/t/problem")
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


async def test_a_body_beyond_the_limit_is_refused(client):
    """A handler that reads its body whole takes 1 MiB at most."""
    response = await client.post("/t/json", content=b'{"a": ' + b" " * app.BODY_MAX_BYTES + b"1}")
    assert_problem(response, 413, "payload-too-large")


async def test_an_unexpected_error_is_logged_and_not_shown(client):
    """The response has the request id, and the log the traceback under the same id."""
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        response = await client.get("/t/failing")
    document = assert_problem(response, 500, "internal-error")
    assert "secret" not in response.text
    (line,) = [line for line in lines if line["event"] == "request failed"]
    assert line["request_id"] == document["request_id"]
    assert str(line["exc_info"]) == "the secret of the house"


async def test_an_unreachable_database_is_503(client):
    """The response has Retry-After, and does not contain the address of the database."""
    response = await client.get("/t/database")
    assert_problem(response, 503, "unavailable")
    assert response.headers["retry-after"] == "5"
    assert "127.0.0.1" not in response.text


async def test_every_wrong_parameter_is_named(client):
    """One response names all invalid and all unknown parameters."""
    response = await client.get("/t/parameters?limit=many&dry_run=perhaps&colour=red&limit=2x")
    errors = assert_problem(response, 400, "invalid-request")["errors"]
    assert {(error["field"], error["code"]) for error in errors} == {
        ("resource", "missing"),
        ("limit", "repeated_parameter"),
        ("limit", "invalid_value"),
        ("dry_run", "invalid_value"),
        ("colour", "unknown_parameter"),
    }


async def test_a_wrong_choice_is_answered_with_the_choices(client):
    """The message for an enum lists its values."""
    response = await client.get("/t/parameters?resource=user")
    errors = assert_problem(response, 400, "invalid-request")["errors"]
    assert errors == [{"field": "resource", "code": "invalid_value", "message": "must be one of: articles, users"}]


async def test_parameters_that_exclude_each_other_are_400(client):
    """An error of a rule over several parameters names none of them."""
    response = await client.get("/t/parameters?resource=users&limit=1&dry_run=true")
    (error,) = assert_problem(response, 400, "invalid-request")["errors"]
    assert error["field"] is None
    assert "exclude each other" in error["message"]


async def test_valid_parameters_become_a_struct(client):
    """Text from a query has the struct's types, and defaults are filled in."""
    response = await client.get("/t/parameters?resource=users&limit=5")
    assert response.json() == {"resource": "users", "limit": 5, "dry_run": False}


def test_values_of_a_json_object_are_parameters_too():
    """The same struct takes typed values, and refuses those of another type."""
    assert parameters.parse({"resource": "users", "dry_run": True}.items(), Parameters).dry_run is True
    with pytest.raises(Problem) as raised:
        parameters.parse({"resource": "users", "limit": [1]}.items(), Parameters)
    assert list(raised.value.errors) == [Fault("limit", "invalid_value", "must be a whole number")]


async def test_a_stream_that_fails_never_ends_cleanly(client):
    """The client sees a broken connection, not a shorter file."""
    with broken_off():
        await client.get("/t/broken-stream")


async def test_a_disconnect_during_an_upload_is_no_error(client, eventually_logged):
    """It counts as 499 in the log, and no error is logged."""
    url = client.base_url
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /t/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nonly so much")
    await writer.drain()
    writer.close()
    line = await eventually_logged("/t/upload")
    assert line["status"] == 499
    assert not [line for line in eventually_logged.lines if line["log_level"] in ("error", "warning")]


async def test_a_process_that_is_to_stop_is_not_ready(application, client):
    """While the process drains it is not ready, even if all checks pass."""
    assert (await client.get("/ready")).json()["status"] == "unavailable"
    application.state.draining.set()
    response = await client.get("/ready")
    assert (response.status_code, response.json()["status"]) == (503, "draining")


@pytest.fixture
def eventually_logged():
    """Waits for the access line of a route; `.lines` are all lines so far."""

    class Logged:
        async def __call__(self, route: str) -> dict:
            return await eventually(lambda: self._line(route))

        def _line(self, route: str) -> dict | None:
            return next((line for line in self.lines if line["event"] == "request" and line["route"] == route), None)

    logged = Logged()
    with structlog.testing.capture_logs() as logged.lines:
        yield logged
