"""Follows a job until it is final, by its server-sent events or by polling."""

import time
from collections.abc import Iterator

import httpx

from api.client import sse
from api.client.errors import WaitTimeout
from api.client.jobs import Event, Job
from api.client.transport import Transport, backoff

# a connection without an event or a comment for this long counts as broken
EVENT_SECONDS = 45.0
EVENT_FAILURES_MAX = 2
POLL_SECONDS_MIN = 0.05
POLL_SECONDS_MAX = 1.0


def watch(transport: Transport, job: Job) -> Iterator[Event]:
    """The job's events until it is final. Polls after EVENT_FAILURES_MAX connections in a row without an event."""
    failures = 0
    while failures < EVENT_FAILURES_MAX:
        try:
            for event in _events(transport, job):
                failures = 0
                yield event
                if event.name == "done":
                    return
        except httpx.TransportError:
            pass
        failures += 1
        time.sleep(backoff(failures))
    while True:
        job = _current(transport, job)
        yield Event("done" if job.is_final else "progress", job)
        if job.is_final:
            return
        time.sleep(POLL_SECONDS_MAX)


def wait(transport: Transport, job: Job, *, seconds: float | None) -> Job:
    """Polls until the job is final. Raises `WaitTimeout` after `seconds`."""
    deadline = None if seconds is None else time.monotonic() + seconds
    pause = POLL_SECONDS_MIN
    while not job.is_final:
        if deadline is not None and time.monotonic() + pause > deadline:
            raise WaitTimeout(job.id, seconds or 0)
        time.sleep(pause)
        pause = min(pause * 1.5, POLL_SECONDS_MAX)
        job = _current(transport, job)
    return job


def undone(transport: Transport, job: Job) -> Job:
    """Polls until the undo of an import is finished."""
    while job.data["undo"]["status"] == "running":
        time.sleep(POLL_SECONDS_MAX)
        job = _current(transport, job)
    return job


def _events(transport: Transport, job: Job) -> Iterator[Event]:
    """The events of one connection."""
    with transport.stream("GET", job.data["links"]["events"], read_seconds=EVENT_SECONDS) as response:
        for message in sse.messages(response.iter_raw()):
            yield Event(message.name, Job(message.data))


def _current(transport: Transport, job: Job) -> Job:
    return Job(transport.json("GET", job.path)[0])
