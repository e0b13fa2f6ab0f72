"""What a client may ask of an import, and the idempotency key of any request that makes a job."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from api.http.parameters import IdempotencyToken
from db.formats import Format
from db.imports.jobs import Mode
from db.resources import ResourceName


class ImportParameters(msgspec.Struct, kw_only=True):
    """What a client may ask of an import: in the query, as parts of the form, or as members of the JSON object."""

    resource: Annotated[ResourceName | None, Meta(description="What the records are. Required.")] = None
    mode: Annotated[
        Mode,
        Meta(
            description="What becomes of a record that matches a stored row, by id or else by its natural key: insert refuses "
            "it, skip passes it by, upsert updates the row, update does so too and refuses records without a match."
        ),
    ] = "insert"
    format: Annotated[
        Format | None, Meta(description="Without it the content type tells, else the file's name, else its first byte.")
    ] = None
    on_error: Annotated[
        Literal["continue", "stop"],
        Meta(description="stop: no further chunk of records is begun after the first refused record."),
    ] = "continue"
    max_errors: Annotated[
        Annotated[int, Meta(ge=0, le=2**63 - 1)] | None,
        Meta(description="The import fails when more records than that are refused."),
    ] = None
    max_error_rate: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(
            description="The import fails when a greater share of its records is refused, from 1,000 records on or at the end."
        ),
    ] = None
    dry_run: Annotated[bool, Meta(description="The real run without the rows: same checks, counters and errors.")] = (
        False
    )
    after: Annotated[
        UUID | None,
        Meta(description="Waits until that import is completed; if it fails or is cancelled, so does this one."),
    ] = None
    unknown_fields: Annotated[
        Literal["error", "ignore"], Meta(description="What becomes of columns or keys that the resource does not have.")
    ] = "error"
    csv_delimiter: Annotated[
        Literal[",", ";", "\t", "|", "tab"], Meta(description="`tab` is another way to write the tabulator.")
    ] = ","
    csv_safe: Annotated[
        bool,
        Meta(
            description="For a CSV that was exported with csv_safe=true: an apostrophe that begins a cell is taken away."
        ),
    ] = False
    idempotency_token: Annotated[
        IdempotencyToken | None, Meta(description="The same as the header Idempotency-Key.")
    ] = None

    @property
    def delimiter(self) -> str:
        return "\t" if self.csv_delimiter == "tab" else self.csv_delimiter
