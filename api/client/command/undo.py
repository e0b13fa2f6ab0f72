"""`bulk undo`: remove the rows that an import created."""

import sys

import rich_click as click

from api.client.command import state
from api.client.command.session import Session, common
from api.client.command.wording import count


@click.command()
@click.argument("id", default=state.LAST)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--kept", "only_kept", is_flag=True, help="Only list the rows that the undo has kept, as CSV.")
@common
def undo(session: Session, id: str, yes: bool, only_kept: bool) -> None:
    """Remove the rows that an import with --undoable created.

    Rows that were changed since, or that others refer to, are kept and listed on stdout: line, record, id, reason. Rows that the
    import updated are not put back. A repeated command tries again to remove the rows that others referred to.
    """
    id = state.resolve(session.client.url, id, "import")
    if only_kept:
        _list(session, id)
        return
    job = session.client.get(id, kind="import")
    if not yes and session.err.is_terminal:
        created = count(job.counts["created"])
        click.confirm(f"Remove the {created} {job.resource} that the import {job.id} created?", abort=True, err=True)
    job = session.client.undo(id)
    if session.is_json:
        session.print_json(job.data)
        return
    result = job.data["undo"]
    kept = result["kept"]
    session.say(
        f"{count(result['removed'])} removed, {count(kept['changed'])} kept because they were changed, "
        f"{count(kept['referred_to'])} because others refer to them, {count(result['missing'])} were missing"
    )
    if any(kept.values()):
        _list(session, id)


def _list(session: Session, id: str) -> None:
    for block in session.client.kept(id, "ndjson" if session.is_json else "csv"):
        sys.stdout.buffer.write(block)
