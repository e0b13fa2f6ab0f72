"""`bulk profile`: services by name."""

import sys
from typing import Any

import rich_click as click

from api.client.command import profiles
from api.client.command.failure import Usage


@click.group()
def profile() -> None:
    """Manage services and keys by name, in a file that only you can read."""


@profile.command()
@click.argument("name")
@click.option("--url", required=True, metavar="URL", help="The service's address.")
@click.option("--key-command", metavar="COMMAND", help="A command that prints the key, such as 'pass show bulk'.")
@click.option("--key-stdin", is_flag=True, help="Read the key from stdin.")
def add(name: str, url: str, key_command: str | None, key_stdin: bool) -> None:
    """Add or replace a profile. The key is read from the terminal; it is never an argument."""
    entry: dict[str, Any] = {"url": url}
    if key_command:
        entry["key_command"] = key_command
    elif key_stdin:
        entry["api_key"] = sys.stdin.readline().strip()
    elif sys.stdin.isatty():
        entry["api_key"] = click.prompt(
            "Key (empty for none)", default="", hide_input=True, show_default=False, err=True
        )
    if not entry.get("api_key"):
        entry.pop("api_key", None)
    config = profiles.read()
    config.setdefault("profiles", {})[name] = entry
    config.setdefault("default", name)
    profiles.write(config)
    click.echo(f"profile {name} is in {profiles.path()}", err=True)


@profile.command("list")
def list_() -> None:
    """List the profiles; * marks the default."""
    config = profiles.read()
    for name, entry in config.get("profiles", {}).items():
        mark = "*" if config.get("default") == name else " "
        click.echo(f"{mark} {name}\t{entry.get('url', '')}")


@profile.command()
@click.argument("name")
def use(name: str) -> None:
    """Make a profile the default."""
    config = profiles.read()
    if name not in config.get("profiles", {}):
        raise Usage(f"There is no profile {name!r}.", "bulk profile list")
    config["default"] = name
    profiles.write(config)


@profile.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove a profile."""
    config = profiles.read()
    if config.get("profiles", {}).pop(name, None) is None:
        raise Usage(f"There is no profile {name!r}.", "bulk profile list")
    if config.get("default") == name:
        del config["default"]
    profiles.write(config)
