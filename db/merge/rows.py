"""The rows of a chunk's records as a COPY stores them, and their order."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from db.resources.definition import Parsed, Resource


def columns(resource: Resource) -> tuple[list[str], list[str]]:
    """The names and the types of the columns of `complete`."""
    names = [*resource.columns, "import_id", "import_record", "import_action"]
    return names, [*resource.column_types, "uuid", "int8", "text"]


def complete(resource: Resource, import_id: UUID, parsed: Parsed, indexes: Iterable[int]) -> Iterator[Sequence[Any]]:
    """The rows of the records with what the service fills in: a missing id, missing times, and the source of the row."""
    now = datetime.now(UTC)
    stamped = [resource.columns.index(column) for column in resource.stamped]
    for i in indexes:
        row = [*msgspec.structs.astuple(parsed.records[i]), import_id, parsed.numbers[i], "created"]
        if row[0] is None:
            row[0] = resource.new_id()
        for column in stamped:
            if row[column] is None:
                row[column] = now
        yield row


def ordering(parsed: Parsed, keys: Sequence[str]) -> Sequence[str]:
    """What to sort the records by: their unique keys, else their ids. The same order everywhere makes deadlocks rare."""
    return keys or [str(record.id or "") for record in parsed.records]


def in_key_order(parsed: Parsed, keys: Sequence[str]) -> Sequence[int]:
    """The indexes of the records in that order."""
    by = ordering(parsed, keys)
    return sorted(range(len(by)), key=by.__getitem__)
