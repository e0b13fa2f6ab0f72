"""The ids of the last jobs of this user, by service, in `$XDG_STATE_HOME/bulk/last.json`."""

import json
from contextlib import suppress

from api.client.command.failure import Usage
from api.client.command.profiles import folder
from api.client.jobs import Job, Kind

LAST = "last"


def remember(url: str, job: Job) -> None:
    """Stores the id of a job. If the folder is not writable, only `last` does not work."""
    file = folder("XDG_STATE_HOME", ".local/state") / "last.json"
    known = _read()
    known[url] = known.get(url, {}) | {job.kind: job.id, "any": job.id}
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = file.with_suffix(".new")
        scratch.write_text(json.dumps(known))
        scratch.replace(file)


def resolve(url: str, job_id: str, kind: Kind | None = None) -> str:
    """The id for `last`; any other id unchanged. Raises `Usage` if no job was started by this user."""
    if job_id != LAST:
        return job_id
    found = _read().get(url, {}).get(kind or "any")
    if found is None:
        raise Usage(f"No {kind or 'job'} was started from here at {url}.", "bulk jobs")
    return found


def _read() -> dict[str, dict[str, str]]:
    file = folder("XDG_STATE_HOME", ".local/state") / "last.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
