"""The parameter `repairs`: the new import has corrected records of that one, with its parameters and its line numbers."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import msgspec

from api.http.problems import Fault, Problem, invalid, invalid_request
from api.imports.parameters import ImportParameters
from api.imports.splitting import FileSplitter
from db.connections.pool import Pool, repeatable
from db.imports import actions
from db.imports.actions import ParentImport

# parameters that have to be those of the parent
INHERITED = ("resource", "mode", "columns", "unknown_fields", "csv_delimiter", "csv_safe")


async def repaired_import(pool: Pool, id: UUID) -> ParentImport:
    """The parent of a repair. Raises `Problem` 400, 409."""
    parent = await repeatable(pool, lambda conn: actions.parent(conn, id))
    if parent is None:
        raise unknown_parent()
    if not parent.is_final:
        raise Problem("not-final", f"The import is {parent.status}. Cancel it first, or wait until it is final.")
    if not parent.failed:
        raise Problem("nothing-to-repair", "No record of the import was refused.")
    return parent


def inherit(requested: ImportParameters, sent: Collection[str], parent: ParentImport) -> ImportParameters:
    """The parameters with those of the parent. `dry_run` is the parent's unless it was sent. Raises `Problem` 400.

    `sent` are the names of the parameters that the request has: these must not differ.
    """
    inherited: dict[str, Any] = {name: getattr(parent, name) for name in INHERITED}
    values = {name: getattr(requested, name) for name in INHERITED} | {"csv_delimiter": requested.delimiter}
    if faults := [
        Fault(name, "conflicting_values", f"must be {_text(value)}, as in the import that is repaired, or be absent")
        for name, value in inherited.items()
        if name in sent and values[name] != value
    ]:
        raise invalid_request(faults)
    if "dry_run" not in sent:
        inherited["dry_run"] = parent.dry_run
    return msgspec.structs.replace(requested, **inherited)


def unknown_parent() -> Problem:
    return invalid("repairs", "is not the id of an import")


def check_annotated(splitter: FileSplitter) -> None:
    """Raises `Problem` 400 unless each record of the file that was split has a line."""
    if splitter.columns is not None and "_line" not in splitter.columns:
        raise invalid(
            "_line", "is a required column of a repair: use the file of failed-records?annotate=true", "missing"
        )
    if lines := splitter.unannotated:
        raise invalid_request(
            [
                Fault("_line", "missing", f"is required: the record on line {line} of the file has none")
                for line in lines
            ]
        )


def not_refused(lines: Sequence[int]) -> Problem:
    message = "was not refused by the import that is repaired, or is in the file more often than it was"
    return invalid_request([Fault("_line", "invalid_value", f"{line} {message}") for line in lines])


def already_repaired(lines: Sequence[int]) -> Problem:
    return Problem(
        "already-repaired",
        f"Other imports have taken these records, or are importing them: lines {', '.join(map(str, lines))}.",
        lines=list(lines),
    )


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
