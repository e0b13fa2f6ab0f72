"""The package of an XLSX file: its parts, sheets, number formats and shared texts (ECMA-376, parts 1 and 2)."""

import lzma
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, NamedTuple

from api.imports.sheets import cells
from api.imports.sheets.errors import Refused
from api.imports.sheets.xml import Reader, local

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# up to this size a file may unpack to any multiple of its size
RATIO_FREE_BYTES = 16 * 1024 * 1024
# sheets that a message lists
_NAMES_MAX = 20

# what zipfile raises for damaged archives
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
)


class Sheet(NamedTuple):
    """A sheet with cells. `part` is its name in the package."""

    name: str
    part: str
    is_hidden: bool


class Workbook:
    """An open XLSX file. All methods raise `Refused`."""

    def __init__(self, file: IO[bytes], *, unpacked_max_bytes: int, ratio_max: int) -> None:
        self._archive = _archive(file)
        self._names = {name.replace("\\", "/").casefold(): name for name in self._archive.namelist()}
        self._check_size(file, unpacked_max_bytes, ratio_max)
        self._part = self._main_part()
        self.from_1904 = False
        self._relations = self._read_relations(self._part)
        self.sheets = self._read_sheets()

    def sheet(self, name: str | None) -> Sheet:
        """The sheet of that name; without one the first that is not hidden."""
        if not self.sheets:
            raise Refused("it has no sheet with cells")
        if name is None:
            return next((sheet for sheet in self.sheets if not sheet.is_hidden), self.sheets[0])
        for sheet in self.sheets:
            if sheet.name == name:
                return sheet
        names = ", ".join(repr(sheet.name[:100]) for sheet in self.sheets[:_NAMES_MAX])
        more = f" and {len(self.sheets) - _NAMES_MAX} more" if len(self.sheets) > _NAMES_MAX else ""
        raise Refused(f"is not a sheet of the file, which has {names}{more}", "sheet")

    @contextmanager
    def open(self, part: str) -> Iterator["_Part"]:
        """A part of the package."""
        name = self._names.get(part.casefold())
        if name is None:
            raise Refused(f"its part {part[:200]} is missing")
        try:
            file = self._archive.open(name)
        except _DAMAGED as error:
            raise _damaged(part, error) from None
        with file:
            yield _Part(part, file)

    def date_styles(self) -> list[bool]:
        """For each cell style, whether it shows a date or a time of day."""
        part = self._related("styles")
        if part is None:
            return []
        codes: dict[int, str] = {}
        ids: list[int] = []
        parents: list[str] = []

        def start(name: str, attributes: Mapping[str, str]) -> None:
            parent = parents[-1] if parents else ""
            if name == "numFmt" and parent == "numFmts":
                codes[_integer(attributes, "numFmtId")] = attributes.get("formatCode", "")
            elif name == "xf" and parent == "cellXfs":
                ids.append(_integer(attributes, "numFmtId"))
            parents.append(name)

        def end(_: str) -> None:
            parents.pop()

        self._read(part, Reader(start, end, _ignore))
        return [cells.is_date_format(id, codes.get(id)) for id in ids]

    def shared_texts(self) -> list[str]:
        """The texts to which cells refer by number."""
        part = self._related("sharedStrings")
        if part is None:
            return []
        texts: list[str] = []
        pieces: list[str] = []
        # phonetic guides beside a text are not part of it
        guides = 0

        def start(name: str, _: Mapping[str, str]) -> None:
            nonlocal guides
            if name == "si":
                pieces.clear()
            elif name == "rPh":
                guides += 1
            elif name == "t" and not guides:
                reader.keep_text(True)

        def end(name: str) -> None:
            nonlocal guides
            if name == "si":
                texts.append(cells.unescaped("".join(pieces)))
            elif name == "rPh":
                guides -= 1
            elif name == "t":
                reader.keep_text(False)

        reader = Reader(start, end, pieces.append)
        self._read(part, reader)
        return texts

    def _read(self, part: str, reader: Reader) -> None:
        with self.open(part) as file:
            for _ in reader.read(file):
                pass

    def _check_size(self, file: IO[bytes], unpacked_max_bytes: int, ratio_max: int) -> None:
        """zipfile reads no more of a part than the directory says."""
        file.seek(0, 2)
        size = file.tell()
        unpacked = sum(entry.file_size for entry in self._archive.infolist())
        if unpacked > unpacked_max_bytes:
            raise Refused(f"An XLSX file may unpack to {unpacked_max_bytes} bytes (UPLOAD_MAX_BYTES).", "too_large")
        if unpacked > max(RATIO_FREE_BYTES, size * ratio_max):
            raise Refused(
                f"An XLSX file may unpack to {ratio_max} times its size (UNPACK_RATIO_MAX), from {RATIO_FREE_BYTES} bytes on.",
                "too_large",
            )

    def _main_part(self) -> str:
        if "_rels/.rels" not in self._names:
            if "content.xml" in self._names:
                raise Refused("it is an OpenDocument file: save it as .xlsx")
            raise Refused("it is a zip archive, but not an XLSX file")
        for kind, target in self._read_relations("").values():
            if kind == "officeDocument":
                if target.endswith(".bin"):
                    raise Refused("it is an .xlsb file: save it as .xlsx")
                return target
        raise Refused("it has no workbook")

    def _read_relations(self, part: str) -> dict[str, tuple[str, str]]:
        """The parts to which a part refers, by the id of the reference: their kinds and names."""
        folder, name = posixpath.split(part)
        source = posixpath.join(folder, "_rels", f"{name}.rels")
        found: dict[str, tuple[str, str]] = {}

        def start(element: str, attributes: Mapping[str, str]) -> None:
            if element == "Relationship" and attributes.get("TargetMode") != "External":
                kind = attributes.get("Type", "").rpartition("/")[2]
                target = posixpath.normpath(posixpath.join("/", folder, attributes.get("Target", "")))
                found[attributes.get("Id", "")] = (kind, target.lstrip("/"))

        self._read(source, Reader(start, _ignore, _ignore))
        return found

    def _related(self, wanted: str) -> str | None:
        return next((target for kind, target in self._relations.values() if kind == wanted), None)

    def _read_sheets(self) -> list[Sheet]:
        sheets: list[Sheet] = []

        def start(name: str, attributes: Mapping[str, str]) -> None:
            if name == "workbookPr":
                self.from_1904 = attributes.get("date1904") in ("1", "true")
            elif name == "sheet":
                # r:id, in either of its two namespaces
                id = next((value for key, value in attributes.items() if " " in key and local(key) == "id"), "")
                kind, part = self._relations.get(id, ("", ""))
                if kind == "worksheet":
                    is_hidden = attributes.get("state", "visible") != "visible"
                    sheets.append(Sheet(attributes.get("name", ""), part, is_hidden))

        reader = Reader(start, _ignore, _ignore)
        self._read(self._part, reader)
        return sheets


class _Part:
    """A part that is being read."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self._name = name
        self._file = file

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except _DAMAGED as error:
            raise _damaged(self._name, error) from None


def _damaged(part: str, error: Exception) -> Refused:
    return Refused(f"its part {part[:200]} is damaged or encrypted ({error})")


def _archive(file: IO[bytes]) -> zipfile.ZipFile:
    if file.read(len(_OLE)) == _OLE:
        raise Refused("it is encrypted with a password, or an .xls file: save it as .xlsx without a password")
    file.seek(0)
    try:
        return zipfile.ZipFile(file)
    except _DAMAGED:
        raise Refused("it is not an XLSX file, or is incomplete") from None


def _integer(attributes: Mapping[str, str], name: str) -> int:
    text = attributes.get(name, "0")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _ignore(*_: object) -> None:
    pass
