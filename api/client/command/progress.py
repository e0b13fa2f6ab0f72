"""Progress on stderr: a bar on a terminal, else a plain line every ten seconds."""

import time
from types import TracebackType
from typing import Any, Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from api.client.command.session import Session
from api.client.command.wording import bytes_text, count
from api.client.jobs import Job

LINE_SECONDS = 10.0


class Reporter:
    """Shows transferred bytes, then a job's records. Use it in a `with` statement, which erases the bar at its end."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._is_live = session.err.is_terminal and not session.err.is_dumb_terminal and not session.is_quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._line_at = time.monotonic() + LINE_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: object, _traceback: TracebackType | None) -> None:
        self._stop()

    def bytes(self, label: str, done: int, total: int | None) -> None:
        """Shows that `done` of `total` bytes are sent or received."""
        if self._is_live:
            self._show(
                label, done, total, (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True)), ""
            )
        elif self._is_due():
            self._session.say(f"{label} {bytes_text(done)}" + (f" of {bytes_text(total)}" if total else ""))

    def job(self, job: Job) -> None:
        """Shows a job's progress."""
        progress = job.data.get("progress") or {}
        done = job.data.get("processed_records", job.data.get("exported_records")) or 0
        rate, eta = progress.get("records_per_second"), progress.get("eta_seconds")
        parts = [f"{count(done)} of {count(job.total_records)} records" if job.total_records else "waiting"]
        parts += [f"{count(round(rate))}/s"] if rate else []
        parts += [f"{count(job.failed)} refused"] if job.failed else []
        parts += [f"{eta:.0f} s left"] if eta else []
        text = ", ".join(parts)
        if self._is_live:
            self._show(f"{job.kind} {job.status}", progress.get("percent") or 0, 100, (), text)
        elif self._is_due():
            self._session.say(f"{job.kind} {job.id} {job.status}: {text}")

    def _show(self, label: str, done: float, total: float | None, columns: tuple[Any, ...], text: str) -> None:
        if self._bar is None or self._bar.tasks[0].description != label:
            self._stop()
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                *columns,
                TextColumn("{task.fields[text]}", markup=False),
                console=self._session.err,
                transient=True,
            )
            self._task = self._bar.add_task(label, total=total, text=text)
            self._bar.start()
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, text=text)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._line_at:
            return False
        self._line_at = now + LINE_SECONDS
        return True
