"""`bulk fix`: opens the refused records in an editor and sends them back, until none is refused or none was changed."""

import hashlib
import tempfile
from pathlib import Path

import rich_click as click

from api.client import Job
from api.client.command import failure, report, state, waiting
from api.client.command.failure import Usage
from api.client.command.session import Session, common
from api.client.command.wording import bytes_text, records

EDITED_BYTES_MAX = 20_000_000
ENDINGS = {"csv": ".csv", "ndjson": ".ndjson", "json": ".json"}


@click.command()
@click.argument("id", default=state.LAST)
@common
def fix(session: Session, id: str) -> None:
    """Correct the refused records of an import in $EDITOR, and send them back.

    Records that are refused again open again. Leave the file unchanged, or empty it, to stop. The lines are always those of the
    first file, and no record is stored twice: records that were repaired before do not open.
    """
    job = session.client.get(state.resolve(session.client.url, id, "import"), kind="import")
    if not job.is_final:
        raise Usage(f"The import {job.id} is still {job.status}.", f"bulk watch {job.id}")
    if not job.failed:
        session.say("No record was refused; there is nothing to correct.")
        return
    while job.failed:
        remaining = session.client.refused_count(job.id, unrepaired=True)
        if not remaining:
            session.say("Repairs have all refused records. bulk jobs lists them; bulk fix ID continues one.")
            return
        repaired = _round(session, job, remaining)
        if repaired is None:
            session.say(f"Nothing was changed. {records(remaining)} stay refused; bulk fix {job.id} continues.")
            raise failure.Ended(failure.REFUSED_RECORDS)
        job = repaired
        code = report.finished(session, job, allows_refused=True)
        if code:
            raise failure.Ended(code)
    session.say("Every record was accepted.")


def _round(session: Session, job: Job, remaining: int) -> Job | None:
    """One round of editing: the final repair, or None when nothing was changed."""
    with tempfile.TemporaryDirectory(prefix="bulk-fix-") as folder:
        file = Path(folder) / f"refused{ENDINGS[job.data['format']]}"
        session.client.refused_to(job.id, file, annotate=True, unrepaired=True)
        if file.stat().st_size > EDITED_BYTES_MAX:
            _hand_over(session, job, file)
        before = _digest(file)
        session.say(f"Refused: {records(remaining)}; correct them and save.")
        click.edit(filename=str(file))
        if _digest(file) == before or not file.read_bytes().strip():
            return None
        sent = session.client.repair(job, file)
    waiting.started(session, sent)
    return waiting.final(session, sent)


def _hand_over(session: Session, job: Job, file: Path) -> None:
    """Saves a file that is too large for an editor in the working folder."""
    target = Path.cwd() / f"refused-{job.id}{file.suffix}"
    target.write_bytes(file.read_bytes())
    session.say(
        f"The refused records are {bytes_text(target.stat().st_size)}, too much for an editor. They are in {target.name}.\n"
        f"Correct them there, then: bulk import {target.name} --repairs {job.id}"
    )
    raise failure.Ended(failure.REFUSED_RECORDS)


def _digest(file: Path) -> bytes:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()
