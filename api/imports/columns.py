"""The parameter `columns`: the field of each column or key that has another name in the file, null to ignore it."""

from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from api.http.problems import Fault, Problem, invalid, invalid_request
from api.imports.splitting import COLUMNS_MAX
from db.formats import ANNOTATIONS
from db.resources.definition import Resource

COLUMNS_MAX_BYTES = 64 * 1024


def check_fields(fields: Mapping[str, str | None], resource: Resource) -> None:
    """Raises `Problem` 400 that names each entry that is wrong, whatever the file has."""
    if len(fields) > COLUMNS_MAX:
        raise invalid("columns", f"has more than {COLUMNS_MAX} names", "too_long")
    if len(msgspec.json.encode(fields)) > COLUMNS_MAX_BYTES:
        raise invalid("columns", f"has more than {COLUMNS_MAX_BYTES} bytes as JSON", "too_long")
    faults: list[Fault] = []
    names: dict[str, str] = {}
    for name, field in fields.items():
        if "\0" in name:
            # PostgreSQL cannot store it
            faults.append(Fault("columns", "invalid_value", "has a name with the character U+0000"))
        elif name in ANNOTATIONS:
            faults.append(
                Fault("columns", "invalid_value", f"has {_quoted(name)}, an annotation, which is always ignored")
            )
        elif field is None:
            continue
        elif field not in resource.columns:
            message = f"maps {_quoted(name)} to {_quoted(field)}, which is not a field of {resource.name}"
            faults.append(Fault("columns", "invalid_value", message))
        elif field in names:
            message = f"maps {_quoted(names[field])} and {_quoted(name)} to the same field {field}"
            faults.append(Fault("columns", "conflicting_values", message))
        else:
            names[field] = name
    if faults:
        raise invalid_request(faults)


def map_header(header: Sequence[str], fields: Mapping[str, str | None]) -> list[str | None]:
    """The field of each column of a CSV header, None for one to ignore. A column without an entry in `fields` has its own name.

    Raises `Problem` 400 for a name that the header lacks, and for two columns that would be the same field.
    """
    present = frozenset(header)
    absent = (
        Fault("columns", "invalid_value", f"has {_quoted(name)}, which is not a column of the file")
        for name in fields
        if name not in present
    )
    own = present.difference(fields)
    twice = (
        Fault(
            "columns",
            "conflicting_values",
            f"maps {_quoted(name)} to {field}, but the file has a column {field} as well",
        )
        for name, field in fields.items()
        if field in own
    )
    if faults := [*chain(absent, twice)]:
        raise invalid_request(faults)
    return [fields.get(name, name) for name in header]


def _quoted(name: str) -> str:
    return repr(name[:100])


def check_columns(columns: Sequence[str | None], resource: Resource, *, ignores_unknown: bool) -> None:
    """Raises `Problem` 400 that names each unknown or missing column, which would otherwise be an error of every record."""
    faults = [
        Fault(column, "missing_required", f"is a required column of {resource.name}")
        for column in resource.columns
        if column in resource.required and column not in columns
    ]
    if not ignores_unknown:
        faults += [
            Fault(column, "unknown_field", f"is not a column of {resource.name}")
            for column in columns
            if column not in (None, *resource.columns, *ANNOTATIONS)
        ]
    if faults:
        detail = "; ".join(f"{fault.field} {fault.message}" for fault in faults)
        raise Problem("invalid-request", f"The first line is not a header of {resource.name}: {detail}", errors=faults)
