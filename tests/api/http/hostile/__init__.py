"""Everything bad that is tried on a live service, as data: by kind, what is sent, and what must be answered."""

from tests.api.http.hostile import access, bodies, heads, packed, parameters
from tests.api.http.hostile.case import KEY, Case

__all__ = ["CASES", "KEY", "Case"]

CASES: dict[str, list[Case]] = {
    "access": access.CASES,
    "heads": heads.HEADS,
    "framing": heads.FRAMING,
    "addresses": parameters.ADDRESSES,
    "parameters": parameters.PARAMETERS,
    "orders": parameters.ORDERS,
    "forms": bodies.FORMS,
    "JSON": bodies.JSON,
    "CSV": bodies.CSV,
    "packed files": packed.CASES,
}
