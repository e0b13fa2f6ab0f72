"""Parameters of a request in the syntax of the API."""

import json
from collections.abc import Mapping


def query(parameters: Mapping[str, object]) -> dict[str, str]:
    """The parameters as text, without those that are None."""
    return {name: _text(value) for name, value in parameters.items() if value is not None}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value)
