"""Tickets: signed URLs with which a browser can download without a key for a short time.

A ticket is a MAC over the method GET, the path with its query, and the expiry time. Its key is derived from the API key of the
request that created it. Nothing is stored. A ticket is the last parameter of the query, and is removed before the query is
passed to handlers or logged.
"""

import hmac

_PARAMETER = b"ticket="


def add(target: bytes, api_key: str, *, expires: int) -> bytes:
    """The target (path and query) with a ticket that is valid until the Unix time `expires`."""
    separator = b"&" if b"?" in target else b"?"
    return target + separator + _PARAMETER + b"%d." % expires + _mac(target, api_key, expires)


def split(query: bytes) -> tuple[bytes, bytes] | None:
    """The query without its ticket, and the ticket. None if the last parameter is no ticket."""
    before, separator, last = query.rpartition(b"&")
    if not last.startswith(_PARAMETER):
        return None
    return before if separator else b"", last.removeprefix(_PARAMETER)


def is_valid(ticket: bytes, target: bytes, api_key: str, *, now: float) -> bool:
    """Whether the ticket was created for this target with this key, and has not expired."""
    expires, _, mac = ticket.partition(b".")
    if not expires.isdigit() or len(expires) > 12 or int(expires) <= now:
        return False
    return hmac.compare_digest(mac, _mac(target, api_key, int(expires)))


def _mac(target: bytes, api_key: str, expires: int) -> bytes:
    key = hmac.digest(api_key.encode(), b"bulk download ticket", "sha256")
    return hmac.digest(key, b"GET\n%s\n%d" % (target, expires), "sha256").hex().encode()
