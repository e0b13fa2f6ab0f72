"""Commands about the service: its resources, its health, its pages."""

import sys
import webbrowser
from typing import Any

import rich_click as click
from rich.text import Text

from api.client.command import failure, report, state
from api.client.command.session import Session, common


@click.command()
@click.argument("name", required=False)
@click.option("--template", is_flag=True, help="A header and one example record, on stdout.")
@click.option("--format", type=click.Choice(("csv", "ndjson")), default="csv", help="Of the template.")
@common
def resources(session: Session, name: str | None, template: bool, format: Any) -> None:
    """List the resources, or the fields of one and their rules."""
    if template:
        if name is None:
            raise failure.Usage("Of which resource?", "bulk resources users --template")
        sys.stdout.buffer.write(session.client.template(name, format))
        return
    found = session.client.resources() if name is None else [session.client.resource(name)]
    if session.is_json:
        session.print_json(found if name is None else found[0])
        return
    for resource in found:
        rows = report.table("field", "type", "", "rules")
        for field in resource["fields"]:
            is_required = "required" if field.get("required") else ""
            rows.add_row(Text(field["name"]), Text(_type(field)), is_required, Text(field.get("description") or ""))
        session.out.print(Text(resource["name"], style="bold"))
        session.out.print(rows)


@click.command()
@common
def status(session: Session) -> None:
    """Show whether the service is ready, and if not why."""
    health = session.client.health()
    if session.is_json:
        session.print_json(health)
    else:
        rows = report.table("check", "state")
        for name, check in (health.get("checks") or {}).items():
            detail = check.get("detail") or check.get("reason") or ""
            rows.add_row(Text(name), Text(f"{check.get('status', '')} {detail}".strip()))
        session.out.print(f"{session.client.url} is {health.get('status')}", markup=False)
        session.out.print(rows)
    if health.get("status") != "ready":
        raise failure.Ended(failure.FAILED)


@click.command("open")
@click.argument("id", required=False)
@common
def open_(session: Session, id: str | None) -> None:
    """Open the service's pages, or a job's page, in the browser."""
    address = session.client.url + "/"
    if id is not None:
        job = session.client.get(state.resolve(session.client.url, id))
        address = f"{session.client.url}/ui/{job.kind}s/{job.id}"
    if not session.err.is_terminal or not webbrowser.open(address):
        session.out.print(address, markup=False)


def _type(field: dict[str, Any]) -> str:
    if enum := field.get("enum"):
        return " | ".join(map(str, enum))
    return str(field.get("type", ""))
