"""The options of `bulk import` that name the fields of a file's columns."""

import json
from pathlib import Path

import rich_click as click

from api.client.command.failure import Usage

Columns = dict[str, str | None]


class Column(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic only for the checker
    """`COLUMN=FIELD`; without a field the column is left out. The last `=` separates them, since fields have none."""

    name = "column=field"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str | None]:
        column, separator, field = str(value).rpartition("=")
        if not separator or not column:
            self.fail(f"{value!r} is not COLUMN=FIELD", param, ctx)
        return column, field.strip() or None


def read(mapping: tuple[tuple[str, str | None], ...], file: str | None) -> Columns | None:
    """The columns of `--map-file`, overridden by those of `--map`; None without both. Raises `Usage`."""
    columns = _of_file(Path(file)) if file else {}
    return columns | dict(mapping) or None


def _of_file(path: Path) -> Columns:
    try:
        columns = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Usage(f"{path} cannot be read as JSON: {error}.", None) from None
    if not isinstance(columns, dict) or not all(field is None or isinstance(field, str) for field in columns.values()):
        raise Usage(f"{path} is not an object of columns and fields.", '{"E-mail": "email", "Notes": null}')
    return columns
