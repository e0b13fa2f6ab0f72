"""Who may ask: holders of one of the API keys."""

import hmac

from litestar.datastructures import Headers
from litestar.types import ASGIApp, Receive, Scope, Send

from api.http.problems import MEDIA_TYPE, Problem
from db.settings import Settings

# what supervisors and balancers ask, who have no key
_PUBLIC = frozenset({"/live", "/ready", "/health"})


def is_public(path: str, settings: Settings) -> bool:
    """Whether everybody may ask, with keys set too."""
    return path in _PUBLIC or (path == "/metrics" and settings.metrics_public)


class Authorized:
    """The application `app` for those who send a key; for everybody when no key is set."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.keys = [key.encode() for key in settings.keys]
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or not self.keys
            or is_public(scope["path"], self.settings)
            or self._known(_key(scope))
        ):
            await self.app(scope, receive, send)
            return
        problem = Problem("unauthorized", "Send an API key as `Authorization: Bearer …` or as `X-API-Key`.")
        body = problem.body(scope)
        headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), **problem.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _known(self, given: bytes) -> bool:
        # all of them, always: the time taken must not tell which key was nearly right
        return any([hmac.compare_digest(given, key) for key in self.keys])  # noqa: C419  # a generator would stop early


def _key(scope: Scope) -> bytes:
    headers = Headers.from_scope(scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    # headers arrive as latin-1, keys are compared as the bytes that were sent
    return given.encode("latin-1")
