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


def gzip_bomb(content: bytes, *, times: int) -> bytes:
    """`content` so many times, in one member."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(content) for _ in range(times)), packer.flush()])


def zstd_bomb(content: bytes, *, times: int, window_log: int | None = None) -> bytes:
    options = {zstd.CompressionParameter.compression_level: 3}
    if window_log is not None:
        options[zstd.CompressionParameter.window_log] = window_log
    packer = zstd.ZstdCompressor(options=options)
    return b"".join([*(packer.compress(content) for _ in range(times)), packer.flush()])


def compressed(body: bytes, encoding: bytes = b"gzip") -> list[bytes]:
    return post(body, b"Content-Encoding: " + encoding)


GZIP = gzip.compress(SOUND)
ZSTD = zstd.compress(SOUND)
HEADER = gzip.compress(b"email,name,role,active\n")
# blank lines are passed over, so nothing but a limit stops this one
BOMB = HEADER + gzip_bomb(BLANKS, times=40)
END = b"--edge--\r\n"

CASES = [
    Case("a bomb of gzip", compressed(BOMB), 413, "limit_ratio"),
    Case("a bomb of zstd", compressed(zstd_bomb(BLANKS, times=40), b"zstd"), 413, "limit_ratio"),
    Case("a bomb of many members", compressed(HEADER + gzip.compress(BLANKS) * 40), 413, "limit_ratio"),
    Case("a bomb of many frames", compressed(zstd.compress(BLANKS) * 40, b"zstd"), 413, "limit_ratio"),
    Case("a bomb of records", compressed(HEADER + gzip_bomb(ROW * 10_000, times=100)), 413, "limit_ratio"),
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
    Case("a bomb in a bomb", compressed(gzip.compress(BOMB)), 400),
    Case("a window of 128 MiB", compressed(zstd_bomb(SOUND * 1000, times=50, window_log=27), b"zstd"), 400),
    Case("100,000 empty members", compressed(gzip.compress(b"") * 100_000), 400, "members"),
    Case("100,000 empty frames", compressed(zstd.compress(b"") * 100_000, b"zstd"), 400, "members"),
    Case("not gzip", compressed(SOUND), 400, "gzip"),
    Case("not zstd", compressed(SOUND, b"zstd"), 400, "zstd"),
    Case("gzip as zstd", compressed(GZIP, b"zstd"), 400, "zstd"),
    Case("zstd as gzip", compressed(ZSTD), 400, "gzip"),
    Case("gzip cut off", compressed(GZIP[:-1]), 400, "early"),
    Case("zstd cut off", compressed(ZSTD[:-1], b"zstd"), 400, "early"),
    Case("gzip and more behind it", compressed(GZIP + b"more"), 400, "gzip"),
    Case("zstd and more behind it", compressed(ZSTD + b"more", b"zstd"), 400, "zstd"),
    Case("gzip with a wrong checksum", compressed(GZIP[:-8] + bytes(8)), 400, "gzip"),
    Case("gzip of a wrong length", compressed(GZIP[:-4] + bytes(4)), 400, "gzip"),
    Case("gzip with an endless name", compressed(b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 1_000_000), 400, "early"),
    Case("brotli", compressed(SOUND, b"br"), 415, "br"),
    Case("two encodings", compressed(gzip.compress(GZIP), b"gzip, gzip"), 415, "gzip, gzip"),
    Case("an encoding of 10 kB", compressed(SOUND, b"x" * 10_000), 415),
]
