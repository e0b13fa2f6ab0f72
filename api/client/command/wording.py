"""Numbers, sizes, times and durations as text, and the options that read them."""

import re
from datetime import datetime

import rich_click as click

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic only for the checker
    """`90`, `90s`, `10m`, `2h`, `1d`, as seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no duration; write 90s, 10m or 2h", param, ctx)
        return float(found[1]) * UNITS[found[2]]


class ErrorBudget(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # likewise
    """`100` records or `1%` of them, as the parameter of the API."""

    name = "number or %"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        text = str(value).strip()
        if re.fullmatch(r"\d+", text):
            return {"max_errors": text}
        if re.fullmatch(r"\d+(\.\d+)?%", text) and float(text[:-1]) <= 100:
            return {"max_error_rate": f"{float(text[:-1]) / 100:g}"}
        return self.fail(f"{value!r} is neither a number of records nor a share; write 100 or 1%", param, ctx)


def count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def records(number: int) -> str:
    return f"{number:,} record{'' if number == 1 else 's'}"


def bytes_text(size: float | None) -> str:
    """A size with a decimal unit."""
    if size is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def seconds_between(start: str | None, end: str | None) -> str:
    """How long something took, from two RFC 3339 times."""
    if start is None or end is None:
        return "-"
    seconds = (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    return f"{seconds:.2f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def local_time(time: str | None) -> str:
    return "-" if time is None else datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
