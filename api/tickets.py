"""`POST /tickets`: a URL from which a browser can download without a key."""

import re
import time
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import Response, post
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Meta

from api.http import auth, parameters, responses, tickets
from api.http.dependencies import SettingsHere
from api.http.headers import AnyRequest
from api.http.operations import json_body, operation
from api.http.problems import invalid, problem_responses

_ADDRESS = re.compile(r"/api/v1/[!-~]*", re.ASCII)


class TicketParameters(msgspec.Struct, kw_only=True):
    path: Annotated[
        str,
        Meta(
            max_length=4000,
            description="The path and the query of a GET request below /api/v1/, percent-encoded as it will be sent.",
        ),
    ]


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """`url` is the path with a ticket. Without API keys no ticket is needed: `url` is the path, and never expires."""

    url: str
    expires_at: datetime | None


@post(
    auth.TICKETS,
    status_code=201,
    operation_class=operation(body=json_body(TicketParameters)),
    tags=["operations"],
    summary="Create a download ticket",
    responses={
        201: ResponseSpec(Ticket, description="The URL", generate_examples=False),
        **problem_responses("invalid-request", "payload-too-large", "unsupported-format"),
    },
)
async def create_ticket(request: AnyRequest, settings: SettingsHere) -> Response[bytes]:
    """The URL is valid for TICKET_SECONDS, for GET only. It is signed with the API key of this request, and becomes invalid when
    that key is removed."""
    given = [*request.query_params.multi_items(), *(await parameters.json_object(request)).items()]
    path = parameters.parse(given, TicketParameters).path
    if not _ADDRESS.fullmatch(path) or "#" in path or tickets.split(path.partition("?")[2].encode()):
        raise invalid(
            "path", "must be the path and query of a request below /api/v1/, percent-encoded, without a ticket"
        )
    key = auth.api_key(request.scope)
    if key is None:
        ticket = Ticket(url=path, expires_at=None)
    else:
        expires = int(time.time() + settings.ticket_seconds) + 1
        url = tickets.add(path.encode(), key.key, expires=expires).decode()
        ticket = Ticket(url=url, expires_at=datetime.fromtimestamp(expires, UTC))
    return Response(
        msgspec.json.encode(ticket), status_code=201, headers={"Cache-Control": "no-store"}, media_type=responses.JSON
    )


HANDLERS = [create_ticket]
