"""Compressed files that are far larger when they are decompressed."""

import gzip
import zlib

from api.imports.decompression import zstd
from tests.api.http.hostile.bodies import FILE, IMPORTS, MULTIPART, part
from tests.api.http.hostile.bodies import USERS as USERS_PART
from tests.api.http.hostile.case import Case, post

SOUND = b"email,name,role,active\n" + b"a@example.org,A,reader,true\n" * 100
ROW = b"a@example.org,A,reader,true\n"
BLANKS = b"\n" * 1_000_000


def gzip_bomb(unpacked: bytes, *, times: int) -> bytes:
    """`unpacked` so many times, in one member."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(unpacked) for _ in range(times)), packer.flush()])


def zstd_bomb(unpacked: bytes, *, times: int, window_log: int | None = None) -> bytes:
    options = {zstd.CompressionParameter.compression_level: 3}
    if window_log is not None:
        options[zstd.CompressionParameter.window_log] = window_log
    packer = zstd.ZstdCompressor(options=options)
    return b"".join([*(packer.compress(unpacked) for _ in range(times)), packer.flush()])


def packed(body: bytes, encoding: bytes = b"gzip") -> list[bytes]:
    return post(body, b"Content-Encoding: " + encoding)


GZIP = gzip.compress(SOUND)
ZSTD = zstd.compress(SOUND)
HEADER = gzip.compress(b"email,name,role,active\n")
# blank lines are passed over, so nothing but a limit stops this one
BOMB = HEADER + gzip_bomb(BLANKS, times=40)
END = b"--edge--\r\n"

CASES = [
    Case("a bomb of gzip", packed(BOMB), 413, "limit_ratio"),
    Case("a bomb of zstd", packed(zstd_bomb(BLANKS, times=40), b"zstd"), 413, "limit_ratio"),
    Case("a bomb of many members", packed(HEADER + gzip.compress(BLANKS) * 40), 413, "limit_ratio"),
    Case("a bomb of many frames", packed(zstd.compress(BLANKS) * 40, b"zstd"), 413, "limit_ratio"),
    Case("a bomb of records", packed(HEADER + gzip_bomb(ROW * 10_000, times=100)), 413, "limit_ratio"),
    Case(
        "a bomb in a form",
        post(
            USERS_PART + part(b"file", BOMB, more=b'; filename="u.csv.gz"') + END,
            target=IMPORTS,
            type=MULTIPART,
        ),
        413,
        "limit_ratio",
    ),
    Case(
        "a bomb behind a form",
        post(
            gzip.compress(USERS_PART + FILE + END) + gzip_bomb(BLANKS, times=40),
            b"Content-Encoding: gzip",
            target=IMPORTS,
            type=MULTIPART,
        ),
        413,
        "limit_ratio",
    ),
    Case(
        "a compressed file in a compressed form",
        # the file's first member is not compressed, so that within the form its ratio is small
        post(
            gzip.compress(
                USERS_PART
                + part(
                    b"file",
                    HEADER + gzip.compress(BLANKS * 2, 0) + gzip_bomb(BLANKS, times=400),
                    more=b'; filename="u.csv.gz"',
                )
                + END
            ),
            b"Content-Encoding: gzip",
            target=IMPORTS,
            type=MULTIPART,
        ),
        413,
        "limit_ratio",
    ),
    Case(
        "a bomb of JSON",
        post(gzip_bomb(b"[" * 1_000_000, times=40), b"Content-Encoding: gzip", type=b"application/json"),
        400,
        "nested",
    ),
    Case(
        "a bomb of JSON blanks",
        post(gzip_bomb(b" " * 1_000_000, times=40), b"Content-Encoding: gzip", type=b"application/json"),
        413,
    ),
    Case("a bomb in a bomb", packed(gzip.compress(BOMB)), 400),
    Case("a window of 128 MiB", packed(zstd_bomb(SOUND * 1000, times=50, window_log=27), b"zstd"), 400),
    Case("100,000 empty members", packed(gzip.compress(b"") * 100_000), 400, "members"),
    Case("100,000 empty frames", packed(zstd.compress(b"") * 100_000, b"zstd"), 400, "members"),
    Case("not gzip", packed(SOUND), 400, "gzip"),
    Case("not zstd", packed(SOUND, b"zstd"), 400, "zstd"),
    Case("gzip as zstd", packed(GZIP, b"zstd"), 400, "zstd"),
    Case("zstd as gzip", packed(ZSTD), 400, "gzip"),
    Case("gzip cut off", packed(GZIP[:-1]), 400, "early"),
    Case("zstd cut off", packed(ZSTD[:-1], b"zstd"), 400, "early"),
    Case("gzip and more behind it", packed(GZIP + b"more"), 400, "gzip"),
    Case("zstd and more behind it", packed(ZSTD + b"more", b"zstd"), 400, "zstd"),
    Case("gzip with a wrong checksum", packed(GZIP[:-8] + bytes(8)), 400, "gzip"),
    Case("gzip of a wrong length", packed(GZIP[:-4] + bytes(4)), 400, "gzip"),
    Case("gzip with an endless name", packed(b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 1_000_000), 400, "early"),
    Case("brotli", packed(SOUND, b"br"), 415, "br"),
    Case("two encodings", packed(gzip.compress(GZIP), b"gzip, gzip"), 415, "gzip, gzip"),
    Case("an encoding of 10 kB", packed(SOUND, b"x" * 10_000), 415),
]
