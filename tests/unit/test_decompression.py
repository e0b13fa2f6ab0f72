"""Compressed uploads, unpacked as they arrive."""

import gzip
import random

import pytest

from api.imports.decompression import BLOCK_BYTES, Undecodable, decoder, zstd

PACK = {"gzip": gzip.compress, "zstd": zstd.compress}
TEXT = b"".join(b"%d,%d\n" % (n, n * n) for n in range(2000))
NOISE = random.Random(1).randbytes(3 * BLOCK_BYTES)


def unpack(compression, data: bytes, *, size: int | None = None) -> bytes:
    """What `data` unpacks to when it arrives in blocks of `size` bytes."""
    unpacker = decoder(compression)
    size = size or max(len(data), 1)
    blocks = [block for start in range(0, len(data), size) for block in unpacker.feed(data[start : start + size])]
    unpacker.finish()
    assert all(0 < len(block) <= BLOCK_BYTES for block in blocks)
    return b"".join(blocks)


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("size", [1, 7, 1000, None])
def test_however_it_arrives(compression, size):
    """The bytes are the same whatever blocks the packed ones come in."""
    assert unpack(compression, PACK[compression](TEXT), size=size) == TEXT


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize(
    "data", [b"\0" * 40 * BLOCK_BYTES, b"\0" * BLOCK_BYTES, NOISE], ids=["bomb", "one block", "noise"]
)
def test_blocks_are_bounded(compression, data):
    """However small it was packed, it comes out in blocks of a bounded size."""
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
    """Wherever it was cut off, except between two members, that is noticed."""
    member = PACK[compression](b"some,text\n")
    for cut in range(1, len(member)):
        with pytest.raises(Undecodable, match="ends too early"):
            unpack(compression, member * (members - 1) + member[:cut])


@pytest.mark.parametrize("compression", PACK)
def test_other_bytes(compression):
    """What is not packed, or has more behind it, or a wrong checksum, is not unpacked."""
    member = PACK[compression](TEXT)
    for data in (TEXT, member + b"more", bytes(len(member)), member[:-6] + bytes(6)):
        with pytest.raises(Undecodable, match=compression):
            unpack(compression, data)


@pytest.mark.parametrize("compression", ["none", *PACK])
def test_nothing_is_an_empty_file(compression):
    """A body of no bytes is a file of no bytes, whatever its encoding claims."""
    assert unpack(compression, b"") == b""
