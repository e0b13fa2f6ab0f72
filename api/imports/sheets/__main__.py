"""Reads an XLSX file from standard input, which is a regular file, and writes the rows of a sheet to standard output.

Each row is `NUMBER SIZE`, a newline, and SIZE bytes: a row of CSV with its newline. The first is the header. The argument has the
options as JSON. A file that is refused ends the process with the status REFUSED and the reason as JSON on standard error.
"""

import json
import os
import re
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from api.imports.sheets import cells
from api.imports.sheets.cells import Value
from api.imports.sheets.errors import Refused
from api.imports.sheets.rows import rows
from api.imports.sheets.workbook import Workbook

REFUSED = 3
BLOCK_BYTES = 64 * 1024


def main(options: Mapping[str, Any], source: IO[bytes], target: IO[bytes]) -> int:
    _limit(resource.RLIMIT_AS, options["memory_max_bytes"], options["memory_max_bytes"])
    # SIGXCPU, and SIGKILL a second later
    _limit(resource.RLIMIT_CPU, options["seconds_max"], options["seconds_max"] + 1)
    try:
        block = bytearray()
        for frame in frames(source, options):
            block += frame
            if len(block) >= BLOCK_BYTES:
                target.write(block)
                block.clear()
        target.write(block)
        target.flush()
    except Refused as refused:
        reason = {"kind": refused.kind, "message": refused.message}
    except MemoryError:
        message = (
            f"Reading the XLSX file takes more than {options['memory_max_bytes']} bytes of memory (XLSX_MEMORY_BYTES)."
        )
        reason = {"kind": "too_large", "message": message}
    else:
        return 0
    sys.stderr.write(json.dumps(reason))
    return REFUSED


def frames(source: IO[bytes], options: Mapping[str, Any]) -> Iterator[bytes]:
    """The frames of the rows. Raises `Refused`.

    `times` are the header's names of columns with times. A record of more than `record_max_bytes` is truncated to one byte more,
    by which the workers detect it.
    """
    workbook = Workbook(source, unpacked_max_bytes=options["unpacked_max_bytes"], ratio_max=options["unpack_ratio_max"])
    found = rows(workbook, workbook.sheet(options["sheet"]))
    number, header = next(found, (0, {}))
    if not number:
        return
    names = [cells.as_text(header.get(column, ""), is_time=False) for column in range(max(header) + 1)]
    are_times = [name.strip() in options["times"] for name in names]
    to_quote = re.compile(rf'["\r\n{re.escape(options["delimiter"])}]|\A\s+\Z')
    yield _frame(number, _csv(names, options["delimiter"], to_quote), None)
    for number, row in found:
        line = _csv(_texts(row, are_times), options["delimiter"], to_quote)
        yield _frame(number, line, options["record_max_bytes"])


def _texts(row: Mapping[int, Value], are_times: Sequence[bool]) -> list[str]:
    """The cells of a row. One behind the header's last column is added, so that the row has too many."""
    texts = [
        cells.as_text(row[column], is_time=is_time) if column in row else "" for column, is_time in enumerate(are_times)
    ]
    if (last := max(row)) >= len(are_times):
        texts.append(cells.as_text(row[last], is_time=False))
    return texts


def _csv(texts: Sequence[str], delimiter: str, to_quote: re.Pattern[str]) -> bytes:
    quoted = ['"' + text.replace('"', '""') + '"' if to_quote.search(text) else text for text in texts]
    return delimiter.join(quoted).encode(errors="replace")


def _frame(number: int, line: bytes, max_bytes: int | None) -> bytes:
    if max_bytes is not None and len(line) > max_bytes:
        line = line[: max_bytes + 1]
        if line.endswith(b"\r"):
            # it would be taken for a part of the line end
            line = line[:-1] + b" "
    return b"%d %d\n%b\n" % (number, len(line) + 1, line)


def _limit(kind: int, soft: int, hard: int) -> None:
    # not every system supports every limit
    with suppress(ValueError, OSError):
        resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    status = main(json.loads(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
    sys.stderr.flush()
    # no finalisers: the memory is freed at once
    os._exit(status)
