"""Compressed uploads, decompressed as they arrive."""

import gzip
import random

import pytest

from api.imports.decompression import BLOCK_BYTES, Undecodable, decoder, zstd

PACK = {"gzip": gzip.compress, "zstd": zstd.compress}
TEXT = b"".join(b"%d,%d\n" % (n, n * n) for n in range(2000))
NOISE = random.Random(1).randbytes(3 * BLOCK_BYTES)


def unpack(compression, data: bytes, *, size: int | None = None) -> bytes:
    """`data` decompressed in blocks of `size` bytes."""
    unpacker = decoder(compression)
    size = size or max(len(data), 1)
    blocks = [block for start in range(0, len(data), size) for block in unpacker.feed(data[start : start + size])]
    unpacker.finish()
    assert all(0 < len(block) <= BLOCK_BYTES for block in blocks)
    return b"".join(blocks)


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("size", [1, 7, 1000, None])
def test_blocks_of_any_size(compression, size):
    """The decompressed bytes do not depend on the blocks of the input."""
    assert unpack(compression, PACK[compression](TEXT), size=size) == TEXT


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize(
    "data", [b"\0" * 40 * BLOCK_BYTES, b"\0" * BLOCK_BYTES, NOISE], ids=["bomb", "one block", "noise"]
)
def test_blocks_are_bounded(compression, data):
    """Decompressed blocks have a bounded size, whatever the compression ratio."""
    packed = PACK[compression](data)
    assert unpack(compression, packed) == unpack(compression, packed, size=4096) == data


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("size", [1, None])
def test_several_members_are_one_file(compression, size):
    """`cat a.gz b.gz` is a.gz and b.gz, also when one of them is empty."""
    pack = PACK[compression]
    assert unpack(compression, pack(TEXT) + pack(b"") + pack(b"end"), size=size) == TEXT + b"end"


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("members", [1, 2])
def test_a_file_that_ends_too_early(compression, members):
    """A file that is cut off anywhere except between two members is an error."""
    member = PACK[compression](b"some,text\n")
    for cut in range(1, len(member)):
        with pytest.raises(Undecodable, match="ends too early"):
            unpack(compression, member * (members - 1) + member[:cut])


@pytest.mark.parametrize("compression", PACK)
def test_other_bytes(compression):
    """Data that is not compressed, trailing data and a wrong checksum are errors."""
    member = PACK[compression](TEXT)
    for data in (TEXT, member + b"more", bytes(len(member)), member[:-6] + bytes(6)):
        with pytest.raises(Undecodable, match=compression):
            unpack(compression, data)


@pytest.mark.parametrize("compression", ["none", *PACK])
def test_nothing_is_an_empty_file(compression):
    """An empty body is an empty file, whatever its encoding."""
    assert unpack(compression, b"") == b""
