"""`bulk import`, and the commands for errors, refused records and results."""

import sys
from pathlib import Path
from typing import Any, BinaryIO, get_args

import rich_click as click
from rich.text import Text

from api.client import Job
from api.client.command import columns, failure, report, state, waiting
from api.client.command.columns import Column
from api.client.command.failure import Usage
from api.client.command.progress import Reporter
from api.client.command.session import Session, common
from api.client.command.wording import ErrorBudget
from api.client.source import ImportFormat, is_object

STDIN = "-"
STDOUT = "-"
MODES = ("insert", "skip", "upsert", "update")
ERRORS_SHOWN = 100


@click.command("import")
@click.argument("file", metavar="FILE|-")
@click.option("-r", "--resource", metavar="NAME", help="users, articles, comments; default: by the file's name.")
@click.option(
    "--mode", type=click.Choice(MODES), help="What to do with records that are already stored; default insert."
)
@click.option("--check", is_flag=True, help="Only check the file: a dry run.")
@click.option("--check-first", is_flag=True, help="Check the whole file, and store it if no record is refused.")
@click.option(
    "--map", "mapping", type=Column(), multiple=True, help="The field of a column; none leaves the column out."
)
@click.option(
    "--map-file", type=click.Path(dir_okay=False), help='The same as JSON: {"E-mail": "email", "Notes": null}.'
)
@click.option("--undoable", is_flag=True, help="Remember the rows that are created, for bulk undo.")
@click.option("--ignore-unknown", is_flag=True, help="Ignore columns that the resource does not have.")
@click.option("--max-errors", "budget", type=ErrorBudget(), metavar="N|N%", help="Fail when more records are refused.")
@click.option("--stop-on-error", is_flag=True, help="Stop at the first refused record.")
@click.option("--after", metavar="ID|last", help="Wait until that import is completed.")
@click.option(
    "--repairs",
    metavar="ID|last",
    help="FILE has corrected records of that import, written by bulk refused --annotate.",
)
@click.option("--format", type=click.Choice(get_args(ImportFormat)), help="Default: by the file's name or first byte.")
@click.option("--sheet", metavar="NAME", help="The sheet of an .xlsx file; default the first.")
@click.option("--delimiter", metavar="C", help="Delimiter of a CSV file: , ; | or tab.")
@click.option("--csv-safe", is_flag=True, help="The CSV was exported with csv_safe.")
@click.option("--refused", "refused_to", type=click.Path(dir_okay=False), help="Write the refused records here.")
@click.option("--errors", "errors_to", type=click.Path(dir_okay=False), help="Write the errors here, as CSV.")
@click.option("--key-for-retry", default="auto", metavar="auto|new|KEY", help="Idempotency key: auto is by content.")
@waiting.options
@common
def import_(
    session: Session,
    file: str,
    resource: str | None,
    mapping: tuple[tuple[str, str | None], ...],
    map_file: str | None,
    budget: dict[str, str] | None,
    key_for_retry: str,
    check_first: bool,
    undoable: bool,
    refused_to: str | None,
    errors_to: str | None,
    allow_refused: bool,
    **options: Any,
) -> None:
    """Import a file, or stdin, and wait until it is done.

    The same command continues the same job: after a crash or a lost connection, repeat it, and nothing is imported twice.

    FILE may be s3://bucket/key, which the service reads itself. A repeated command then imports it again, unless it has the same
    --key-for-retry.
    """
    following = {name: options.pop(name) for name in ("detach", "wait_seconds", "cancel_on_interrupt")}
    if check_first and following["detach"]:
        raise Usage("--check-first has to wait for the check.", "omit --detach, or use --check")
    is_check = options.pop("check") or check_first
    after, repairs = options.pop("after"), options.pop("repairs")
    parameters: dict[str, Any] = {
        "mode": options["mode"],
        "format": options["format"],
        "csv_delimiter": options["delimiter"],
        "csv_safe": options["csv_safe"] or None,
        "sheet": options["sheet"],
        "dry_run": is_check or None,
        "undoable": (undoable and not check_first) or None,
        "unknown_fields": "ignore" if options["ignore_unknown"] else None,
        "columns": columns.read(mapping, map_file),
        "on_error": "stop" if options["stop_on_error"] else None,
        "after": state.resolve(session.client.url, after, "import") if after else None,
        "repairs": state.resolve(session.client.url, repairs, "import") if repairs else None,
        **(budget or {}),
    }
    if file != STDIN and not is_object(file) and not Path(file).is_file():
        raise Usage(f"There is no file {file}.", "bulk import FILE, or - for stdin")
    job = send(
        session,
        file,
        # a repair has that of its parent
        resource=resource or (None if repairs else _resource_of(session, file)),
        key={"auto": "content", "new": "random"}.get(key_for_retry, key_for_retry),
        **parameters,
    )
    try:
        job = waiting.follow(session, job, allow_refused=allow_refused, **following)
        if check_first:
            waiting.follow(
                session, session.client.commit(job.id, undoable=undoable), allow_refused=allow_refused, **following
            )
    except failure.Ended as ended:
        if ended.code in (failure.REFUSED_RECORDS, failure.FAILED):
            _write_files(session, job.id, refused_to, errors_to)
        raise
    _write_files(session, job.id, refused_to, errors_to)


