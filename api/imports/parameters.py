"""The parameters of an import."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from api.http.parameters import STORABLE, IdempotencyToken
from db.formats import ImportFormat
from db.imports.jobs import Mode
from db.resources import ResourceName


class ImportParameters(msgspec.Struct, kw_only=True):
    """Sent in the query, as parts of a form, or as members of the JSON object."""

    resource: Annotated[ResourceName | None, Meta(description="Required.")] = None
    source: Annotated[
        Annotated[str, Meta(max_length=1100, pattern="^s3://")] | None,
        Meta(
            description="The file is this object, `s3://bucket/key`, below a prefix of IMPORT_SOURCES. The request has no file "
            "then. The response is sent when the object was read."
        ),
    ] = None
    source_sha256: Annotated[
        Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")] | None,
        Meta(description="With source: the SHA-256 of the object's bytes, hexadecimal; checked."),
    ] = None
    mode: Annotated[
        Mode,
        Meta(
            description="For a record that matches a stored row, by its id or else by its natural key: insert refuses it, "
            "skip skips it, upsert and update change the row. A record without a match is created; update refuses it."
        ),
    ] = "insert"
    format: Annotated[
        ImportFormat | None,
        Meta(description="Default: given by the content type, else by the file name, else by the first byte."),
    ] = None
    on_error: Annotated[
        Literal["continue", "stop"],
        Meta(description="stop: start no further chunk of records after the first refused record."),
    ] = "continue"
    max_errors: Annotated[
        Annotated[int, Meta(ge=0, le=2**63 - 1)] | None,
        Meta(description="The import fails when more records than this are refused."),
    ] = None
    max_error_rate: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(
            description="The import fails when a greater share of the processed records is refused; checked from 1,000 records "
            "on and at the end."
        ),
    ] = None
    dry_run: Annotated[bool, Meta(description="Check and count everything, but store no records.")] = False
    undoable: Annotated[
        bool,
        Meta(
            description="Remember the rows that the import creates, so that POST …/undo can remove them again. Not for dry runs."
        ),
    ] = False
    after: Annotated[
        UUID | None,
        Meta(description="Wait until that import is completed; if it fails or is cancelled, this one fails."),
    ] = None
    repairs: Annotated[
        UUID | None,
        Meta(
            description="The id of a final import. The file has corrected records of it, with the annotation `_line` of its "
            "failed-records. The parameters resource, mode, columns, unknown_fields, csv_delimiter, csv_safe and dry_run are "
            "those of that import. Errors have its line numbers."
        ),
    ] = None
    unknown_fields: Annotated[
        Literal["error", "ignore"],
        Meta(description="Whether columns or keys that the resource does not have are an error."),
    ] = "error"
    columns: Annotated[
        Annotated[dict[str, str | None], Meta(title="JSON object with a field or null for each name")] | None,
        Meta(
            description="The field of each column or key that has another name in the file, null to ignore it: "
            '`{"E-mail": "email", "Notes": null}`. In a query and in a form it is JSON text.'
        ),
    ] = None
    csv_delimiter: Annotated[Literal[",", ";", "\t", "|", "tab"], Meta(description="`tab` is the tab character.")] = ","
    csv_safe: Annotated[
        bool,
        Meta(
            description="For a CSV that was exported with csv_safe=true: remove an apostrophe at the start of a cell."
        ),
    ] = False
    sheet: Annotated[
        Annotated[str, Meta(min_length=1, max_length=255, pattern=STORABLE)] | None,
        Meta(description="XLSX: the name of the sheet. Default: the first one that is not hidden."),
    ] = None
    idempotency_token: Annotated[
        IdempotencyToken | None, Meta(description="The same as the header Idempotency-Key.")
    ] = None

    def __post_init__(self) -> None:
        if self.source_sha256 is not None and self.source is None:
            raise ValueError("source_sha256 needs source")

    @property
    def delimiter(self) -> str:
        return "\t" if self.csv_delimiter == "tab" else self.csv_delimiter
