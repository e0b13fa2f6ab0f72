"""The endpoints of WEBHOOKS: where the ends of jobs are sent, and the secrets that sign what is sent."""

import base64
import re
from collections.abc import Iterable
from functools import cache
from itertools import product
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

# the types of events; the second word is the status with which a job ended
EVENTS = tuple(
    f"{kind}.{status}" for kind, status in product(("import", "export"), ("completed", "failed", "cancelled"))
)

ENDPOINTS_MAX = 100
# more than one only while a secret is replaced
SECRETS_MAX = 10
SECRET_PREFIX = "whsec_"  # noqa: S105  it marks a secret
# of a decoded secret, by the specification Standard Webhooks
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64

# printable ASCII
_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)


class InvalidEndpoints(ValueError):
    """WEBHOOKS is invalid. The message names the member, and quotes no value, which may be a secret."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of WEBHOOKS. `name` identifies it in tables, logs and metrics; it gets the events of the types `events`.

    With several `secrets` each request has several signatures, so that a secret can be replaced without a refused request.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
    url: str
    secrets: Annotated[tuple[str, ...], Meta(min_length=1, max_length=SECRETS_MAX)]
    events: Annotated[tuple[str, ...], Meta(min_length=1)] = EVENTS

    @property
    def keys(self) -> list[bytes]:
        """The decoded secrets."""
        return [_key(secret) for secret in self.secrets]

    def __repr__(self) -> str:
        """Without the URL and the secrets, so that no log has them: a URL may contain a token."""
        return f"Endpoint(name={self.name!r}, events={self.events!r})"


@cache
def decode(text: str) -> tuple[Endpoint, ...]:
    """The endpoints of WEBHOOKS, a JSON array of objects; none if it is empty. Raises `InvalidEndpoints`."""
    if not text:
        return ()
    try:
        endpoints = msgspec.json.decode(text, type=Annotated[tuple[Endpoint, ...], Meta(max_length=ENDPOINTS_MAX)])
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        if "unknown field" in reason:
            # which it quotes
            reason = f"has a member other than {', '.join(Endpoint.__struct_fields__)}"
        raise InvalidEndpoints(f"{path.rstrip('`')}: {reason}" if path else reason) from None
    except msgspec.DecodeError as error:
        raise InvalidEndpoints(str(error)) from None
    for number, endpoint in enumerate(endpoints):
        _check(f"[{number}]", endpoint)
    names = [endpoint.name for endpoint in endpoints]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InvalidEndpoints(f"[{number}].name: another endpoint has it too")
    return endpoints


def subscriptions(endpoints: Iterable[Endpoint]) -> list[tuple[str, str]]:
    """The pairs of an endpoint's name and a type of the events that it gets."""
    return [(endpoint.name, event) for endpoint in endpoints for event in dict.fromkeys(endpoint.events)]


def _check(path: str, endpoint: Endpoint) -> None:
    """What the types do not express."""
    if not _is_url(endpoint.url):
        raise InvalidEndpoints(f"{path}.url: is not an http:// or https:// URL")
    for number, secret in enumerate(endpoint.secrets):
        if not _is_secret(secret):
            raise InvalidEndpoints(
                f"{path}.secrets[{number}]: is not {SECRET_PREFIX} "
                f"and the base64 of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes"
            )
    for number, event in enumerate(endpoint.events):
        if event not in EVENTS:
            raise InvalidEndpoints(f"{path}.events[{number}]: is none of {', '.join(EVENTS)}")


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # reading the port checks it
        return parts.port != 0 and bool(parts.hostname) and _URL.fullmatch(url) is not None
    except ValueError:
        return False


def _is_secret(secret: str) -> bool:
    try:
        return secret.startswith(SECRET_PREFIX) and SECRET_BYTES_MIN <= len(_key(secret)) <= SECRET_BYTES_MAX
    except ValueError:
        return False


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
