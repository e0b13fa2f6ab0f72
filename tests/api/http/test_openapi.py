"""The OpenAPI document is valid and complete, and the service's responses conform to it."""

import json
from types import SimpleNamespace

import httpx
import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from api import app
from db.settings import Settings
from tests.support import api_client
from tests.support.api_client import PATH, USERS_HEADER, user_object, user_row
from tests.support.eventually import PATIENCE_SECONDS, eventually

EXAMPLES = 20

METHODS = {"get", "put", "post", "delete", "patch", "head", "options"}

# headers of any HTTP answer, which say nothing of this interface
PLAIN_HEADERS = {
    "cache-control",
    "x-content-type-options",
    "connection",
    "content-length",
    "content-type",
    "date",
    "keep-alive",
    "server",
    "transfer-encoding",
    "x-accel-buffering",
}


def headers_are_documented(ctx, response, case) -> None:
    """A check for schemathesis: the other way round from its own, which looks for what is documented and not there."""
    documented = case.operation.definition.raw["responses"].get(str(response.status_code), {}).get("headers", {})
    more = {*response.headers} - PLAIN_HEADERS - {name.lower() for name in documented}
    assert not more, f"{response.status_code} has headers that are not documented: {more}"


# Not among them: `positive_data_acceptance`, because no schema describes which bytes are a readable file or which text is a
# cursor, and because 409 and 422 depend on the state of things; `use_after_free` and its like need sequences of requests.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    headers_are_documented,
    unsupported_method,
]


# without these, hardly a request would be taken in
for media_type, file in (
    ("text/csv", USERS_HEADER + user_row(7)),
    ("application/x-ndjson", user_object(8)),
):
    schemathesis.openapi.media_type(media_type, st.sampled_from([file, file[:-3]]) | st.binary())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(server_url, tmp_path_factory):
    """A service that has something to show: an import with errors, a dry run, an export, all of them final."""
    folder = tmp_path_factory.mktemp("service")
    async with (
        api_client.service(server_url, folder, worker_pool_size=1, batch_size=2) as service,
        httpx.AsyncClient(base_url=service.url, timeout=PATIENCE_SECONDS) as client,
    ):
        file = USERS_HEADER + b"".join(map(user_row, range(5))) + b"no e-mail,B,reader,true\n"
        jobs = {PATH: [], "/api/v1/exports": []}
        for params in ({"resource": "users"}, {"resource": "users", "dry_run": "true", "mode": "upsert"}):
            answer = await client.post(PATH, content=file, params=params, headers={"Content-Type": "text/csv"})
            jobs[PATH].append(answer.json()["id"])
        answer = await client.post("/api/v1/exports", json={"resource": "users", "format": "csv"})
        assert answer.status_code == 202, answer.text
        jobs["/api/v1/exports"].append(answer.json()["id"])

        async def are_final() -> bool:
            paths = [f"{path}/{id}" for path, ids in jobs.items() for id in ids]
            return all([(await client.get(path)).json()["status"] == "completed" for path in paths])

        await eventually(are_final)
        yield SimpleNamespace(url=service.url, api=service.api, jobs=jobs)


@pytest.fixture
def schema(running):
    return schemathesis.openapi.from_url(f"{running.url}/schema/openapi.json")


def operations(schema) -> list:
    """Every operation; those that delete jobs come last."""
    found = [result.ok() for result in schema.get_all_operations()]
    return sorted(found, key=lambda operation: operation.method == "delete")


def can_be_asked_wrongly(operation) -> bool:
    """Whether the operation has inputs other than headers and ids, for which any text is valid."""
    raw = operation.definition.raw
    return "requestBody" in raw or any(parameter["in"] == "query" for parameter in raw["parameters"])


def test_the_document_is_valid(running, schema):
    """It is OpenAPI 3.1 by that standard's own schema, and every reference in it leads somewhere."""
    schema.validate()
    document = schema.raw_schema
    assert document["openapi"].startswith("3.1.")
    references = {part.split('"')[0] for part in json.dumps(document).split('"$ref": "#/components/schemas/')[1:]}
    assert references <= {*document["components"]["schemas"]}
    assert len(operations(schema)) == sum(len(METHODS & {*item}) for item in document["paths"].values())


