"""Packing an answer on its way, when the client accepts that (RFC 9110, 12.5.3)."""

from collections.abc import AsyncIterator

from litestar import Request

from api.http.problems import Problem
from db.compression import compressor
from db.formats import Compression

# by the names of HTTP, the best first among those that a client likes as much
ENCODINGS: dict[str, Compression] = {"zstd": "zstd", "gzip": "gzip", "x-gzip": "gzip", "identity": "none"}
# the smallest weight but 0 that can be written in a header
WEIGHT_MIN = 0.001


def accepted(request: Request) -> Compression:
    """The compression that the client would rather have; none unless it names one. Raises `Problem` 406."""
    header = request.headers.get("accept-encoding")
    if header is None:
        return "none"
    weights = dict(_weight(part) for part in header.lower().split(",") if part.strip())
    # what is not named: all that `*` stands for, and the data as it is, which is refused only by name or by `*`
    rest = weights.get("*")
    liked = {name: weights.get(name, rest or 0.0) for name in ENCODINGS}
    if "identity" not in weights and rest is None:
        liked["identity"] = WEIGHT_MIN
    best = max(liked, key=lambda name: liked[name])
    if not liked[best]:
        raise Problem("not-acceptable", f"There are the encodings {', '.join(ENCODINGS)}.")
    return ENCODINGS[best]


async def pack(blocks: AsyncIterator[bytes], compression: Compression) -> AsyncIterator[bytes]:
    """The blocks packed as one stream. Its end comes only after theirs: what breaks half way cannot be unpacked to an end."""
    stream = compressor(compression)
    async for block in blocks:
        if data := stream.compress(block):
            yield data
    if data := stream.flush():
        yield data


def _weight(part: str) -> tuple[str, float]:
    """A name and how much it is liked, from 0 to 1; something that cannot be read is not liked."""
    name, *parameters = (piece.strip() for piece in part.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return name, min(max(float(value), 0.0), 1.0)
            except ValueError:
                return name, 0.0
    return name, 1.0
