"""One bad input, and how requests are put together byte by byte, as no proper client would."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import NamedTuple

# the key of the service; no line of a log may have it
KEY = b"k-5ecret-of-the-c1ient"
IMPORTS = b"/api/v1/imports"
USERS = IMPORTS + b"?resource=users"
BLOCK_BYTES = 64 * 1024


class Case(NamedTuple):
    """`sent` goes out as it is, in pieces. `status` 0: there need be no answer, but the connection must end.

    The answer's body must have `word`: a field or a limit. What is answered by the server before there is a request
    has no address in it.
    """

    name: str
    sent: Iterable[bytes]
    status: int
    word: str = ""


def request(
    line: bytes, *headers: bytes, body: bytes | None = None, key: bytes | None = KEY, close: bool = True
) -> list[bytes]:
    """A complete request; with a `body`, it has Content-Length."""
    head = [line + b" HTTP/1.1", b"Host: localhost", *headers]
    if key is not None:
        head.append(b"X-API-Key: " + key)
    if body is not None:
        head.append(b"Content-Length: %d" % len(body))
    if close:
        head.append(b"Connection: close")
    return [b"\r\n".join(head) + b"\r\n\r\n" + (body or b"")]


def get(target: bytes, *headers: bytes) -> list[bytes]:
    return request(b"GET " + target, *headers)


def post(body: bytes, *headers: bytes, target: bytes = USERS, type: bytes = b"text/csv") -> list[bytes]:
    return request(b"POST " + target, b"Content-Type: " + type, *headers, body=body)


@dataclass(frozen=True)
class Endless:
    """`piece` over and over, `size` bytes in all: far more than any limit."""

    piece: bytes
    size: int = 10_000_000

    def __iter__(self) -> Iterator[bytes]:
        times = max(1, BLOCK_BYTES // len(self.piece))
        return repeat(self.piece * times, self.size // (times * len(self.piece)))


@dataclass(frozen=True)
class Row:
    """One behind the other; unlike a chain this can be sent again."""

    parts: tuple[Iterable[bytes], ...]

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(self.parts)


def row(*parts: bytes | Endless) -> Row:
    return Row(tuple([part] if isinstance(part, bytes) else part for part in parts))


def chunked(
    *pieces: bytes | Endless, headers: Sequence[bytes] = (), target: bytes = USERS, type: bytes = b"text/csv"
) -> Row:
    """A chunked body; `pieces` are its chunks with their framing."""
    line = b"POST " + target
    return row(*request(line, b"Content-Type: " + type, b"Transfer-Encoding: chunked", *headers), *pieces)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
