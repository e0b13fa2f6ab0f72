"""Parses the parameters of a query, a form or a JSON object into a struct, or one 400 that names every error."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo

from api.http.headers import IDEMPOTENCY_KEY_MAX_CHARACTERS, AnyRequest
from api.http.problems import Fault, Problem, invalid, invalid_request
from db.resources import ResourceName, validation

S = TypeVar("S", bound=msgspec.Struct)

# more than any route has, and few enough to report an error for each
JSON = "application/json"

PARAMETERS_MAX = 100

# PostgreSQL cannot store the character U+0000 in a text
STORABLE = r"^[^\x00]*$"

IdempotencyToken = Annotated[str, Meta(min_length=1, max_length=IDEMPOTENCY_KEY_MAX_CHARACTERS, pattern=STORABLE)]


class NoParameters(msgspec.Struct):
    """For routes without parameters: every parameter is refused."""


class ListParameters(msgspec.Struct, kw_only=True):
    """The parameters that the lists of imports and exports share."""

    resource: ResourceName | None = None
    created_after: Annotated[
        Annotated[datetime, Meta(tz=True)] | None, Meta(description="Jobs created at this time or later.")
    ] = None
    created_before: Annotated[
        Annotated[datetime, Meta(tz=True)] | None, Meta(description="Jobs created before this time.")
    ] = None
    counts: Annotated[
        bool,
        Meta(
            description="Adds the member `counts`: how many jobs of each status match the other filters, on all pages together."
        ),
    ] = False
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Annotated[str | None, Meta(description="The `next_cursor` of the previous page.")] = None


def query(request: AnyRequest, into: type[S] = NoParameters) -> S:
    """The parameters of the query as the struct `into`. Raises `Problem` 400."""
    return parse(request.query_params.multi_items(), into)


async def json_object(request: AnyRequest) -> dict[str, Any]:
    """The body, a JSON object. Raises `Problem` 400, 413, 415."""
    media_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if media_type != JSON:
        raise Problem("unsupported-format", f"The body of this request must be {JSON}, not {media_type}.")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Problem(
            "unsupported-format",
            f"The body of this request must not have a Content-Encoding, but has {encoding}.",
            headers={"Accept-Encoding": "identity"},
        )
    try:
        body = msgspec.json.decode(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("invalid-request", f"The body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Problem("invalid-request", "The body is not a JSON object.")
    return body


def parse(given: Iterable[tuple[str, Any]], into: type[S]) -> S:
    """The parameters `given`, in the order in which they were sent, as the struct `into`.

    Values are text (query, form) or JSON values. Raises `Problem` invalid-request with an error for each parameter that is
    unknown, missing, repeated or invalid. A rule over several parameters belongs in `__post_init__` and raises ValueError.
    """
    values: dict[str, Any] = {}
    repeated: list[str] = []
    for count, (name, value) in enumerate(given):
        if count == PARAMETERS_MAX:
            raise Problem("invalid-request", f"The request has more than {PARAMETERS_MAX} parameters.")
        if name in values:
            repeated.append(name)
        values[name] = value
    _decode_objects(values, into)
    if faults := _faults(values, repeated, into):
        raise invalid_request(faults)
    try:
        return msgspec.convert(values, into, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(None, str(error)) from None


def check_token(key: str | None, token: str | None) -> str | None:
    """The idempotency key of a request, from its header or its parameter. Raises `Problem` 400 when they differ."""
    if key is not None and token not in (None, key):
        raise invalid("idempotency_token", "differs from the header Idempotency-Key", "conflicting_values")
    return key or token


@cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, FieldInfo]:
    """The fields by the names of the parameters. msgspec evaluates the annotations of all at each call."""
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


def _decode_objects(values: dict[str, Any], into: type[msgspec.Struct]) -> None:
    """Decodes JSON text of parameters that are objects. Other text is left for the check of its type."""
    for name, field in _fields(into).items():
        text = values.get(name)
        if isinstance(text, str) and text.lstrip().startswith("{") and validation.is_object(field.type):
            with suppress(ValueError, RecursionError):
                values[name] = msgspec.json.decode(text)


def _faults(values: dict[str, Any], repeated: list[str], into: type[msgspec.Struct]) -> list[Fault]:
    fields = _fields(into)
    faults = [Fault(name, "repeated_parameter", "is repeated") for name in dict.fromkeys(repeated)]
    faults += [
        Fault(name, "unknown_parameter", "is not a parameter of this route") for name in values if name not in fields
    ]
    for name, field in fields.items():
        if name not in values:
            if field.required:
                faults.append(Fault(name, "missing", "is required"))
        elif message := validation.parameter_error(values[name], field.type):
            faults.append(Fault(name, "invalid_value", message))
    return faults
