"""`bulk export`: a streaming or a background export."""

import sys
from pathlib import Path
from typing import Any, get_args

import rich_click as click

from api.client.command import failure, waiting
from api.client.command.failure import Usage
from api.client.command.progress import Reporter
from api.client.command.session import Session, common
from api.client.command.wording import bytes_text, records
from api.client.download import Compression
from api.client.source import Format, format_of

STDOUT = "-"
PACKED_ENDINGS = {"gzip": ".gz", "zstd": ".zst", "none": ""}


@click.command()
@click.argument("resource")
@click.option("-o", "--output", metavar="FILE|-", help="Default: RESOURCE.FORMAT here, or stdout when that is a pipe.")
@click.option("--format", type=click.Choice(get_args(Format)), help="Default: by the extension of FILE, else ndjson.")
@click.option("--fields", metavar="A,B", help="These fields, in this order.")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="A filter, such as role=admin,author.")
@click.option("--limit", type=click.IntRange(1), help="Maximum number of records; not with --background.")
@click.option(
    "--since",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Only what was stored or changed since the export that wrote FILE; all records while there is no FILE.",
)
@click.option("--csv-safe", is_flag=True, help="Escape CSV cells that a spreadsheet would read as formulas.")
@click.option("--bom", is_flag=True, help="Begin a CSV with a byte order mark, so that Excel reads it as UTF-8.")
@click.option("--background", is_flag=True, help="Let a worker write the file; its download can be resumed.")
@click.option("--gzip", "compression", flag_value="gzip", help="Compress with gzip.")
@click.option("--zstd", "compression", flag_value="zstd", help="Compress with zstd.")
@common
def export(session: Session, resource: str, output: str | None, background: bool, **options: Any) -> None:
    """Export the records of a resource. A file appears only when it is complete.

    With --since each call has what has changed since the last one: FILE has the watermark of the last complete export.
    """
    compression: Compression = options["compression"] or "none"
    format = options["format"] or (format_of(output) if output not in (None, STDOUT) else None) or "ndjson"
    if output is None:
        output = f"{resource}.{format}{PACKED_ENDINGS[compression]}" if sys.stdout.isatty() else STDOUT
    filters = dict(_filter(text) for text in options["where"])
    mark: Path | None = options["since"]
    since = _watermark(mark)
    if background:
        if output == STDOUT or options["limit"]:
            raise Usage("--background requires a file, and excludes --limit.", "add -o FILE, or omit --background")
        members = {
            "fields": options["fields"] and options["fields"].split(","),
            "csv_safe": options["csv_safe"] or None,
            "bom": options["bom"] or None,
            "changed_since": since,
        }
        next_since = _in_background(
            session, resource, output, filters, format=format, compression=compression, **members
        )
        _keep_watermark(mark, next_since)
        return
    parameters = {
        **filters,
        "format": format,
        "fields": options["fields"],
        "limit": options["limit"],
        "csv_safe": options["csv_safe"] or None,
        "bom": options["bom"] or None,
        "changed_since": since,
    }
    _keep_watermark(mark, _stream(session, resource, output, compression, parameters))


def _stream(session: Session, resource: str, output: str, compression: Compression, parameters: dict[str, Any]) -> str:
    """Returns the watermark."""
    if output == STDOUT:
        watermarks: list[str] = []
        blocks = session.client.export(resource, compression=compression, on_watermark=watermarks.append, **parameters)
        for block in blocks:
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
        return watermarks[-1]
    target = _target(output)
    with Reporter(session) as reporter:
        watermark = session.client.export_to(
            target,
            resource,
            compression=compression,
            on_received=lambda size, total: reporter.bytes("receiving", size, total),
            **parameters,
        )
    session.say(f"{output}: {bytes_text(target.stat().st_size)}")
    return watermark


def _in_background(session: Session, resource: str, output: str, filters: dict[str, str], **members: Any) -> str | None:
    """Returns the watermark; None if a worker of an earlier version has written the file."""
    target = _target(output)
    typed = {name: _typed(value) for name, value in filters.items()}
    job = session.client.start_export(resource, filters=typed, **members)
    waiting.started(session, job)
    job = waiting.final(session, job)
    if job.status != "completed":
        detail = (job.problem or {}).get("detail", "")
        session.err.print(f"The export {job.status}. {detail}", markup=False, style="red")
        raise failure.Ended(failure.FAILED)
    with Reporter(session) as reporter:
        job = session.client.download(
            job.id, target, on_received=lambda size, total: reporter.bytes("receiving", size, total)
        )
    if session.is_json:
        session.print_json(job.data)
    else:
        session.say(f"{output}: {records(job.file['records'])}, {bytes_text(job.file['bytes'])}")
    return job.data["watermark"]


def _watermark(mark: Path | None) -> str | None:
    """The watermark in the file of --since; None if there is no file yet."""
    return mark.read_text().strip() if mark is not None and mark.exists() else None


def _keep_watermark(mark: Path | None, watermark: str | None) -> None:
    """Replaces the file of --since at once, so that a crash leaves the earlier watermark or the new one."""
    if mark is None or watermark is None:
        return
    part = mark.with_name(f"{mark.name}.part")
    part.write_text(f"{watermark}\n")
    part.replace(mark)


def _target(output: str) -> Path:
    target = Path(output)
    if not target.parent.is_dir():
        raise Usage(f"There is no folder {target.parent}.", None)
    return target


def _filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Usage(f"--where {text!r} has no =.", "--where role=admin,author")
    return name, value


def _typed(value: str) -> Any:
    """A filter as a member of the JSON request: a text with commas is a list, and booleans are booleans."""
    if value in ("true", "false"):
        return value == "true"
    return value.split(",") if "," in value else value
