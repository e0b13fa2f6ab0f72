"""The digest of an import request, by which a repeated request with the same idempotency key is recognised."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from api.imports.parameters import ImportParameters


def of_source(requested: ImportParameters) -> bytes:
    """Identifies a repeated request without reading the object, which may have been replaced or removed meanwhile.

    Defaults are left out, so that the digest does not change when a later version has more parameters.
    """
    defaults = msgspec.to_builtins(ImportParameters())
    sent = {name: value for name, value in msgspec.to_builtins(requested).items() if value != defaults[name]}
    return of_file({**sent, "idempotency_token": None}, b"")


def of_file(settings: Mapping[str, Any], sha256: bytes) -> bytes:
    """The digest of an import's parameters and bytes, which identifies a repeated request."""
    return hashlib.sha256(msgspec.json.encode(settings, order="sorted") + sha256).digest()
