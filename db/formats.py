"""The formats, compressions and media types of imports and exports, their names in files and headers, and the grammar of CSV."""

import re
from typing import Literal

# of records; an import's chunks have one of these
Format = Literal["csv", "ndjson", "json"]
# of the files that an import reads; the records of an XLSX file become CSV
ImportFormat = Literal["csv", "ndjson", "json", "xlsx"]
ExportFormat = Literal["csv", "ndjson", "json", "xlsx", "parquet", "arrow"]
Compression = Literal["none", "gzip", "zstd"]

# the media types of responses and stored files
XLSX_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
MEDIA_TYPES: dict[ExportFormat, str] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "xlsx": XLSX_MEDIA_TYPE,
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}
# formats that are compressed already
PACKED_FORMATS = ("xlsx", "parquet")
COMPRESSED_MEDIA_TYPES: dict[Compression, str] = {"gzip": "application/gzip", "zstd": "application/zstd"}
# the extension of a file, where it is not the name of the format
FORMAT_EXTENSIONS: dict[ExportFormat, str] = {"arrow": "arrows"}
EXTENSIONS: dict[Compression, str] = {"none": "", "gzip": ".gz", "zstd": ".zst"}

# the media types and file extensions that are recognised in requests
FORMAT_BY_MEDIA_TYPE: dict[str, Format] = {
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
    "application/csv": "csv",
    "application/json": "json",
}
IMPORT_FORMAT_BY_MEDIA_TYPE: dict[str, ImportFormat] = {**FORMAT_BY_MEDIA_TYPE, XLSX_MEDIA_TYPE: "xlsx"}
EXPORT_FORMAT_BY_MEDIA_TYPE: dict[str, ExportFormat] = {
    **FORMAT_BY_MEDIA_TYPE,
    **{MEDIA_TYPES[format]: format for format in ("xlsx", "parquet", "arrow")},
}
IMPORT_FORMAT_BY_EXTENSION: dict[str, ImportFormat] = {
    "csv": "csv",
    "ndjson": "ndjson",
    "jsonl": "ndjson",
    "json": "json",
    "xlsx": "xlsx",
    "xlsm": "xlsx",
}
COMPRESSION_BY_MEDIA_TYPE: dict[str, Compression] = {
    "application/gzip": "gzip",
    "application/x-gzip": "gzip",
    "application/zstd": "zstd",
}
COMPRESSION_BY_EXTENSION: dict[str, Compression] = {"gz": "gzip", "zst": "zstd"}
# the values of Content-Encoding and Accept-Encoding; of several with the same quality the first is used
COMPRESSION_BY_ENCODING: dict[str, Compression] = {"zstd": "zstd", "gzip": "gzip", "x-gzip": "gzip", "identity": "none"}

# A spreadsheet reads a cell that begins with one of these as a formula (OWASP, "CSV Injection"), full-width forms and some white
# space included. With csv_safe such a cell gets an apostrophe in front of it.
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

# Begins a cell of a CSV that was a cell with an error in a spreadsheet, like #N/A. Every field refuses U+0000; see
# api.imports.sheets.
SHEET_ERROR = "\0#"

# columns and members that annotate a refused record; an import ignores them
ANNOTATIONS = ("_line", "_errors")


def csv_cell(delimiter: str) -> str:
    """The regular expression of a CSV cell (RFC 4180), quoted or not.

    Its quantifiers are possessive: a long invalid line costs one pass, not one for each of its quotes.
    """
    return rf'(?:"[^"]*+(?:""[^"]*+)*+"|[^"\n{re.escape(delimiter)}]*+)'
