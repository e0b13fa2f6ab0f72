"""A job's result, as a table and as an exit code."""

from rich import box
from rich.table import Table
from rich.text import Text

from api.client import Job
from api.client.command import failure
from api.client.command.session import Session
from api.client.command.wording import bytes_text, count, local_time, records, seconds_between

CAUSES_SHOWN = 20


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without frames. Its cells are printed as they are."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def finished(session: Session, job: Job, *, allows_refused: bool = False) -> int:
    """Prints the result of a final job and returns the exit code."""
    if session.is_json:
        session.print_json(job.data)
    elif not session.is_quiet:
        (_import if job.kind == "import" else _export)(session, job)
    if job.status != "completed":
        _explain(session, job)
        return failure.FAILED
    return failure.REFUSED_RECORDS if job.failed and not allows_refused else failure.TAKEN


def show(session: Session, job: Job) -> None:
    """Prints a job in any state."""
    if session.is_json:
        session.print_json(job.data)
        return
    file = job.file
    rows = table("", "")
    rows.show_header = False
    state = job.status + (f", {job.outcome}" if job.outcome else "") + (", dry run" if job.data.get("dry_run") else "")
    name = file.get("name")
    for label, text in (
        (job.kind, job.id),
        ("resource", job.resource + (f", mode {job.data['mode']}" if job.kind == "import" else "")),
        ("state", state),
        ("waits for", job.data.get("waiting_for")),
        (
            "file",
            f"{name or 'no name'}, {bytes_text(file.get('bytes'))}, sha256 {file['sha256'][:12]}…" if file else None,
        ),
        ("source", (job.data.get("source") or {}).get("url")),
        ("created", local_time(job.data["created_at"])),
        ("took", seconds_between(job.data["started_at"], job.data["finished_at"])),
        ("repairs", job.data.get("parent_id")),
    ):
        if text:
            rows.add_row(Text(label, style="dim"), Text(text))
    session.out.print(rows)
    if job.kind == "import":
        _import(session, job)
    _explain(session, job)


def _import(session: Session, job: Job) -> None:
    counts = job.counts
    is_dry = job.data["dry_run"]
    rows = table("records", "", right=("records",))
    rows.show_header = False
    for name, label, style in (
        ("created", "would be created" if is_dry else "created", "green"),
        ("updated", "would be updated" if is_dry else "updated", "green"),
        ("unchanged", "unchanged", "green"),
        ("skipped", "skipped", "yellow"),
        ("failed", "refused", "red"),
        ("unprocessed", "not processed", "yellow"),
    ):
        if counts[name]:
            rows.add_row(Text(count(counts[name]), style=style), label)
    took = seconds_between(job.data["started_at"], job.data["finished_at"])
    rows.add_row(count(job.total_records), f"records in all, in {took}")
    session.out.print(rows)
    summary = job.data.get("error_summary") or []
    if summary:
        causes = table("errors", "field", "code", "first line", right=("errors", "first line"))
        for cause in summary[:CAUSES_SHOWN]:
            field = cause["field"] or "the record"
            causes.add_row(count(cause["count"]), Text(field), Text(cause["code"]), str(cause["first_line"] or "-"))
        session.out.print(causes)
    _suggest(session, job)


def _suggest(session: Session, job: Job) -> None:
    """Suggests the commands that usually come next."""
    if not job.is_final:
        session.say(f"next: bulk watch {job.id}")
    elif job.data["dry_run"] and job.status == "completed" and not job.failed:
        session.say(f"next: bulk commit {job.id}")
    elif job.failed:
        session.say(f"next: bulk fix {job.id}    bulk errors {job.id}    bulk refused {job.id} --annotate")


def _export(session: Session, job: Job) -> None:
    file = job.file
    if file:
        took = seconds_between(job.data["started_at"], job.data["finished_at"])
        session.say(f"{records(file['records'])}, {bytes_text(file['bytes'])}, written in {took}")


def _explain(session: Session, job: Job) -> None:
    if job.problem:
        detail = job.problem.get("detail") or job.problem.get("title") or ""
        session.err.print(f"The {job.kind} {job.status}: {detail}", markup=False, style="red", soft_wrap=True)
