"""The parameters of an import request, as they arrive, and the import that follows from them and the file."""

from typing import Any

from api.http import parameters, tracing
from api.http.auth import key_name
from api.http.headers import AnyRequest, idempotency_key
from api.http.problems import invalid, request_id
from api.imports import repair, request_digest
from api.imports.body import Parameter
from api.imports.columns import check_columns, check_fields, map_header
from api.imports.parameters import ImportParameters
from api.imports.sheets.conversion import SheetConversion
from api.imports.source import ObjectReader, excludes_file
from api.imports.splitting import FileSplitter
from db.connections.pool import Pool
from db.imports.actions import ParentImport
from db.imports.uploads import ImportSpec
from db.resources import RESOURCES


class RequestedImport:
    """What a request asks for, so far."""

    def __init__(self, request: AnyRequest) -> None:
        self._request_id = request_id(request.scope)
        self._traceparent = tracing.span(request.scope).traceparent
        self._created_by = key_name(request.scope)
        self._given: list[tuple[str, Any]] = list(request.query_params.multi_items())
        self._key = idempotency_key(request)
        # the result of `so_far`, until there are further parameters
        self._parsed: ImportParameters | None = None
        # the import that this one repairs
        self.parent: ParentImport | None = None

    @property
    def token(self) -> str | None:
        """The idempotency key: of the header, or of the parameters received so far."""
        token = next((value for name, value in self._given if name == "idempotency_token"), None)
        return parameters.check_token(self._key, token)

    def add(self, parameter: Parameter) -> None:
        self._given.append(parameter)
        self._parsed = None

    def has(self, name: str) -> bool:
        return any(given == name for given, _ in self._given)

    async def begin(self, pool: Pool) -> ImportParameters:
        """To be called before the file is read: the parameters that precede it. Finds the import that this one repairs.

        Raises `Problem` 400, 409.
        """
        repaired = self.so_far().repairs
        if repaired is not None:
            self.parent = await repair.repaired_import(pool, repaired)
            self._parsed = None
        return self.so_far()

    def so_far(self) -> ImportParameters:
        """The parameters that were received, with those that a repair has from its parent. Raises `Problem` 400."""
        if self._parsed is None:
            self._parsed = self._parse()
        return self._parsed

    def _parse(self) -> ImportParameters:
        requested = parameters.parse(self._given, ImportParameters)
        if self.parent is not None:
            requested = repair.inherit(requested, {name for name, _ in self._given}, self.parent)
        if requested.undoable and requested.dry_run:
            raise invalid(
                "undoable", "excludes dry_run: a dry run stores no records; send it to its commit", "conflicting_values"
            )
        return requested

    def specify(
        self,
        early: ImportParameters,
        splitter: FileSplitter,
        chunk_count: int,
        *,
        file_name: str | None,
        sheet: SheetConversion | None,
        source: ObjectReader | None,
    ) -> ImportSpec:
        """The import as it was received. Raises `Problem` 400."""
        final = self.so_far()
        if final.resource is None:
            raise invalid("resource", f"is required: {', '.join(RESOURCES)}", "missing")
        if final.source != early.source:
            raise excludes_file()
        for name in ("repairs", "format", "csv_delimiter"):
            if getattr(final, name) != getattr(early, name):
                raise invalid(name, "must precede the file in the form", "too_late")
        if final.sheet is not None and sheet is None:
            raise invalid("sheet", "requires an XLSX file", "conflicting_values")
        file = sheet or splitter
        resource, fields = RESOURCES[final.resource], final.columns or {}
        check_fields(fields, resource)
        csv_columns = None if splitter.columns is None else map_header(splitter.columns, fields)
        if csv_columns is not None:
            check_columns(csv_columns, resource, ignores_unknown=final.unknown_fields == "ignore")
        if self.parent is not None:
            repair.check_annotated(splitter)
        settings: dict[str, Any] = {
            "resource": final.resource,
            "mode": final.mode,
            "on_error": final.on_error,
            "max_errors": final.max_errors,
            "max_error_rate": final.max_error_rate,
            "dry_run": final.dry_run,
            "after_id": final.after,
            "unknown_fields": final.unknown_fields,
            "format": splitter.format or "csv",
            "csv_delimiter": final.delimiter,
            "csv_safe": final.csv_safe,
        }
        # without these parameters the digest is that of earlier versions, whose requests may be repeated
        digested = settings | ({"columns": fields} if fields else {}) | ({"undoable": True} if final.undoable else {})
        if final.repairs is not None:
            digested["repairs"] = final.repairs
        if sheet is not None:
            digested |= {"format": "xlsx", "sheet": final.sheet}
        return ImportSpec(
            **settings,
            parent_id=final.repairs,
            relation=None if final.repairs is None else "repair",
            csv_header=splitter.header,
            csv_columns=csv_columns,
            columns=fields or None,
            undoable=final.undoable,
            file_name=file_name,
            file_bytes=file.bytes,
            file_sha256=file.sha256,
            total_records=splitter.record_count,
            total_chunks=chunk_count,
            idempotency_token=self.token,
            source=source and source.read(),
            digest=request_digest.of_file(digested, file.sha256)
            if final.source is None
            else request_digest.of_source(final),
            request_id=self._request_id,
            traceparent=self._traceparent,
            created_by=self._created_by,
        )
