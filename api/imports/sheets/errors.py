"""Why a file is refused."""

from typing import Literal

Kind = Literal["unreadable", "sheet", "too_large"]


class Refused(Exception):
    """The file as a whole cannot be read. `unreadable`: the message continues "The file cannot be read: "."""

    def __init__(self, message: str, kind: Kind = "unreadable") -> None:
        super().__init__(message)
        self.message = message
        self.kind: Kind = kind
