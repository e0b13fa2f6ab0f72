"""The words by which a client selects what is exported, for streams and for files: read, or refused by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from api.http.problems import Fault, Problem
from db.exports import filters as selection
from db.imports.payload import Format
from db.resources.definition import Resource
from db.exports.filters import Selection, Unselectable


def select(
    resource: Resource,
    *,
    filters: Mapping[str, Any],
    fields: Sequence[str] | None,
    after: str | None = None,
    limit: int | None = None,
    filter_prefix: str = "",
) -> Selection:
    """What is asked for. Raises `Problem` 400 naming all that is wrong, filters as `filter_prefix` and their name."""
    try:
        return selection.select(resource, filters=filters, fields=fields, after=after, limit=limit)
    except Unselectable as error:
        known = selection.filters(resource)
        faults = [
            Fault(
                filter_prefix + refusal.name if refusal.name in filters else refusal.name,
                "invalid_value" if refusal.name not in filters or refusal.name in known else "unknown_parameter",
                refusal.message,
            )
            for refusal in error.refusals
        ]
        raise _invalid(faults) from None


def check_csv_safe(format: Format, *, csv_safe: bool) -> None:
    """Raises `Problem` 400 when it is asked for where there are no cells."""
    if csv_safe and format != "csv":
        raise _invalid([Fault("csv_safe", "conflicting_values", f"is for csv alone; the format is {format}")])


def _invalid(faults: list[Fault]) -> Problem:
    detail = "; ".join(f"{fault.field} {fault.message}" for fault in faults)
    return Problem("invalid-request", detail, errors=faults)
