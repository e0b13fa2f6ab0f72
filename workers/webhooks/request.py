"""One request to an endpoint: its signatures, the request itself, and what its reply means."""

import asyncio
import base64
import hmac
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx
import msgspec

from db.webhooks.deliveries import Delivery
from db.webhooks.endpoints import Endpoint
from monitoring.outage import first_line

# A response is read up to here, so that the receiver sees no broken connection; its content has no meaning.
RESPONSE_BYTES_MAX = 64 * 1024
ERROR_CHARACTERS_MAX = 300
GONE = 410


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an attempt. `error` is None if it was successful; `status` is None if there was no response."""

    status: int | None = None
    error: str | None = None
    # of the header Retry-After
    retry_after_seconds: int = 0


def client() -> httpx.AsyncClient:
    """A client that verifies certificates, follows no redirect and keeps neither cookies nor connections.

    Its own limits are off: the deliverer limits the number of requests, `send` their duration. It uses the variables
    HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE.
    """
    return httpx.AsyncClient(
        timeout=None,  # noqa: S113
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        headers={"User-Agent": "bulk-webhooks", "Connection": "close", "Content-Type": "application/json"},
    )


async def send(
    client: httpx.AsyncClient, endpoint: Endpoint, delivery: Delivery, body: bytes, *, timeout_seconds: float
) -> Reply:
    """Sends one attempt. Whatever happens, the result is a `Reply`."""
    reply: Reply | None = None
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            client.stream("POST", endpoint.url, content=body, headers=headers(endpoint, delivery, body)) as response,
        ):
            reply = _reply(response)
            await _read(response)
    except TimeoutError:
        return reply or Reply(error=f"no response within {timeout_seconds:g} s")
    except Exception as error:  # also of TLS, and of a response that is not HTTP
        return reply or Reply(error=first_line(error)[:ERROR_CHARACTERS_MAX])
    return reply


def headers(endpoint: Endpoint, delivery: Delivery, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks. With several secrets there are several signatures, separated by spaces."""
    timestamp = str(int(delivery.attempted_at.timestamp()))
    content = b".".join([str(delivery.id).encode(), timestamp.encode(), body])
    signatures = (base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in endpoint.keys)
    return {
        "webhook-id": str(delivery.id),
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _reply(response: httpx.Response) -> Reply:
    if response.is_success:
        return Reply(status=response.status_code)
    error = f"HTTP {response.status_code}"
    if response.has_redirect_location:
        error += ", and redirects are not followed"
    retry_after = response.headers.get("Retry-After", "")
    is_number = retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10
    return Reply(status=response.status_code, error=error, retry_after_seconds=int(retry_after) if is_number else 0)


async def _read(response: httpx.Response) -> None:
    size = 0
    async for block in response.aiter_raw():
        size += len(block)
        if size > RESPONSE_BYTES_MAX:
            return
