"""Waiting for a job: with progress, a time limit, and Ctrl-C, which leaves the job running."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click

from api.client import Job, WaitTimeout
from api.client.command import failure, report, state
from api.client.command.progress import Reporter
from api.client.command.session import Session
from api.client.command.wording import Duration

F = TypeVar("F", bound=Callable[..., Any])


def options(function: F) -> F:
    """Adds the options of commands that start a job."""
    for decorate in (
        click.option("--detach", is_flag=True, help="Do not wait: print the id and return."),
        click.option("--wait", "wait_seconds", type=Duration(), metavar="TIME", help="Wait at most TIME: 90s, 10m."),
        click.option("--allow-refused", is_flag=True, help="Exit with 0 even when records were refused."),
        click.option("--cancel-on-interrupt", is_flag=True, help="Ctrl-C cancels the job too."),
    ):
        function = decorate(function)
    return function


def follow(
    session: Session,
    job: Job,
    *,
    detach: bool = False,
    wait_seconds: float | None = None,
    allow_refused: bool = False,
    cancel_on_interrupt: bool = False,
) -> Job:
    """Waits for the job and prints its result. Raises `Ended` unless all records were accepted."""
    started(session, job)
    if detach:
        if session.is_json:
            session.print_json(job.data)
        else:
            session.out.print(job.id)
        raise failure.Ended(failure.TAKEN)
    job = final(session, job, wait_seconds=wait_seconds, cancel_on_interrupt=cancel_on_interrupt)
    code = report.finished(session, job, allows_refused=allow_refused)
    if code:
        raise failure.Ended(code)
    return job


def started(session: Session, job: Job) -> None:
    """Stores the id of a job, and prints a message if it is the job of an earlier call."""
    state.remember(session.client.url, job)
    if job.is_replayed and job.kind == "import":
        session.say(
            f"The same file was imported before, as {job.id}; nothing is imported again."
            " Add --key-for-retry new to import it once more."
        )


def final(session: Session, job: Job, *, wait_seconds: float | None = None, cancel_on_interrupt: bool = False) -> Job:
    """Waits until the job is final and shows its progress."""
    deadline = None if wait_seconds is None else time.monotonic() + wait_seconds
    try:
        with Reporter(session) as reporter:
            if job.is_final:
                return session.client.get(job.id, kind=job.kind)
            if deadline is not None:
                return _until(session, job, deadline, wait_seconds or 0, reporter)
            for event in session.client.watch(job):
                job = event.job
                reporter.job(job)
            return job
    except KeyboardInterrupt:
        if cancel_on_interrupt:
            session.client.cancel(job)
            session.err.print(f"{job.kind} {job.id} cancelled", markup=False)
        else:
            session.err.print(f"The {job.kind} {job.id} goes on. To follow it: bulk watch {job.id}", markup=False)
        raise failure.Ended(failure.INTERRUPTED) from None


def _until(session: Session, job: Job, deadline: float, seconds: float, reporter: Reporter) -> Job:
    """Waits until the job is final. Raises `WaitTimeout` after the deadline."""
    while True:
        remaining = deadline - time.monotonic()
        try:
            return session.client.wait(job, seconds=min(1.0, max(0.0, remaining)))
        except WaitTimeout:
            job = session.client.get(job.id, kind=job.kind)
            reporter.job(job)
            if job.is_final:
                return job
            if time.monotonic() >= deadline:
                raise WaitTimeout(job.id, seconds) from None
