"""Jobs of both kinds: list, show, watch, retry, commit, cancel, delete."""

import heapq
import itertools
from collections.abc import Iterator

import rich_click as click
from rich.text import Text

from api.client import Job
from api.client.command import failure, report, state, waiting
from api.client.command.session import Session, common
from api.client.command.wording import count, local_time, seconds_between

JOBS_SHOWN = 20
RUNNING = ("pending", "processing")


@click.command()
@click.option("--running", is_flag=True, help="Only those that are not final.")
@click.option("--kind", type=click.Choice(("import", "export")), help="Only imports, or only exports.")
@click.option("--status", metavar="STATUS", help="pending, processing, completed, failed, cancelled, expired.")
@click.option("-r", "--resource", metavar="NAME", help="Only jobs of this resource.")
@click.option(
    "-n", "--limit", type=click.IntRange(1), default=JOBS_SHOWN, show_default=True, help="Maximum number of jobs."
)
@common
def jobs(
    session: Session, running: bool, kind: str | None, status: str | None, resource: str | None, limit: int
) -> None:
    """List the last imports and exports, newest first."""
    kinds = ("import", "export") if kind is None else (kind,)
    statuses = RUNNING if running else (status,)
    lists = [
        session.client.jobs(each, status=one, resource=resource)  # pyright: ignore[reportArgumentType]  # the choice
        for each in kinds
        for one in statuses
    ]
    found = list(itertools.islice(_newest_first(lists), limit))
    if session.is_json:
        session.print_json([job.data for job in found])
        return
    rows = report.table(
        "id", "kind", "resource", "state", "records", "refused", "created", "took", right=("records", "refused")
    )
    for job in found:
        state_text = f"{job.status} {job.outcome}" if job.outcome else job.status
        rows.add_row(
            job.id,
            job.kind + (" dry run" if job.data.get("dry_run") else ""),
            job.resource,
            state_text,
            count(job.total_records),
            count(job.failed) if job.kind == "import" else "",
            local_time(job.data["created_at"]),
            seconds_between(job.data["started_at"], job.data["finished_at"]),
        )
    session.out.print(rows if found else Text("No jobs."))


@click.command()
@click.argument("id", default=state.LAST)
@common
def show(session: Session, id: str) -> None:
    """Show a job."""
    report.show(session, session.client.get(state.resolve(session.client.url, id)))


@click.command()
@click.argument("id", default=state.LAST)
@click.option("--allow-refused", is_flag=True, help="Exit with 0 even when records were refused.")
@common
def watch(session: Session, id: str, allow_refused: bool) -> None:
    """Follow a job until it is done; the exit code is that of `bulk import`."""
    job = session.client.get(state.resolve(session.client.url, id))
    if session.is_json:
        for event in session.client.watch(job):
            session.print_json({"event": event.name, "job": event.job.data})
            job = event.job
        code = failure.FAILED if job.status != "completed" else failure.TAKEN
        if code == failure.TAKEN and job.failed and not allow_refused:
            code = failure.REFUSED_RECORDS
    else:
        code = report.finished(session, waiting.final(session, job), allows_refused=allow_refused)
    if code:
        raise failure.Ended(code)


@click.command()
@click.argument("id", default=state.LAST)
@waiting.options
@common
def retry(session: Session, id: str, **following: bool) -> None:
    """Import the refused and unprocessed records again, as they were sent."""
    id = state.resolve(session.client.url, id, "import")
    waiting.follow(session, session.client.retry(id), **following)


@click.command()
@click.argument("id", default=state.LAST)
@waiting.options
@common
def commit(session: Session, id: str, **following: bool) -> None:
    """Store the records of a dry run, without sending them again."""
    id = state.resolve(session.client.url, id, "import")
    waiting.follow(session, session.client.commit(id), **following)


@click.command()
@click.argument("id", default=state.LAST)
@common
def cancel(session: Session, id: str) -> None:
    """Cancel a job; records that an import has stored remain."""
    job = session.client.cancel(state.resolve(session.client.url, id))
    if session.is_json:
        session.print_json(job.data)
    else:
        session.say(f"{job.kind} {job.id}: {job.status}")


@click.command()
@click.argument("id", default=state.LAST)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common
def delete(session: Session, id: str, yes: bool) -> None:
    """Delete a final job with its errors and its file; imported records remain."""
    job = session.client.get(state.resolve(session.client.url, id))
    if not yes and session.err.is_terminal:
        what = f"{count(job.total_records)} {job.resource}" if job.total_records is not None else job.resource
        click.confirm(f"Remove the {job.kind} {job.id} of {what}?", abort=True, err=True)
    session.client.delete(job)
    session.say(f"{job.kind} {job.id} removed")


def _newest_first(lists: list[Iterator[Job]]) -> Iterator[Job]:
    return heapq.merge(*lists, key=lambda job: job.data["created_at"], reverse=True)
