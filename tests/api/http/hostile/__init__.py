"""Everything bad that is tried on a live service, as data: by kind, what is sent, and what must be answered."""

from tests.api.http.hostile import access, bodies, compressed, heads, parameters
from tests.api.http.hostile.case import KEY, Case

__all__ = ["CASES", "KEY", "Case"]

CASES: dict[str, list[Case]] = {
    "access": access.CASES,
    "heads": heads.HEADS,
    "framing": heads.FRAMING,
    "addresses": parameters.ADDRESSES,
    "parameters": parameters.PARAMETERS,
    "export requests": parameters.EXPORT_REQUESTS,
    "forms": bodies.FORMS,
    "JSON": bodies.JSON,
    "CSV": bodies.CSV,
    "compressed files": compressed.CASES,
}
