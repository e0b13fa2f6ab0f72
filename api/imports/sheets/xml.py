"""Reads XML with expat, block by block, and refuses document type declarations, which no XLSX file has."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Protocol
from xml.parsers import expat

from api.imports.sheets.errors import Refused

BLOCK_BYTES = 64 * 1024
_NO_MEMORY = expat.errors.codes[expat.errors.XML_ERROR_NO_MEMORY]


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


Start = Callable[[str, Mapping[str, str]], None]
End = Callable[[str], None]


@lru_cache(maxsize=1000)
def local(name: str) -> str:
    """A name without its namespace: the strict and the transitional form of XLSX differ in these only."""
    return name.rpartition(" ")[2]


class Reader:
    """Calls `start` and `end` with the names of elements, without namespaces, and `text` with their text while `is_text`."""

    def __init__(self, start: Start, end: End, text: Callable[[str], None]) -> None:
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._text = text
        self._parser.StartElementHandler = lambda name, attributes: start(local(name), attributes)
        self._parser.EndElementHandler = lambda name: end(local(name))
        self._parser.StartDoctypeDeclHandler = _refuse_doctype
        self.is_done = False

    def keep_text(self, is_kept: bool) -> None:
        """Whether `text` is called from here on."""
        self._parser.CharacterDataHandler = self._text if is_kept else None

    def read(self, file: Readable) -> Iterator[None]:
        """Reads to the end of the file, or until `is_done` is set. Yields after each block. Raises `Refused`."""
        try:
            while not self.is_done and (block := file.read(BLOCK_BYTES)):
                self._parser.Parse(block)
                yield
            if not self.is_done:
                self._parser.Parse(b"", True)
        except expat.ExpatError as error:
            if error.code == _NO_MEMORY:
                raise MemoryError from None
            raise Refused(f"a part of it is not valid XML ({expat.ErrorString(error.code)})") from None
        yield


def _refuse_doctype(*_: object) -> None:
    raise Refused("a part of it has a document type declaration")
