"""Access control in front of all routes: the host name, the origin of browser requests, the API key.

A browser sends requests to loopback on behalf of any page that it shows, and a page can make its own host name resolve to
loopback (DNS rebinding). So without API keys only known host names are served, and requests of other origins never change
anything. Clients that are not browsers send no Origin and are not affected.
"""

import hmac
import re
import time
from ipaddress import ip_address
from typing import cast
from urllib.parse import urlsplit

import structlog
from litestar.datastructures import Headers
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from api.http import tickets
from api.http.problems import MEDIA_TYPE, Problem
from db.settings import ApiKey, Settings
from monitoring import metrics, throttle

log = structlog.get_logger(__name__)

# used by supervisors and load balancers, which have no key
_PUBLIC = frozenset({"/live", "/ready", "/health"})
# the pages and the command, which contain no data: they use the API with the user's key
_PAGES = re.compile(r"/|/docs(/.*)?|/ui(/.*)?|/bulk\.pyz", re.DOTALL)
# methods that change nothing (RFC 9110, 9.2.1)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


# a POST that stores nothing: it only creates a URL for reading
TICKETS = "/api/v1/tickets"


def api_key(scope: Scope) -> ApiKey | None:
    """The key of an allowed request, also when it came with a ticket; None without API_KEYS."""
    return scope["state"].get("api_key")


def key_name(scope: Scope) -> str | None:
    """The name of the request's key; None for a key without a name, and without API_KEYS."""
    key = api_key(scope)
    return None if key is None else key.name


def is_public(path: str, settings: Settings) -> bool:
    """Whether the path needs no key although keys are set."""
    return path in _PUBLIC or _PAGES.fullmatch(path) is not None or (path == "/metrics" and settings.metrics_public)


class AccessControl:
    """ASGI middleware: passes allowed requests on to `app`, answers others with 401, 403 or 421."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.keys = settings.keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._refusal(cast("HTTPScope", scope))) is not None:
            await _send(problem, scope, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: HTTPScope) -> Problem | None:
        headers = Headers.from_scope(scope)
        if self.settings.hosts_checked:
            for host in headers.getall("host", []):
                if not self._is_known(host):
                    return Problem(
                        "misdirected-request",
                        f"This service is not {host!r}: add the name to HOSTS, or set API_KEYS.",
                    )
        if scope["method"] not in _SAFE and self._is_cross_origin(headers):
            return Problem("cross-origin", "Pages of other origins may not send requests that change something.")
        if self.keys and not is_public(scope["path"], self.settings):
            return self._unauthorized(scope, headers)
        return None

    def _unauthorized(self, scope: HTTPScope, headers: Headers) -> Problem | None:
        """401 or 403; None if the key or the ticket of the request allows it."""
        sent = _key(headers)
        ticket = tickets.split(scope["query_string"])
        if ticket and not sent and scope["method"] == "GET":
            scope["query_string"], mac = ticket
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            key = self._of_ticket(mac, scope["raw_path"] + query)
            if key is None:
                return Problem("unauthorized", "The ticket is not valid, or has expired. Request a new one.")
        else:
            key = self._of(sent)
            if key is None:
                return Problem("unauthorized", "Send an API key as `Authorization: Bearer …` or as `X-API-Key`.")
        if key.role == "read" and scope["method"] not in _SAFE and scope["path"] != TICKETS:
            return Problem(
                "forbidden", "This API key has the role read: it may send only requests that change nothing."
            )
        scope["state"]["api_key"] = key
        return None

    def _is_known(self, host: str) -> bool:
        """Whether a Host header names this service: a loopback address, localhost, or a name of HOSTS; with any port."""
        name = _name(host)
        if name == "localhost" or name in self.settings.host_names:
            return True
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return False

    def _is_cross_origin(self, headers: Headers) -> bool:
        """Whether a browser sends the request for a page of another origin. Browsers always send one of these headers."""
        if site := headers.get("sec-fetch-site"):
            return site not in ("same-origin", "none")
        origin = headers.get("origin")
        if origin is None:
            return False
        host = urlsplit(origin).netloc if "://" in origin else ""
        return host.lower() != headers.get("host", "").lower() and _name(host) not in self.settings.host_names

    def _of(self, sent: bytes) -> ApiKey | None:
        # compares with every key, so that the duration does not depend on which key is similar
        equal = [key for key in self.keys if hmac.compare_digest(sent, key.key.encode())]
        if sent and not equal:
            metrics.wrong_api_keys.inc()
            throttle.warning(log, "wrong API key")
        return equal[0] if equal else None

    def _of_ticket(self, ticket: bytes, target: bytes) -> ApiKey | None:
        """The key that the ticket was made with."""
        now = time.time()
        valid = [key for key in self.keys if tickets.is_valid(ticket, target, key.key, now=now)]
        return valid[0] if valid else None


async def _send(problem: Problem, scope: Scope, send: Send) -> None:
    body = problem.body(scope)
    headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
    raw = [(name.lower().encode(), value.encode()) for name, value in (headers | problem.headers).items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _name(host: str) -> str:
    """The name or address of a Host header, without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def _key(headers: Headers) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    sent = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    # the server decodes headers as latin-1; keys are compared as the bytes that were sent
    return sent.encode("latin-1")
