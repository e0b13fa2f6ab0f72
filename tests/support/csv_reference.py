"""CSV by its definition, character by character: what splitting and parsing are compared with. It shares no code with them."""

import re
from typing import Any


def records(data: bytes, limit: int, mark: bytes = b",") -> list[tuple[int, bytes]]:
    """The records of a file, its header included, and the line where each starts."""
    data = data if data.endswith(b"\n") or not data else data + b"\n"
    found: list[tuple[int, bytes]] = []
    position, line = 0, 1
    while position < len(data):
        line_end = data.index(b"\n", position) + 1
        end = line_end
        if line_end - 1 - position > limit:
            kept = data[position : position + limit + 1]
            found.append((line, re.sub(rb"\r\Z", b" ", kept) + b"\n"))
        elif data[position:line_end].strip(b" \t\r\n"):
            end = _record_end(data, position, limit, mark)
            found.append((line, data[position:end]))
        line += data.count(b"\n", position, end)
        position = end
    return found


def _record_end(data: bytes, start: int, limit: int, mark: bytes) -> int:
    line_end = data.index(b"\n", start) + 1
    state = "start"
    for position in range(start, min(len(data), start + limit + 1)):
        char = data[position : position + 1]
        if state == "quoted":
            state = "quote" if char == b'"' else "quoted"
        elif char == b"\n" and state != "return":
            return position + 1
        elif state == "return":
            return position + 1 if char == b"\n" else line_end
        elif char == mark:
            state = "start"
        elif char == b'"':
            if state == "plain":
                return line_end
            state = "quoted"
        elif state == "quote":
            if char != b"\r":
                return line_end
            state = "return"
        else:
            state = "plain"
    return line_end


def cells(record: bytes, *, width: int, limit: int, mark: str = ",") -> list[Any] | str:
    """The cells of a record, or the code of its error."""
    bare = record[:-2] if record.endswith(b"\r\n") else record.removesuffix(b"\n")
    if len(bare) > limit:
        return "record_too_large"
    try:
        text = bare.decode()
    except UnicodeDecodeError:
        return "invalid_encoding"
    found: list[Any] = []
    cell: str | None = None
    state = "start"
    for char in text + mark:
        if state == "quoted":
            state, cell = ("quote", cell) if char == '"' else ("quoted", f"{cell}{char}")
        elif char == mark:
            found.append(cell)
            state, cell = "start", None
        elif state == "quote":
            if char != '"':
                return "malformed_row"
            state, cell = "quoted", f'{cell}"'
        elif char == '"':
            if state == "plain":
                return "malformed_row"
            state, cell = "quoted", ""
        else:
            state, cell = "plain", (cell or "") + char
    if state != "start":
        return "malformed_row"
    return found if len(found) == width else "column_count_mismatch"
