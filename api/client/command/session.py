"""The client, the output and the options that all subcommands share."""

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import rich_click as click
from rich.console import Console

from api.client import Client
from api.client.command import profiles

# the width of tables in a file or a pipe; a terminal has its own
WIDTH = 160

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Session:
    """One call of the command. Data goes to stdout (`out`), messages and progress go to stderr (`err`)."""

    client: Client
    is_json: bool
    is_quiet: bool
    out: Console
    err: Console

    def say(self, text: str) -> None:
        """Prints a message to stderr, unless --quiet is given."""
        if not self.is_quiet:
            self.err.print(text, markup=False, highlight=False, soft_wrap=True)

    def print_json(self, document: Any) -> None:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def common(function: F) -> F:
    """Adds the options that all subcommands have, and passes a `Session` first."""

    @functools.wraps(function)
    def call(*arguments: Any, url: str | None, profile: str | None, as_json: bool, quiet: bool, **options: Any) -> Any:
        target = profiles.target(url=url, profile=profile)
        err = Console(stderr=True, highlight=False)
        out = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)

        def on_retry(sentence: str) -> None:
            if not quiet:
                err.print(sentence, markup=False, style="yellow", soft_wrap=True)

        with Client(target.url, api_key=target.api_key, on_retry=on_retry) as client:
            return function(Session(client, as_json, quiet, out, err), *arguments, **options)

    decorators = (
        click.option("--url", metavar="URL", help="The service's address; else BULK_URL, else the profile's."),
        click.option("--profile", metavar="NAME", help="A profile of the configuration; else BULK_PROFILE."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, as the service answers it."),
        click.option("-q", "--quiet", is_flag=True, help="No progress and no messages, only failures."),
    )
    for decorate in reversed(decorators):
        call = decorate(call)
    return call  # pyright: ignore[reportReturnType]  # click's options replace the signature
