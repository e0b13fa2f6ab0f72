"""Names that imports and exports share: the formats, the compressions and their media types, and special cells of CSV."""

from typing import Literal

Format = Literal["csv", "ndjson", "json"]
Compression = Literal["none", "gzip", "zstd"]

MEDIA_TYPES: dict[Format, str] = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
}
COMPRESSED_MEDIA_TYPES: dict[Compression, str] = {"gzip": "application/gzip", "zstd": "application/zstd"}

# A spreadsheet reads a cell that begins with one of these as a formula (OWASP, "CSV Injection"), full-width forms and some white
# space included. With csv_safe such a cell gets an apostrophe in front of it.
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

# columns and members that annotate a refused record; an import ignores them
ANNOTATIONS = ("_line", "_errors")
