"""The text of a cell by its type and its number format. The types are those of ECMA-376, part 1, 18.18.11."""

import math
import re
from datetime import date, datetime, time, timedelta

# Begins the text of a cell that has no value. Every field refuses it, because U+0000 cannot be stored; a worker reads the rest as
# the reason (`db.formats.SHEET_ERROR`, which this process does not import).
ERROR = "\0#"
NOT_CALCULATED = f"{ERROR}FORMULA (not calculated: open and save the file in a spreadsheet program)"
BAD_DATE = f"{ERROR}DATE (not a date of the years 1900 to 9999)"
BAD_NUMBER = f"{ERROR}NUMBER (not a number)"

# the built-in number formats that show a date or a time, also those of East Asian languages (18.8.30)
_DATE_FORMATS = frozenset([*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)]) - {46}

_LITERAL = re.compile(r'"[^"]*"?|\\.|[_*].|\[[^\]]*\]', re.DOTALL)
_ELAPSED = re.compile(r"\[(?:h+|m+|s+)\]", re.IGNORECASE)
_DATE_LETTER = re.compile(r"[dmyhs]", re.IGNORECASE)
_INTEGER = re.compile(r"-?[0-9]+")
_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")
# from here on a number that is not written as an integer is given with an exponent
_EXPONENT_FROM = 1e21
_DAY_MILLISECONDS = 24 * 60 * 60 * 1000
# Excel counts a 29 February 1900, which did not exist, as day 60
_LEAP_DAY = 60

Value = str | datetime | time


def is_date_format(id: int, code: str | None) -> bool:
    """Whether a number format shows a date or a time of day. An elapsed time, like `[h]:mm`, is a number."""
    if code is None:
        return id in _DATE_FORMATS
    section = code.split(";")[0]
    return not _ELAPSED.search(section) and bool(_DATE_LETTER.search(_LITERAL.sub("", section)))


def unescaped(text: str) -> str:
    """Replaces `_x000D_` and the like, by which a file has characters that XML does not allow."""
    return _ESCAPE.sub(_character, text) if "_x" in text else text


def boolean(text: str) -> str:
    return "true" if text.strip() in ("1", "true") else "false"


def error(text: str) -> str:
    """The text of an error cell such as #N/A."""
    return f"{ERROR}{text.strip().removeprefix('#')}"


def iso_date(text: str) -> Value:
    """A cell of the type `d`."""
    try:
        return datetime.fromisoformat(text.strip()).replace(tzinfo=None)
    except ValueError:
        return BAD_DATE


def number(text: str) -> str:
    """A number with the digits of the file if it is an integer, otherwise with the 15 digits that a spreadsheet program shows."""
    text = text.strip()
    if _INTEGER.fullmatch(text):
        return text
    value = _float(text)
    if value is None:
        return BAD_NUMBER
    if value.is_integer() and abs(value) < _EXPONENT_FROM:
        return str(int(value))
    return f"{value:.15g}"


def serial_date(text: str, *, from_1904: bool) -> Value:
    """A date and time, or a time of day, stored as days since 1900 or 1904; rounded to milliseconds, as it is shown."""
    serial = _float(text)
    if serial is None or serial < 0:
        return BAD_DATE
    milliseconds = round(serial * _DAY_MILLISECONDS)
    if milliseconds < _DAY_MILLISECONDS:
        return (datetime.min + timedelta(milliseconds=milliseconds)).time()
    if from_1904:
        first = datetime(1904, 1, 1)
    elif milliseconds < _LEAP_DAY * _DAY_MILLISECONDS:
        first = datetime(1899, 12, 31)
    elif milliseconds < (_LEAP_DAY + 1) * _DAY_MILLISECONDS:
        return BAD_DATE
    else:
        first = datetime(1899, 12, 30)
    try:
        return first + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return BAD_DATE


def as_text(value: Value, *, is_time: bool) -> str:
    """The cell of a CSV file. In a column of times a date is in UTC, with its time of day; in others as short as possible."""
    if isinstance(value, str):
        return value
    if isinstance(value, time):
        return value.isoformat()
    if is_time:
        return f"{value.isoformat()}Z"
    is_midnight = value.time() == time()
    return date.isoformat(value) if is_midnight else value.isoformat()


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _character(match: re.Match[str]) -> str:
    code = int(match[1], 16)
    # a lone surrogate is no character, and U+0000 begins an error
    return match[0] if code == 0 or 0xD800 <= code <= 0xDFFF else chr(code)
