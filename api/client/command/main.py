"""The command `bulk`: its subcommands and its exit."""

import json
import os
import sys

import rich_click as click

from api.client.command import exports, failure, fix, imports, jobs, profile, service, undo
from api.client.command.failure import Ended, Usage, code_of, suggestion_for
from api.client.errors import BulkError, ProblemError

SHELLS = ("bash", "zsh", "fish")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def bulk() -> None:
    """Import and export users, articles and comments, and correct refused records.

    Exit codes: 0 no record was refused, 1 failed, 2 invalid command line, 3 records were refused, 4 missing or wrong key, 5 still
    running after --wait, 130 interrupted.
    """


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script: `eval "$(bulk completion bash)"` in the shell's start file."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(bulk, {}, "bulk", "_BULK_COMPLETE").source())


for command in (
    imports.import_,
    jobs.watch,
    jobs.jobs,
    jobs.show,
    imports.errors,
    imports.refused,
    imports.results,
    fix.fix,
    jobs.retry,
    jobs.commit,
    undo.undo,
    jobs.cancel,
    jobs.delete,
    exports.export,
    service.resources,
    service.status,
    service.open_,
    profile.profile,
    completion,
):
    bulk.add_command(command)


def main() -> None:
    """Runs the command and exits with its code."""
    sys.exit(_run())


def _run() -> int:
    try:
        result = bulk.main(prog_name="bulk", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else failure.TAKEN
    except Ended as end:
        return end.code
    except Usage as error:
        return _say(str(error), error.suggestion, failure.USAGE)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "bulk"
        return _say(error.format_message(), f"{command} --help", failure.USAGE)
    except click.ClickException as error:
        return _say(error.format_message(), None, failure.FAILED)
    except BulkError as error:
        if isinstance(error, ProblemError) and "--json" in sys.argv:
            sys.stdout.write(json.dumps(error.document, ensure_ascii=False) + "\n")
        return _say(str(error), suggestion_for(error), code_of(error))
    except (KeyboardInterrupt, click.Abort):
        return failure.INTERRUPTED
    except BrokenPipeError:
        # the reader has closed the pipe; flushing the buffer at exit must not raise again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failure.TAKEN
    except OSError as error:
        return _say(f"{error.filename or 'output'}: {error.strerror}", None, failure.FAILED)


def _say(sentence: str, suggestion: str | None, code: int) -> int:
    print(f"bulk: {sentence}", file=sys.stderr)  # noqa: T201  output of the command
    if suggestion:
        print(f"      try: {suggestion}", file=sys.stderr)  # noqa: T201
    return code
