"""Exit codes of the command, and the message for each failure."""

from api.client import errors

TAKEN = 0
FAILED = 1
USAGE = 2
REFUSED_RECORDS = 3
KEY = 4
STILL_RUNNING = 5
INTERRUPTED = 130


class Usage(Exception):
    """The command line is invalid; `suggestion` is what to type instead."""

    def __init__(self, sentence: str, suggestion: str | None) -> None:
        super().__init__(sentence)
        self.suggestion = suggestion


class Ended(Exception):
    """The command exits with `code`. All output was printed."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def code_of(error: errors.BulkError) -> int:
    """The exit code for a failed request."""
    if isinstance(error, errors.Forbidden) and error.type == "source-not-allowed":
        return USAGE
    if isinstance(error, errors.Unauthorized | errors.Forbidden):
        return KEY
    if isinstance(error, errors.InvalidRequest | errors.NotFound):
        return USAGE
    if isinstance(error, errors.WaitTimeout):
        return STILL_RUNNING
    return FAILED


def suggestion_for(error: errors.BulkError) -> str | None:
    """What to do about it, as one line; None if the message says it."""
    if isinstance(error, errors.Unauthorized):
        return "set BULK_API_KEY, or store the key with `bulk profile add NAME --url URL`"
    if isinstance(error, errors.Disconnected):
        return "start the service, or say where it is with --url or BULK_URL"
    if isinstance(error, errors.WaitTimeout):
        return f"bulk watch {error.job_id}"
    return None
