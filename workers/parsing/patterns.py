"""Matches the patterns of a resource's fields in all records of a chunk at once.

A match in the joined values takes half of the time that msgspec takes to match one value after the other. The readers decode into
structs without these patterns.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from db.resources.definition import Resource


class Patterns:
    """The patterns of a resource that are anchored at both ends, none of which may match a line end.

    `hints` has the types of the fields without them.
    """

    def __init__(self, resource: Resource) -> None:
        hints = get_type_hints(resource.record, include_extras=True)
        self.hints = {name: _without_pattern(hint) for name, hint in hints.items()}
        self._lines = {
            name: re.compile(f"(?:(?:{pattern})\n)*+")
            for name, hint in hints.items()
            for pattern in whole_patterns(hint)
        }

    def unmatched(self, records: Sequence[Any]) -> set[int]:
        """The indexes of the records with a value that its pattern does not match. Records may be None, and values too."""
        found: set[int] = set()
        for name, lines in self._lines.items():
            values = map(attrgetter(name), filter(None, records))
            if places := _unmatched(lines, [value for value in values if value is not None]):
                indexes = [i for i, record in enumerate(records) if record and getattr(record, name) is not None]
                found.update(map(indexes.__getitem__, places))
        return found


@cache
def patterns_of(resource: Resource) -> Patterns:
    return Patterns(resource)


def _unmatched(lines: re.Pattern[str], values: list[str]) -> list[int]:
    """The places of the values that are not one line of `lines`."""
    text = "\n".join([*values, ""])
    if text.count("\n") == len(values) and lines.fullmatch(text):
        return []
    return [place for place, value in enumerate(values) if "\n" in value or not lines.fullmatch(f"{value}\n")]


def whole_patterns(hint: Any) -> Iterator[str]:
    """The pattern of a value of this type, if it is anchored at both ends, without the anchors."""
    for part in get_args(hint):
        if isinstance(part, msgspec.Meta):
            if part.pattern and part.pattern.startswith("^") and part.pattern.endswith(r"\Z"):
                yield part.pattern.removeprefix("^").removesuffix(r"\Z")
        elif get_origin(hint) is not list:
            yield from whole_patterns(part)


def _without_pattern(hint: Any) -> Any:
    """The type without the pattern that `whole_patterns` returns."""
    if next(whole_patterns(hint), None) is None:
        return hint
    if get_origin(hint) is not Annotated:
        return Union[*map(_without_pattern, get_args(hint))]
    kind, *metas = get_args(hint)
    return Annotated[kind, *(msgspec.Meta(min_length=meta.min_length, max_length=meta.max_length) for meta in metas)]
