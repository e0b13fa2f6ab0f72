"""Parameters from a query, a form or a JSON object become a struct, or one 400 that names everything that is wrong."""

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from api.http.problems import Fault, Problem

S = TypeVar("S", bound=msgspec.Struct)


class NoParameters(msgspec.Struct):
    """For what takes none: any that is given is refused."""


# more than any address takes, and few enough to be complained of one by one
PARAMETERS_MAX = 100

_BOUND = re.compile(r"Expected `\w+` ((?:of length )?[<>]=? .+)")

_EXPECTED: dict[type[inspect.Type], str] = {
    inspect.BoolType: "must be true or false",
    inspect.IntType: "must be a whole number",
    inspect.FloatType: "must be a number",
    inspect.UUIDType: "must be a UUID",
    inspect.DateTimeType: "must be a time with its zone, as in 2026-01-31T12:00:00Z",
    inspect.StrType: "must be text",
}


def parse(given: Iterable[tuple[str, Any]], into: type[S]) -> S:
    """The parameters `given`, in the order they came, as the struct `into`.

    Values may be text (query, form) or JSON. Raises `Problem` invalid-request, with a fault for each parameter that is
    unknown, missing, repeated or has a wrong value. A check of the whole struct belongs in its `__post_init__`, as a ValueError.
    """
    values: dict[str, Any] = {}
    repeated: list[str] = []
    for count, (name, value) in enumerate(given):
        if count == PARAMETERS_MAX:
            raise Problem("invalid-request", f"There are more than {PARAMETERS_MAX} parameters.")
        if name in values:
            repeated.append(name)
        values[name] = value
    faults = _faults(values, repeated, into)
    if faults:
        raise Problem("invalid-request", _sentence(faults), errors=faults)
    try:
        return msgspec.convert(values, into, strict=False)
    except msgspec.ValidationError as error:
        faults = [Fault(None, "invalid_value", str(error))]
        raise Problem("invalid-request", _sentence(faults), errors=faults) from None


def _faults(values: dict[str, Any], repeated: list[str], into: type[msgspec.Struct]) -> list[Fault]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(into)}
    faults = [Fault(name, "repeated_parameter", "is given more than once") for name in dict.fromkeys(repeated)]
    faults += [Fault(name, "unknown_parameter", "is not a parameter here") for name in values if name not in fields]
    for name, field in fields.items():
        if name not in values:
            if field.required:
                faults.append(Fault(name, "missing", "is required"))
        elif message := _refusal(values[name], field.type):
            faults.append(Fault(name, "invalid_value", message))
    return faults


def _refusal(value: Any, of_type: Any) -> str | None:
    """Why `value` is not `of_type`, in words of a client, who knows nothing of Python; None when it is."""
    try:
        # msgspec reads the word null as None, and a wrong value would be passed by as if it had not been given
        if msgspec.convert(value, of_type, strict=False) is not None or value is None:
            return None
        complaint = "must not be null"
    except msgspec.ValidationError as error:
        complaint = str(error)
    wanted = _bare(inspect.type_info(of_type))
    if isinstance(wanted, inspect.LiteralType):
        return f"must be one of: {', '.join(str(one) for one in wanted.values)}"
    expected = _EXPECTED.get(type(wanted), complaint)
    # msgspec says: Expected `int` >= 1
    bound = _BOUND.fullmatch(complaint)
    return f"{expected} {bound[1]}" if bound else expected


def _bare(type: inspect.Type) -> inspect.Type:
    """The type within descriptions and within "or nothing"."""
    while True:
        if isinstance(type, inspect.Metadata):
            type = type.type
        elif isinstance(type, inspect.UnionType):
            type = next(one for one in type.types if not isinstance(one, inspect.NoneType))
        else:
            return type


def _sentence(faults: list[Fault]) -> str:
    return "; ".join(f"{fault.field} {fault.message}" if fault.field else fault.message for fault in faults)
