"""XLSX files for tests: by hand, part by part, for what no library writes; and the rows that the service reads from a file."""

import io
import zipfile
from typing import Any
from xml.sax.saxutils import quoteattr

import openpyxl

from api.imports.sheets.__main__ import frames

MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
OPTIONS: dict[str, Any] = {
    "sheet": None,
    "times": [],
    "delimiter": ",",
    "record_max_bytes": 1 << 20,
    "unpacked_max_bytes": 1 << 30,
    "unpack_ratio_max": 250,
}

_MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'


def package(
    rows: str,
    *,
    shared: str | None = None,
    styles: str | None = None,
    properties: str = "",
    names: tuple[str, ...] = ("Sheet1",),
    **parts: str | bytes,
) -> bytes:
    """A file with the XML `rows` in each of its sheets. `parts` replace others: their names without folder and extension."""
    ids = range(1, len(names) + 1)
    sheets = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{id}" r:id="rId{id}"/>' for id, name in zip(ids, names, strict=True)
    )
    relations = "".join(
        f'<Relationship Id="rId{id}" Type="{_OFFICE}/worksheet" Target="worksheets/sheet{id}.xml"/>' for id in ids
    )
    for kind, content in (("sharedStrings", shared), ("styles", styles)):
        if content is not None:
            relations += f'<Relationship Id="{kind}" Type="{_OFFICE}/{kind}" Target="/xl/{kind}.xml"/>'
    written: dict[str, str | bytes] = {
        "_rels/.rels": f'<Relationships {_PACKAGE}><Relationship Id="r" Type="{_OFFICE}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {_MAIN} xmlns:r="{_OFFICE}">{properties}<sheets>{sheets}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f"<Relationships {_PACKAGE}>{relations}</Relationships>",
        **{
            f"xl/worksheets/sheet{id}.xml": f"<worksheet {_MAIN}><sheetData>{rows}</sheetData></worksheet>"
            for id in ids
        },
    }
    if shared is not None:
        written["xl/sharedStrings.xml"] = f"<sst {_MAIN}>{shared}</sst>"
    if styles is not None:
        written["xl/styles.xml"] = f"<styleSheet {_MAIN}>{styles}</styleSheet>"
    for path in [*written]:
        written[path] = parts.get(path.rpartition("/")[2].rpartition(".")[0], written[path])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in written.items():
            archive.writestr(path, content)
    return file.getvalue()


def replaced(file: bytes, part: str, content: str) -> bytes:
    """The file with another content of one part."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name == part else old.read(name))
    return target.getvalue()


def written(*rows: tuple[Any, ...], title: str = "Sheet1") -> bytes:
    """A file by openpyxl with these rows in its one sheet."""
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.title = title
    for row in rows:
        sheet.append(row)
    return saved(book)


def saved(book: openpyxl.Workbook) -> bytes:
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def read(file: bytes, **options: Any) -> list[tuple[int, str]]:
    """The number of each row and its CSV, the header first."""
    found = []
    for frame in frames(io.BytesIO(file), OPTIONS | options):
        head, _, row = frame.partition(b"\n")
        number, size = map(int, head.split())
        assert (len(row), row[-1:]) == (size, b"\n")
        found.append((number, row[:-1].decode()))
    return found


def cell(xml: str, **parts: Any) -> str:
    """The CSV of a cell that is given as XML, from a file with the column `x`."""
    header = '<row r="1"><c r="A1" t="inlineStr"><is><t>x</t></is></c></row>'
    rows = read(package(f'{header}<row r="2">{xml}</row>', **parts))
    return rows[1][1] if len(rows) > 1 else ""