def send(session: Session, file: str, **options: Any) -> Job:
    """Uploads a file or stdin with a progress bar. Ctrl-C stops the upload, and then nothing is imported.

    An object of a bucket is read by the service, which Ctrl-C does not stop.
    """
    data: str | BinaryIO = sys.stdin.buffer if file == STDIN else file
    if is_object(file):
        session.say(f"The service reads {file}.")
    try:
        with Reporter(session) as reporter:
            return session.client.import_file(
                data, on_sent=lambda sent, total: reporter.bytes("sending", sent, total), **options
            )
    except PermissionError as error:
        raise Usage(f"{file} cannot be read: {error.strerror}.", None) from None
    except KeyboardInterrupt:
        consequence = (
            "The service reads the object to its end; see bulk jobs."
            if is_object(file)
            else "Nothing was imported; repeat the command to start again."
        )
        session.err.print(f"Interrupted while sending. {consequence}", markup=False)
        raise failure.Ended(failure.INTERRUPTED) from None


def _resource_of(session: Session, file: str) -> str:
    """The resource with which a file's name begins."""
    names = [resource["name"] for resource in session.client.resources()]
    stem = Path(file).name.lower()
    for name in names:
        if stem.startswith(name):
            return name
    raise Usage(f"Which resource is {file}?", f"add -r with one of {', '.join(names)}")


def _write_files(session: Session, import_id: str, refused_to: str | None, errors_to: str | None) -> None:
    if refused_to:
        session.client.refused_to(import_id, refused_to, annotate=True)
        session.say(f"The refused records are in {refused_to}.")
    if errors_to:
        target = Path(errors_to)
        with target.open("wb") as output:
            output.writelines(session.client.errors_file(import_id, "csv"))
        session.say(f"The errors are in {errors_to}.")


@click.command()
@click.argument("id", default=state.LAST)
@click.option("--summary", is_flag=True, help="By cause, with the first line of each.")
@click.option("--csv", "format", flag_value="csv", help="All errors as CSV, on stdout.")
@click.option("--ndjson", "format", flag_value="ndjson", help="All errors, one JSON object per line.")
@click.option("--code", metavar="CODE", help="Only errors with this code.")
@click.option("--field", metavar="FIELD", help="Only errors of this field.")
@common
def errors(session: Session, id: str, summary: bool, format: str | None, code: str | None, field: str | None) -> None:
    """Why records were refused: line, field, code, value."""
    id = state.resolve(session.client.url, id, "import")
    filters = {name: value for name, value in (("code", code), ("field", field)) if value}
    if summary:
        job = session.client.get(id, kind="import")
        if session.is_json:
            session.print_json(job.data["error_summary"])
        else:
            report.show(session, job)
        return
    if format or session.is_json:
        for block in session.client.errors_file(id, "csv" if format == "csv" else "ndjson", **filters):
            sys.stdout.buffer.write(block)
        return
    rows = report.table("line", "field", "code", "value", "message", right=("line",))
    shown = 0
    for error in session.client.errors(id, **filters):
        shown += 1
        if shown > ERRORS_SHOWN:
            break
        cells = (
            str(error["line"]),
            error["field"] or "the record",
            error["code"],
            error["value"] or "",
            error["message"],
        )
        rows.add_row(*map(Text, cells))
    session.out.print(rows)
    if shown > ERRORS_SHOWN:
        session.say(f"These are the first {ERRORS_SHOWN}; all of them: bulk errors {id} --csv")


@click.command()
@click.argument("id", default=state.LAST)
@click.option("-o", "--output", default=STDOUT, metavar="FILE|-", help="Where to write them; default stdout.")
@click.option("--annotate", is_flag=True, help="With _line and _errors before each record.")
@common
def refused(session: Session, id: str, output: str, annotate: bool) -> None:
    """The refused records, as they were sent."""
    id = state.resolve(session.client.url, id, "import")
    if output != STDOUT:
        session.client.refused_to(id, output, annotate=annotate)
        return
    for block in session.client.refused(id, annotate=annotate):
        sys.stdout.buffer.write(block)


@click.command()
@click.argument("id", default=state.LAST)
@click.option("--ndjson", is_flag=True, help="One JSON object per line instead of CSV.")
@common
def results(session: Session, id: str, ndjson: bool) -> None:
    """What was done with the other records: line, record, id, outcome.

    A record whose row was written by a later import, or was deleted, has the outcome unknown.
    """
    id = state.resolve(session.client.url, id, "import")
    for block in session.client.results(id, "ndjson" if ndjson or session.is_json else "csv"):
        sys.stdout.buffer.write(block)