def test_alternatives_exclude_each_other(schema):
    """No two alternatives of a `oneOf` have the same type, so that each value fits one of them."""

    def type_of(alternative: dict) -> str:
        # all components are objects
        return alternative.get("type", "object")

    def check(node: object) -> None:
        if isinstance(node, dict):
            types = [type_of(alternative) for alternative in node.get("oneOf", ())]
            assert len(set(types)) == len(types), node
        for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            check(inner)

    check(schema.raw_schema)


def test_every_route_is_in_the_document(running, schema):
    """Every path is in the document, except the document's own and those of the console."""
    application = app.create(Settings(database_url="postgresql://nobody@127.0.0.1:1/none"))
    routes = {
        (route.path_format, method.lower())
        for route in application.routes
        for method in route.methods - {"OPTIONS"}
        if not route.path_format.startswith("/schema")
        and any(handler.resolve_include_in_schema() for handler in route.route_handlers)
    }
    assert routes == {(operation.path, operation.method) for operation in operations(schema)}


@pytest.mark.parametrize("path", ["/schema", "/schema/", "/schema/elements", "/schema/openapi.yml"])
def test_the_document_stands_alone(running, path):
    """Unknown routes below /schema are answered with a problem, as everywhere, not with the framework's page."""
    answer = httpx.get(running.url + path, timeout=PATIENCE_SECONDS)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_every_operation_documents_its_problems(running, schema):
    """Each response from 400 on is a problem document, except those of the probes; no other response is one."""
    for operation in operations(schema):
        responses = operation.definition.raw["responses"]
        assert "500" in responses
        assert operation.path.startswith("/api/") <= ("400" in responses)
        # these need no database
        is_always_available = operation.path.startswith(("/api/v1/resources", "/api/v1/tickets"))
        assert operation.path.startswith("/api/") <= (("503" in responses) is not is_always_available)
        assert ("{" in operation.path) <= ("404" in responses)
        for status, response in responses.items():
            is_problem = int(status) >= 400 and not (operation.path in ("/ready", "/health") and status == "503")
            assert ([*response.get("content", {})] == ["application/problem+json"]) is is_problem, operation.label
            assert response["headers"]["X-Request-Id"]["required"]


async def test_the_document_describes_what_needs_a_key(service):
    """With API keys set, the document describes how to send one and which operations need none, as the service requires."""
    started = await service(run=["api"], api_keys="open-sesame-open-sesame")
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        assert (await client.get("/schema/openapi.json")).status_code == 401
        document = (await client.get("/schema/openapi.json", headers={"X-API-Key": "open-sesame-open-sesame"})).json()
        assert {scheme for way in document["security"] for scheme in way} == {
            *document["components"]["securitySchemes"]
        }
        for path, item in document["paths"].items():
            for method, operation in item.items():
                needs_key = operation.get("security") != []
                answer = await client.request(method, path.format(id="x", resource="users", name="users"))
                assert needs_key is ("401" in operation["responses"]) is (answer.status_code == 401), path
                if needs_key:
                    assert operation["responses"]["401"]["headers"]["WWW-Authenticate"]["required"]
                    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_as_documented(running, schema, mode):
    """For valid and invalid requests there is no 5xx, and status, type, headers and body are documented.

    The requests are the same in each run. Paths also get the ids of existing jobs.
    """
    checks = CHECKS if mode is GenerationMode.POSITIVE else [*CHECKS, negative_data_rejection]

    for operation in operations(schema):
        if mode is GenerationMode.NEGATIVE and not can_be_asked_wrongly(operation):
            continue
        ids = next((ids for path, ids in running.jobs.items() if operation.path.startswith(f"{path}/{{id}}")), [])

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), id=st.sampled_from([None, *ids]))
        def ask(case, id):
            if id is not None:
                case.path_parameters["id"] = id
            # with a format, and as an array, the body is a file, whose records are checked later, one by one
            is_file = case.media_type == "application/json" and (
                "format" in (case.query or {}) or isinstance(case.body, list)
            )
            # the schema of OpenAPI 3.1 describes the whole stream, schemathesis applies it to each event
            without = [response_schema_conformance] if case.path.endswith("/events") else []
            case.call_and_validate(
                checks=CHECKS if is_file else checks, excluded_checks=without, timeout=PATIENCE_SECONDS
            )

        ask()
    assert running.api.exit_code is None
